// Tensors out of nothing: full and iota, and what is made of them. A C++ number given to `full` is a slot; the zero of
// `zeros` and the one of `ones` are literals.
#include "graph/limits.h"
#include "metal_candle/ops.hpp"
#include "ops/operands.h"
#include "ops/primitive.h"
#include "ops/table.h"

namespace metal_candle {
namespace ops {
namespace {

DType dtype_attr(const OpCall& c) {
  if (c.attrs.size() < 1 || c.attrs[0] < 0 || c.attrs[0] >= kDTypeCount) fail_dtype(c, "no such type");
  return static_cast<DType>(c.attrs[0]);
}
Shape shape_attr(const Attrs& attrs, std::size_t begin) { return Shape(attrs.values().subspan(begin)); }

void infer_full(const OpCall& c, InferResult& r) {
  require_inputs(c, 1);
  if (c.inputs[0].rank() != 0) fail_shape(c, "the value must be 0-d");
  r.add(dtype_attr(c), shape_attr(c.attrs, 1));
}

void infer_iota(const OpCall& c, InferResult& r) {
  require_inputs(c, 0);
  const DType dtype = dtype_attr(c);
  if (dtype == DType::boolean) fail_dtype(c, "an index is not a bool");
  if (c.attrs.size() < 2) fail_argument(c, "the axis is missing");
  const Shape shape = shape_attr(c.attrs, 2);
  if (c.attrs[1] < 0 || c.attrs[1] >= shape.rank()) fail_argument(c, "no such axis");
  r.add(dtype, shape);
}

void sample_full(SampleSink& s) {
  s.add({scalar(2.5)}, {static_cast<std::int64_t>(DType::f32), 3, 5});
  s.add({scalar(-3)}, {static_cast<std::int64_t>(DType::i32), 4});
  s.add({scalar(1)}, {static_cast<std::int64_t>(DType::boolean)});
}
void sample_iota(SampleSink& s) {
  s.add({}, {static_cast<std::int64_t>(DType::i32), 0, 7});
  s.add({}, {static_cast<std::int64_t>(DType::i64), 1, 2, 3, 4});
  s.add({}, {static_cast<std::int64_t>(DType::f32), 2, 2, 3, 4});
}

Attrs typed_shape(DType dtype, const Shape& shape) {
  Attrs attrs{static_cast<std::int64_t>(dtype)};
  for (const std::int64_t extent : shape) attrs.push(extent);
  return attrs;
}

}  // namespace

constinit const OpDef full_def = primitive("full", OpKind::elementwise, kFull, infer_full, NoGrad{}, sample_full);
constinit const OpDef iota_def = primitive("iota", OpKind::elementwise, kIota, infer_iota, NoGrad{}, sample_iota);

}  // namespace ops

LazyTensor full(const Shape& shape, Scalar value, DType dtype) {
  const CalledAs named("full");
  const LazyTensor number = scalar(ops::scalar_as(ops::full_def, value, dtype));
  const Attrs attrs = ops::typed_shape(dtype, shape);
  return record_typed(ops::full_def, dtype, shape, {&number, 1}, &attrs);
}

LazyTensor zeros(const Shape& shape, DType dtype) {
  const CalledAs named("zeros");
  const LiteralScope literal;
  return full(shape, 0, dtype);
}

LazyTensor ones(const Shape& shape, DType dtype) {
  const CalledAs named("ones");
  const LiteralScope literal;
  return full(shape, 1, dtype);
}

LazyTensor iota(const Shape& shape, int axis, DType dtype) {
  const int from_front = axis < 0 ? axis + shape.rank() : axis;
  if (from_front < 0 || from_front >= shape.rank())
    fail_argument({ops::iota_def, {}, {}}, "there is no axis " + std::to_string(axis) + " in " + shape.str());
  Attrs attrs{static_cast<std::int64_t>(dtype), from_front};
  for (const std::int64_t extent : shape) attrs.push(extent);
  return record(ops::iota_def, std::span<const LazyTensor>{}, attrs);
}

LazyTensor arange(std::int64_t end, DType dtype) {
  const CalledAs named("arange");
  if (end < 0) fail_argument({ops::iota_def, {}, {}}, "an end of " + std::to_string(end));
  return iota(Shape{end}, 0, dtype);
}

LazyTensor arange(std::int64_t begin, std::int64_t end, std::int64_t step, DType dtype) {
  const CalledAs named("arange");
  const LiteralScope literal;
  if (step == 0) fail_argument({ops::iota_def, {}, {}}, "the step is 0");
  const std::uint64_t count = count_of(begin, end, step);
  if (count > static_cast<std::uint64_t>(INT64_MAX)) fail_argument({ops::iota_def, {}, {}}, "too many elements");
  // In i64 where the type rounds: a bf16 holds no index above 256.
  const DType exact = is_float(dtype) ? DType::i64 : dtype;
  return cast(iota(Shape{static_cast<std::int64_t>(count)}, 0, exact) * step + begin, dtype);
}

}  // namespace metal_candle
