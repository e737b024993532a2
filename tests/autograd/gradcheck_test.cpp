// Every gradient of the op table against finite differences, on the op's own samples; and gradients of gradients.
#include <gtest/gtest.h>

#include "metal_candle/autograd.hpp"
#include "metal_candle/ops.hpp"
#include "ops/table.h"
#include "tests/autograd/gradcheck.h"
#include "tests/support/samples.h"

namespace metal_candle {
namespace {

using test::call_of;
using test::check_gradients;
using test::Function;
using test::gradient_of;

class EveryOp : public testing::TestWithParam<const OpDef*> {};

TEST_P(EveryOp, HasTheGradientThatFiniteDifferencesShow) {
  const OpDef& op = *GetParam();
  int number = 0;
  for (const test::Sample& s : test::samples_of(op, DType::f64)) {
    check_gradients(call_of(op, s.attrs), s.inputs, std::string(op.name) + ", sample " + std::to_string(number++));
  }
}

// The same through the decomposition, where an op has both.
TEST_P(EveryOp, HasTheGradientOfItsDecomposition) {
  const OpDef& op = *GetParam();
  if (!op.decompose) GTEST_SKIP() << "primitive";
  int number = 0;
  for (const test::Sample& s : test::samples_of(op, DType::f64)) {
    const auto f = [&](const Tensors& inputs) {
      const LiteralScope literal;
      return op.decompose({op, inputs, s.attrs});
    };
    check_gradients(f, s.inputs, std::string(op.name) + ", decomposed sample " + std::to_string(number++));
  }
}

INSTANTIATE_TEST_SUITE_P(Table, EveryOp, testing::ValuesIn(test::differentiable()),
                         [](const auto& info) { return std::string(info.param->name); });

class Twice : public testing::TestWithParam<const OpDef*> {};

TEST_P(Twice, GradientsHaveGradients) {
  const OpDef& op = *GetParam();
  const auto samples = test::samples_of(op, DType::f64);
  const test::Sample& s = samples.front();
  check_gradients(gradient_of(call_of(op, s.attrs)), s.inputs, std::string(op.name) + ", twice");
}

std::vector<const OpDef*> twice_differentiable() {
  std::vector<const OpDef*> result;
  for (int i = 0; i < static_cast<int>(Elementwise::kCount); ++i)
    if (const OpDef& op = ops::elementwise_def(static_cast<Elementwise>(i)); !op.vjp.none()) result.push_back(&op);
  for (const OpDef* op : {&ops::sum_def, &ops::prod_def, &ops::max_def, &ops::slice_def, &ops::expand_def,
                          &ops::take_def, &ops::take_along_axis_def, &ops::matmul_def, &ops::mean_def, &ops::var_def,
                          &ops::logsumexp_def, &ops::softmax_def, &ops::log_softmax_def, &ops::rms_norm_def,
                          &ops::layer_norm_def, &ops::cumsum_def, &ops::lora_def})
    result.push_back(op);
  return result;
}
INSTANTIATE_TEST_SUITE_P(Table, Twice, testing::ValuesIn(twice_differentiable()),
                         [](const auto& info) { return std::string(info.param->name); });

// ---- what the samples do not show ---------------------------------------------------------------------------------

LazyTensor normal(const Shape& shape, std::uint64_t seed) { return test::Samples(DType::f64, seed).normal(shape); }

TEST(Gradients, OfProductsWithZeros) {
  const LazyTensor one_zero = test::tensor_of({2, 0, 3, 1.5, 2, 4}, {2, 3}, DType::f64);
  const LazyTensor two_zeros = test::tensor_of({2, 0, 3, 0}, {4}, DType::f64);
  check_gradients([](const Tensors& in) { return Tensors{prod(in[0], {1})}; }, {one_zero}, "one zero");
  check_gradients([](const Tensors& in) { return Tensors{prod(in[0])}; }, {two_zeros}, "two zeros");
  check_gradients(gradient_of([](const Tensors& in) { return Tensors{prod(in[0], {1})}; }), {one_zero}, "twice");
  check_gradients(gradient_of([](const Tensors& in) { return Tensors{prod(in[0])}; }), {two_zeros}, "two zeros, twice");
}

TEST(Gradients, ThroughTypesBroadcastingAndNumbers) {
  const LazyTensor x = normal({3, 4}, 1), w = normal({4}, 2), b = normal({}, 3);
  check_gradients(
      [](const Tensors& in) {
        const LazyTensor y = (2 - in[0] * 0.5) * in[1] / (square(in[2]) + 3);
        return Tensors{pow(square(y) + 1, 1.5), pow(2.0, in[0]), pow(in[1], 3), maximum(in[0], 0.1), y - in[2]};
      },
      {x, w, b}, "numbers");
  check_gradients(
      [](const Tensors& in) {
        return Tensors{clamp(in[0], -0.5, 0.5), where(greater(in[0], 0), in[0] * in[1], 0.25), 1 / (in[0] * in[0] + 1)};
      },
      {x, w}, "selects");
}

TEST(Gradients, OfViewsAndPieces) {
  check_gradients(
      [](const Tensors& in) {
        const auto parts = split(in[0], {1, 3, 2}, 1);
        return Tensors{concat({parts[2], parts[0] * 2.0}, 1), stack({parts[1], parts[1] * parts[1]}, 0),
                       transpose(reshape(in[0], {4, -1})), slice(in[0], 1, 1, -1, 2) * 3};
      },
      {normal({2, 6}, 5)}, "pieces");
}

TEST(Gradients, OfMatmulWithVectorsAndOneMatrixForABatch) {
  check_gradients(
      [](const Tensors& in) {
        return Tensors{matmul(in[0], in[1]), matmul(in[1], in[2]), matmul(in[2], in[2]),
                       linear(in[3], in[1], in[2] * 2.0)};
      },
      {normal({4}, 1), normal({4, 4}, 2), normal({4}, 3), normal({2, 3, 4}, 4)}, "matmul");
}

TEST(Gradients, OfCheckpoints) {
  const Tensors inputs{normal({3, 4}, 1), normal({4, 4}, 2), normal({4}, 3)};
  const auto layer = [](const LazyTensor& x, const LazyTensor& w, const LazyTensor& b) {
    return softmax(tanh(matmul(x, w) + b));
  };
  const auto inner = [&](const Tensors& in) { return layer(in[0], in[1], in[2]); };
  const Function f = [&](const Tensors& in) {
    const LazyTensor y = checkpoint(inner, {in[0], in[1], in[2]});
    // The second captures its weights, and has one inside.
    const auto outer = [&](const Tensors& of) { return checkpoint(inner, {layer(of[0], in[1], in[2]), in[1], in[2]}); };
    return Tensors{checkpoint(outer, {y * 0.5})};
  };
  check_gradients(f, inputs, "checkpoint");
  check_gradients(gradient_of(f), inputs, "checkpoint, twice");
}

TEST(Gradients, OfSeveralOutputs) {
  check_gradients(
      [](const Tensors& in) {
        return Tensors{topk(in[0], 3).values * 2.0, sort(in[0]).values};
      },
      {normal({3, 7}, 1)}, "topk and sort");
}

}  // namespace
}  // namespace metal_candle
