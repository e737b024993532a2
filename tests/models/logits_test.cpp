// Logits of tiny models of every family and odd configuration against transformers.
#include <gtest/gtest.h>

#include <cmath>

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

std::vector<std::string> names() {
  std::vector<std::string> list;
  for (const TinyCase& c : tiny_cases()) list.push_back(c.name);
  return list;
}
INSTANTIATE_TEST_SUITE_P(All, TinyModels, testing::ValuesIn(names()), [](const auto& info) { return info.param; });

}  // namespace
}  // namespace metal_candle::test
