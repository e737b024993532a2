// Gradient graphs evaluated as plans, against the reference evaluator: what plans do to backward passes changes
// nothing.
#include <gtest/gtest.h>

#include <cmath>

#include "metal_candle/ops.hpp"
#include "metal_candle/tensor.hpp"
#include "ops/table.h"
#include "tests/autograd/gradcheck.h"
#include "tests/support/reference.h"
#include "tests/support/samples.h"

namespace metal_candle {
namespace {

class EveryGradient : public testing::TestWithParam<const OpDef*> {};

TEST_P(EveryGradient, EvaluatesToWhatTheReferenceSays) {
  const OpDef& op = *GetParam();
  int number = 0;
  for (const test::Sample& s : test::samples_of(op, DType::f64)) {
    for (const LazyTensor& g : test::gradient_of(test::call_of(op, s.attrs))(s.inputs)) {
      const std::vector<double> expected = test::reference(g);
      const std::vector<double> actual = g.eval().to_f64();
      ASSERT_EQ(actual.size(), expected.size());
      for (std::size_t i = 0; i < actual.size(); ++i)
        ASSERT_NEAR(actual[i], expected[i], 1e-10 * (1 + std::abs(expected[i])))
            << op.name << ", sample " << number << ", element " << i;
    }
    ++number;
  }
}

INSTANTIATE_TEST_SUITE_P(Table, EveryGradient, testing::ValuesIn(test::differentiable()),
                         [](const auto& info) { return std::string(info.param->name); });

}  // namespace
}  // namespace metal_candle
