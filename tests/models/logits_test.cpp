// Logits of tiny models of every family and odd configuration against transformers.
#include <gtest/gtest.h>

#include <cmath>

#include "metal_candle/autograd.hpp"
#include "metal_candle/runtime.hpp"
#include "tests/support/modes.h"
#include "tests/support/tiny_models.h"

namespace metal_candle::test {
namespace {

LazyTensor logits_of(const Model& model, const Batch& batch) {
  return model.logits(model.weights(), model.hidden(model.weights(), batch));
}

double largest_difference(const Tensor& got, const std::vector<std::vector<double>>& want) {
  const std::vector<double> values = got.to_f64();
  double worst = 0;
  std::size_t i = 0;
  for (const auto& row : want)
    for (const double v : row) worst = std::max(worst, std::abs(values.at(i++) - v));
  EXPECT_EQ(i, values.size());
  return worst;
}

class TinyModels : public testing::TestWithParam<std::string> {};

TEST_P(TinyModels, LogitsAreThoseOfTransformers) {
  const TinyCase& c = tiny_case(GetParam());
  const Model model = tiny_model(c.name);
  for (const Mode mode : kModes) {
    const ModeGuard guard(mode);
    EXPECT_LT(largest_difference(logits_of(model, sequence(c.ids)).eval(), c.logits), 1e-4) << mode_name(mode);
  }
}

TEST_P(TinyModels, HalfPrecisionIsNear) {
  const TinyCase& c = tiny_case(GetParam());
  const Model model = tiny_model(c.name, DType::bf16);
  EXPECT_EQ(model.dtype(), DType::bf16);
  const Tensor logits = logits_of(model, sequence(c.ids)).eval();
  EXPECT_EQ(logits.dtype(), DType::bf16);
  EXPECT_LT(largest_difference(logits, c.logits), 0.25);
}

// Two sequences and a bit packed into one batch: each row has the bits that it has alone.
TEST_P(TinyModels, PackedSequencesDoNotMeet) {
  const TinyCase& c = tiny_case(GetParam());
  const Model model = tiny_model(c.name);
  const std::vector<std::int32_t> half(c.ids.begin(), c.ids.begin() + 5);
  std::vector<std::int32_t> ids = half, positions = {0, 1, 2, 3, 4}, lengths(5, 5);
  for (std::size_t i = 0; i < c.ids.size(); ++i) {
    ids.push_back(c.ids[i]);
    positions.push_back(static_cast<std::int32_t>(i));
    lengths.push_back(static_cast<std::int32_t>(c.ids.size()));
  }
  const Batch packed{ints(ids), ints(positions), ints({0, 5, static_cast<std::int32_t>(ids.size())}), ints(lengths)};
  const auto together = logits_of(model, packed).eval().to_vector<float>();
  auto alone = logits_of(model, sequence(half)).eval().to_vector<float>();
  const auto second = logits_of(model, sequence(c.ids)).eval().to_vector<float>();
  alone.insert(alone.end(), second.begin(), second.end());
  EXPECT_EQ(together, alone);
}

// ---- cross_entropy ------------------------------------------------------------------------------------------------

/// Hidden rows, what follows each (the last: nobody knows), and a term on the head.
struct LossCase {
  Tensor hidden;
  LazyTensor targets;
  nn::LoraTerm term;

  LossCase(const Model& model, const std::vector<std::int32_t>& ids, double size) {
    hidden = model.hidden(model.weights(), sequence(ids)).eval();
    std::vector<std::int32_t> next(ids.begin() + 1, ids.end());
    next.push_back(-100);
    targets = ints(next);
    const ModelConfig& c = model.config();
    term = {(randn({2, c.hidden}, {.key = Key(11)}) * size).eval(), randn({c.vocabulary, 2}, {.key = Key(12)}).eval(),
            0.5};
  }
};

TEST_P(TinyModels, CrossEntropyIsThatOfTheLogits) {
  const TinyCase& c = tiny_case(GetParam());
  const Model model = tiny_model(c.name);
  const LossCase in(model, c.ids, 0.1);
  nn::Weights w = model.weights();
  for (const bool adapted : {false, true}) {
    if (adapted) w.adapt("lm_head", in.term).lora_dropout(0.4, Key(13));
    const LazyTensor loss = model.cross_entropy(w, in.hidden, in.targets);
    const LazyTensor want = cross_entropy(model.logits(w, in.hidden), in.targets);
    const std::vector<LazyTensor> varied = {in.hidden, in.term.a, in.term.b};
    std::vector<LazyTensor> got = grad(loss, varied), wanted = grad(want, varied);
    got.push_back(loss);
    wanted.push_back(want);
    for (std::size_t i = 0; i < got.size(); ++i) {
      const std::vector<double> a = got[i].eval().to_f64(), b = wanted[i].eval().to_f64();
      for (std::size_t j = 0; j < a.size(); ++j) ASSERT_NEAR(a[j], b[j], 2e-6) << adapted << ' ' << i << " at " << j;
    }
  }
  nn::Weights dry = w;
  dry.lora_dropout(0, Key(13));
  EXPECT_NE(model.cross_entropy(dry, in.hidden, in.targets).eval().item<float>(),
            model.cross_entropy(w, in.hidden, in.targets).eval().item<float>());
}

// What an adapter learns is smaller than the last digit of a 16-bit weight, so it must not be added to one.
TEST(CrossEntropy, AnAdapterCountsThatIsSmallerThanTheHeadsLastDigit) {
  const Model model = tiny_model("llama", DType::bf16);
  const LossCase in(model, tiny_case("llama").ids, 0.0005);
  const LazyTensor head = cast(model.weights()["lm_head.weight"], DType::f32), hidden = cast(in.hidden, DType::f32);
  const auto exact = [&](const LazyTensor& weight) {
    return linear_cross_entropy(hidden, transpose(weight), in.targets).eval().item<float>();
  };
  const double effect = exact(head + matmul(in.term.b, in.term.a) * 0.5f) - exact(head);
  nn::Weights w = model.weights();
  const float before = model.cross_entropy(w, in.hidden, in.targets).eval().item<float>();
  w.adapt("lm_head", in.term);
  const float after = model.cross_entropy(w, in.hidden, in.targets).eval().item<float>();
  ASSERT_GT(std::abs(effect), 1e-5);
  EXPECT_NEAR(after - before, effect, 0.05 * std::abs(effect));
}

INSTANTIATE_TEST_SUITE_P(All, TinyModels, testing::ValuesIn(tiny_names()), [](const auto& info) { return info.param; });

}  // namespace
}  // namespace metal_candle::test
