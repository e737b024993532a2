// Passes that go on from kept keys and values: the bits of every token are those of one pass over everything.
#include <gtest/gtest.h>

#include "metal_candle/error.hpp"
#include "metal_candle/runtime.hpp"
#include "tests/support/tiny_models.h"

namespace metal_candle::test {
namespace {

using Ids = std::vector<std::int32_t>;

/// Sequences side by side in a cache, `capacity` rows each, fed by parts.
class Kept {
 public:
  Kept(const Model& model, std::int32_t sequences, std::int32_t capacity)
      : model_(model), capacity_(capacity), lengths_(static_cast<std::size_t>(sequences)) {
    const ModelConfig& c = model.config();
    for (int i = 0; i < c.layers; ++i) {
      const Shape shape{sequences * capacity, c.key_heads, c.head_width};
      cache_.keys.push_back(Tensor::full(shape, 1e9, model.dtype()));  // what is not kept must not show
      cache_.values.push_back(Tensor::full(shape, 1e9, model.dtype()));
    }
    Ids offsets;
    for (std::int32_t i = 0; i <= sequences; ++i) offsets.push_back(i * capacity);
    cache_.key_offsets = ints(offsets);
  }

  /// The logits [tokens, vocabulary] of the next tokens of each sequence, with `padding` meaningless ones at the end.
  Tensor feed(const std::vector<Ids>& parts, int padding = 0) {
    Ids ids, positions, offsets{0}, rows, lengths;
    for (std::size_t s = 0; s < parts.size(); ++s) {
      for (const std::int32_t id : parts[s]) {
        ids.push_back(id);
        positions.push_back(lengths_[s]);
        rows.push_back(static_cast<std::int32_t>(s) * capacity_ + lengths_[s]++);
      }
      offsets.push_back(static_cast<std::int32_t>(ids.size()));
      for (std::size_t i = 0; i < parts[s].size(); ++i) lengths.push_back(total_);
    }
    for (int i = 0; i < padding; ++i)
      ids.push_back(0), positions.push_back(0), rows.push_back(-1), lengths.push_back(1);
    cache_.rows = ints(rows);
    cache_.key_lengths = ints(lengths_);
    const Batch batch{ints(ids), ints(positions), ints(offsets), ints(lengths)};
    LazyTensor logits = model_.logits(model_.weights(), model_.hidden(model_.weights(), batch, cache_));
    std::vector<LazyTensor> roots{logits};
    roots.insert(roots.end(), cache_.keys.begin(), cache_.keys.end());
    roots.insert(roots.end(), cache_.values.begin(), cache_.values.end());
    eval(roots);
    return slice(logits, 0, 0, static_cast<std::int64_t>(ids.size()) - padding).eval();
  }
  /// What dynamic scaling takes for the length of every sequence.
  void set_total(std::int32_t total) { total_ = total; }

 private:
  const Model& model_;
  std::int32_t capacity_, total_ = 0;
  Ids lengths_;
  nn::KeyValues cache_;
};

std::vector<double> join(std::initializer_list<Tensor> parts) {
  std::vector<double> all;
  for (const Tensor& t : parts)
    for (const double v : t.to_f64()) all.push_back(v);
  return all;
}

Tensor whole(const Model& model, const Ids& ids) {
  return model.logits(model.weights(), model.hidden(model.weights(), sequence(ids))).eval();
}

class CachedPasses : public testing::TestWithParam<std::string> {};

TEST_P(CachedPasses, HaveTheBitsOfOnePass) {
  const Ids& ids = tiny_case(GetParam()).ids;
  for (const DType dtype : {DType::f32, DType::bf16}) {
    const Model model = tiny_model(GetParam(), dtype);
    Kept kept(model, 1, 16);
    kept.set_total(static_cast<std::int32_t>(ids.size()));
    const auto part = [&](std::size_t from, std::size_t to) {
      return std::vector<Ids>{
          Ids(ids.begin() + static_cast<std::ptrdiff_t>(from), ids.begin() + static_cast<std::ptrdiff_t>(to))};
    };
    const Tensor a = kept.feed(part(0, 5), 3), b = kept.feed(part(5, 6)), c = kept.feed(part(6, 7)),
                 d = kept.feed(part(7, ids.size()), 1);
    EXPECT_EQ(join({a, b, c, d}), whole(model, ids).to_f64()) << name(dtype);
  }
}

TEST_P(CachedPasses, SequencesSideBySideDoNotMeet) {
  const Ids& ids = tiny_case(GetParam()).ids;
  const Model model = tiny_model(GetParam());
  const Ids other(ids.rbegin(), ids.rend());
  const auto n = static_cast<std::int32_t>(ids.size());
  Kept together(model, 3, 16), first(model, 1, 16), third(model, 1, 16);
  together.set_total(n), first.set_total(n), third.set_total(n);
  const Ids a(ids.begin(), ids.begin() + 4), b(ids.begin() + 4, ids.begin() + 5), c(other.begin(), other.begin() + 7),
      d(other.begin() + 7, other.end());
  const Tensor one = together.feed({a, {}, c}), two = together.feed({b, {}, d}, 2);
  EXPECT_EQ(one.to_f64(), join({first.feed({a}), third.feed({c})}));
  EXPECT_EQ(two.to_f64(), join({first.feed({b}), third.feed({d})}));
}

INSTANTIATE_TEST_SUITE_P(All, CachedPasses, testing::ValuesIn(tiny_names()),
                         [](const auto& info) { return info.param; });

TEST(Cache, NeedsOffsetsAndItsLayers) {
  const Model model = tiny_model("llama");
  nn::KeyValues none{.rows = ints({0}), .key_offsets = ints({0, 4}), .key_lengths = ints({1})};
  EXPECT_THROW(model.hidden(model.weights(), sequence({1}), none), UserError);
  Batch batch = sequence({1});
  batch.offsets = ints({0, 1});
  EXPECT_THROW(model.hidden(model.weights(), batch, none), UserError);
}

}  // namespace
}  // namespace metal_candle::test
