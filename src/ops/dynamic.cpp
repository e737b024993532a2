// dynamic_slice and dynamic_update_slice: a window whose start is data, not structure, so that a growing cache or a
// moving batch replays one plan. A window that reaches out is moved inside. Each is the other's gradient.
#include "graph/record.h"
#include "ops/arguments.h"
#include "ops/table.h"

namespace metal_candle {
namespace ops {
namespace {

int axis_of(const Attrs& attrs) { return static_cast<int>(attrs[0]); }

void check_start(const OpCall& c, const LazyTensor& start) {
  if (start.rank() != 0) fail_shape(c, "start must be a single number");
  if (start.dtype() != DType::i32 && start.dtype() != DType::i64) fail_dtype(c, "start must be an integer");
}

/// Of any integer type.
LazyTensor widened_start(const LazyTensor& start) {
  const bool narrow = start.defined() && (start.dtype() == DType::i8 || start.dtype() == DType::u8);
  return narrow ? cast(start, DType::i32) : start;
}

LazyTensor clamped_start(const LazyTensor& start, std::int64_t extent, std::int64_t window) {
  return clamp(to_type(start, DType::i64), Scalar(0), Scalar(extent - window));
}

// Positions along `axis` as i64, in the shape of x.
LazyTensor positions(const Shape& shape, int axis) { return iota(shape, axis, DType::i64); }

// ---- dynamic_slice{axis, extent}(x, start) --------------------------------------------------------------------------

void infer_slice(const OpCall& c, InferResult& r) {
  const LazyTensor& x = c.inputs[0];
  check_start(c, c.inputs[1]);
  const int axis = axis_of(c.attrs);
  if (c.attrs[1] < 0 || c.attrs[1] > x.shape()[axis]) fail_argument(c, "the window is longer than the axis");
  Shape shape = x.shape();
  shape[axis] = c.attrs[1];
  r.add(x.dtype(), shape);
}

Tensors decompose_slice(const OpCall& c) {
  const LazyTensor& x = c.inputs[0];
  const int axis = axis_of(c.attrs);
  Shape shape = x.shape();
  shape[axis] = c.attrs[1];
  const LazyTensor start = clamped_start(c.inputs[1], x.shape()[axis], c.attrs[1]);
  return {take_along_axis(x, positions(shape, axis) + start, axis)};
}

Tensors slice_vjp(const VjpCall& c) {
  const LazyTensor& x = c.inputs[0];
  const LazyTensor nothing = zeros(x.shape(), x.dtype());
  return {dynamic_update_slice(nothing, c.grads[0], axis_of(c.attrs), c.inputs[1]), {}};
}

void sample_slice(SampleSink& s) {
  s.add({s.normal({7}), scalar(2)}, {0, 3});
  s.add({s.normal({3, 8}), scalar(6)}, {1, 4});
  s.add({s.normal({4, 2, 3}), s.integers({}, -1, 1)}, {0, 2});
}

// ---- dynamic_update_slice{axis}(x, update, start) -------------------------------------------------------------------

void infer_update(const OpCall& c, InferResult& r) {
  const LazyTensor &x = c.inputs[0], &update = c.inputs[1];
  check_start(c, c.inputs[2]);
  if (x.dtype() != update.dtype()) fail_dtype(c, "x and the update must have one type");
  const int axis = axis_of(c.attrs);
  bool fits = x.rank() == update.rank();
  for (int i = 0; fits && i < x.rank(); ++i)
    fits = i == axis ? update.shape()[i] <= x.shape()[i] : update.shape()[i] == x.shape()[i];
  if (!fits) fail_shape(c, "the update must fit into x along axis " + std::to_string(axis) + " and match elsewhere");
  r.add(x.dtype(), x.shape());
}

Tensors decompose_update(const OpCall& c) {
  const LazyTensor &x = c.inputs[0], &update = c.inputs[1];
  const int axis = axis_of(c.attrs);
  const std::int64_t window = update.shape()[axis];
  if (update.numel() == 0) return {x};
  const LazyTensor place = positions(x.shape(), axis) - clamped_start(c.inputs[2], x.shape()[axis], window);
  const LazyTensor inside = logical_and(greater_equal(place, 0), less(place, window));
  return {where(inside, take_along_axis(update, clamp(place, Scalar(0), Scalar(window - 1)), axis), x)};
}

Tensors update_vjp(const VjpCall& c) {
  const LazyTensor &update = c.inputs[1], &start = c.inputs[2], &g = c.grads[0];
  const int axis = axis_of(c.attrs);
  Tensors out(3);
  if (c.needs[0]) out[0] = dynamic_update_slice(g, zeros(update.shape(), g.dtype()), axis, start);
  if (c.needs[1]) out[1] = dynamic_slice(g, axis, start, update.shape()[axis]);
  return out;
}

void sample_update(SampleSink& s) {
  s.add({s.normal({7}), s.normal({3}), scalar(2)}, {0});
  s.add({s.normal({3, 8}), s.normal({3, 4}), scalar(6)}, {1});
  s.add({s.normal({4, 2, 3}), s.normal({4, 2, 3}), s.integers({}, -1, 1)}, {0});
}

}  // namespace

constinit const OpDef dynamic_slice_def{.name = "dynamic_slice",
                                        .kind = OpKind::kernel,
                                        .infer = infer_slice,
                                        .decompose = decompose_slice,
                                        .vjp = slice_vjp,
                                        .samples = sample_slice};
constinit const OpDef dynamic_update_slice_def{.name = "dynamic_update_slice",
                                               .kind = OpKind::kernel,
                                               .infer = infer_update,
                                               .decompose = decompose_update,
                                               .vjp = update_vjp,
                                               .samples = sample_update};

}  // namespace ops

LazyTensor dynamic_slice(const LazyTensor& x, int axis, const LazyTensor& start, std::int64_t extent) {
  const CalledAs named("dynamic_slice", x, start);
  return record(ops::dynamic_slice_def, {x, ops::widened_start(start)},
                {ops::checked_axis(ops::dynamic_slice_def, x, axis), extent});
}
LazyTensor dynamic_update_slice(const LazyTensor& x, const LazyTensor& update, int axis, const LazyTensor& start) {
  const CalledAs named("dynamic_update_slice", x, update, start);
  return record(ops::dynamic_update_slice_def,
                {x, ops::as_written(ops::dynamic_update_slice_def, x, update), ops::widened_start(start)},
                {ops::checked_axis(ops::dynamic_update_slice_def, x, axis)});
}
LazyTensor dynamic_slice(const LazyTensor& x, int axis, std::int64_t start, std::int64_t extent) {
  const CalledAs named("dynamic_slice", x);
  return dynamic_slice(x, axis, scalar(start), extent);
}
LazyTensor dynamic_update_slice(const LazyTensor& x, const LazyTensor& update, int axis, std::int64_t start) {
  const CalledAs named("dynamic_update_slice", x, update);
  return dynamic_update_slice(x, update, axis, scalar(start));
}

}  // namespace metal_candle
