// Numbers as inputs of ops that are replaced by what they are made of: whole ones beside floats, too.
#include <gtest/gtest.h>

#include <vector>

#include "metal_candle/autograd.hpp"
#include "metal_candle/op_def.hpp"
#include "metal_candle/ops.hpp"
#include "metal_candle/runtime.hpp"

namespace metal_candle {
namespace {

using Values = std::vector<double>;

/// From outside of the library: x·s where x is positive, else s.
void infer_like_x(const OpCall& c, InferResult& r) { r.add(c.inputs[0].dtype(), c.inputs[0].shape()); }
Tensors scaled(const OpCall& c) {
  const LazyTensor &x = c.inputs[0], &s = c.inputs[1];
  return {cast(where(greater(x, 0), x * s, s), x.dtype())};
}
const OpDef scaled_def{.name = "scaled",
                       .kind = OpKind::composite,
                       .infer = infer_like_x,
                       .decompose = scaled,
                       .vjp = DecomposedGrad{},
                       .samples = nullptr};

class Numbers : public testing::TestWithParam<DType> {
 protected:
  LazyTensor x() const { return cast(Tensor::from<float>({1.5f, -3.0f, 0.5f}, {3}), GetParam()); }
};

TEST_P(Numbers, OfAClampMayBeWhole) {
  for (const Scalar low : {Scalar(0), Scalar(0.0)})
    for (const Scalar high : {Scalar(1), Scalar(1.0)}) {
      EXPECT_EQ(clamp(x(), low, high).eval().to_f64(), (Values{1, 0, 0.5}));
      const EagerMode eager;
      EXPECT_EQ(clamp(x(), low, high).eval().to_f64(), (Values{1, 0, 0.5}));
    }
  const LazyTensor w = x();
  EXPECT_EQ(grad(sum(clamp(w, -1, 1) * w), {w})[0].eval().to_f64(), (Values{1, -1, 1}));
}

TEST_P(Numbers, OfAnAdapterMayBeWhole) {
  const LazyTensor row = reshape(x(), {1, 3}), a = full({3, 1}, 1, GetParam()), b = full({1, 2}, 1, GetParam());
  EXPECT_EQ(lora_fused(row, a, b, 2).eval().to_f64(), (Values{-2, -2}));
  EXPECT_EQ((matmul(row, full({3, 2}, 1, GetParam())) + lora_fused(row, a, b, 2)).eval().to_f64(), (Values{-3, -3}));
}

TEST_P(Numbers, OfAnOpFromOutsideAreTheNumbersThatWereGiven) {
  EXPECT_EQ(record(scaled_def, {x(), scalar(3)}).eval().to_f64(), (Values{4.5, 3, 1.5}));
  EXPECT_EQ(record(scaled_def, {x(), scalar(2.5)}).eval().to_f64(), (Values{3.75, 2.5, 1.25}));
  const LazyTensor w = x();
  EXPECT_EQ(grad(sum(record(scaled_def, {w, scalar(3)})), {w})[0].eval().to_f64(), (Values{3, 0, 3}));
}

INSTANTIATE_TEST_SUITE_P(Floats, Numbers, testing::Values(DType::f32, DType::f64, DType::f16, DType::bf16));

TEST(NumbersOfIntegers, StayWithinTheirType) {
  for (const DType dtype : {DType::i8, DType::u8, DType::i32, DType::i64}) {
    const LazyTensor x = cast(Tensor::from<int>({1, 2, 0}, {3}), dtype);
    EXPECT_EQ(record(scaled_def, {x, scalar(3)}).eval().to_f64(), (Values{3, 6, 3})) << name(dtype);
  }
}

}  // namespace
}  // namespace metal_candle
