// Gathers. Backward, rows are scattered in the order of the indices; where only one element an axis was taken, its
// gradient is found by comparing with the position instead, which fuses and needs no memory for indices.
#include "metal_candle/ops.hpp"
#include "ops/arguments.h"
#include "ops/operands.h"
#include "ops/primitive.h"
#include "ops/table.h"

namespace metal_candle {
namespace ops {
namespace {

void require_integers(const OpCall& c, const LazyTensor& indices) {
  if (!is_integer(indices.dtype())) fail_dtype(c, "indices must be integers");
}

// Sums of many 16-bit updates are kept in f32; autograd rounds once, at the end.
DType sum_type(DType dtype) { return dtype == DType::f64 ? DType::f64 : DType::f32; }

// ---- take(table [v, ...], indices) --------------------------------------------------------------------------------
void infer_take(const OpCall& c, InferResult& r) {
  require_inputs(c, 2);
  const LazyTensor &table = c.inputs[0], &indices = c.inputs[1];
  require_integers(c, indices);
  if (table.rank() == 0) fail_shape(c, "the table has no rows");
  if (indices.rank() + table.rank() - 1 > Shape::kMaxRank) fail_shape(c, "the result has more than eight axes");
  Shape shape = indices.shape();
  for (int i = 1; i < table.rank(); ++i) shape.push_back(table.shape()[i]);
  r.add(table.dtype(), shape);
}

Tensors take_vjp(const VjpCall& c) {
  const LazyTensor& table = c.inputs[0];
  const DType dtype = sum_type(table.dtype());
  return {scatter_add(zeros(table.shape(), dtype), c.inputs[1], cast(c.grads[0], dtype)), {}};
}

void sample_take(SampleSink& s) {
  s.add({s.normal({5, 3}), s.integers({7}, 0, 5)});  // rows are taken more than once
  s.add({s.normal({4, 2, 3}), s.integers({2, 2}, -4, 4, DType::i64)});
  s.add({s.normal({6}), s.integers({}, 0, 6)});
}

// ---- take_along_axis(a, indices){axis} ----------------------------------------------------------------------------
void infer_take_along_axis(const OpCall& c, InferResult& r) {
  require_inputs(c, 2);
  const Shape &a = c.inputs[0].shape(), &indices = c.inputs[1].shape();
  require_integers(c, c.inputs[1]);
  if (c.attrs.size() != 1 || c.attrs[0] < 0 || c.attrs[0] >= a.rank()) fail_argument(c, "no such axis");
  bool fits = a.rank() == indices.rank();
  for (int i = 0; fits && i < a.rank(); ++i) fits = i == c.attrs[0] || a[i] == indices[i];
  if (!fits) fail_shape(c, "the indices must match on all axes but " + std::to_string(c.attrs[0]));
  r.add(c.inputs[0].dtype(), indices);
}

LazyTensor from_front(const LazyTensor& indices, std::int64_t extent) {
  return where(less(indices, 0), indices + extent, indices);
}

// The row-major place in `a` of each element that the indices name.
LazyTensor flat_places(const Shape& a, const LazyTensor& indices, int axis) {
  const Shape strides = contiguous_strides(a);
  LazyTensor place = from_front(cast(indices, DType::i64), a[axis]) * strides[axis];
  for (int i = 0; i < a.rank(); ++i)
    if (i != axis && a[i] > 1) place = place + iota(indices.shape(), i, DType::i64) * strides[i];
  return place;
}

Tensors take_along_axis_vjp(const VjpCall& c) {
  const LazyTensor &a = c.inputs[0], &indices = c.inputs[1], &g = c.grads[0];
  const int axis = static_cast<int>(c.attrs[0]);
  if (indices.shape()[axis] == 1) {
    const LazyTensor index = from_front(cast(indices, DType::i32), a.shape()[axis]);
    return {where(equal(iota(a.shape(), axis), index), with_checked(g, c.outputs[0]), Scalar(0.0)), {}};
  }
  const DType dtype = sum_type(a.dtype());
  const LazyTensor place = flatten(flat_places(a.shape(), indices, axis));
  const LazyTensor updates = flatten(cast(with_checked(g, c.outputs[0]), dtype));
  const LazyTensor sums = scatter_add(zeros({a.numel()}, dtype), place, updates);
  return {reshape(sums, a.shape().dims()), {}};
}

void sample_take_along_axis(SampleSink& s) {
  s.add({s.normal({3, 7}), s.integers({3, 1}, -7, 7)}, {1});
  s.add({s.normal({3, 7}), s.integers({3, 5}, 0, 7, DType::i64)}, {1});
  s.add({s.normal({4, 2, 3}), s.integers({6, 2, 3}, -4, 4)}, {0});
}

}  // namespace

constinit const OpDef take_def = primitive("take", OpKind::gather, kTake, infer_take, take_vjp, sample_take);
constinit const OpDef take_along_axis_def =
    primitive("take_along_axis", OpKind::gather, kTakeAlongAxis, infer_take_along_axis, take_along_axis_vjp,
              sample_take_along_axis);

}  // namespace ops

LazyTensor take(const LazyTensor& table, const LazyTensor& indices) { return record(ops::take_def, {table, indices}); }

LazyTensor embedding(const LazyTensor& table, const LazyTensor& ids) {
  const CalledAs named("embedding", table, ids);
  return take(table, ids);
}

LazyTensor take_along_axis(const LazyTensor& a, const LazyTensor& indices, int axis) {
  const CalledAs named("take_along_axis", a, indices);
  ops::require_defined(ops::take_along_axis_def, ops::Borrowed(a, indices));
  return record(ops::take_along_axis_def, {a, indices},
                {a.rank() == 0 ? axis : ops::checked_axis(ops::take_along_axis_def, a, axis)});
}

}  // namespace metal_candle
