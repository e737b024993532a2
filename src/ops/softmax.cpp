// softmax and log_softmax: a maximum, a sum of exponentials, one division or subtraction. Row reductions and
// elementwise steps only, so that with their neighbours they become one kernel.
#include "ops/arguments.h"
#include "ops/table.h"

namespace metal_candle {
namespace ops {
namespace {

void infer_float(const OpCall& c, InferResult& r) { r.add(float_type(c.inputs[0].dtype()), c.inputs[0].shape()); }

int axis_of(const Attrs& attrs) { return static_cast<int>(attrs[0]); }

// The largest element is taken off first: exp never overflows and the sum is at least 1.
LazyTensor shifted(const LazyTensor& x, int axis) {
  const LazyTensor wide = widened(x);
  return wide - max(wide, {axis}, true);
}

Tensors decompose_softmax(const OpCall& c) {
  const LazyTensor& x = c.inputs[0];
  const DType out = float_type(x.dtype());
  if (x.numel() == 0) return {to_type(x, out)};
  const int axis = axis_of(c.attrs);
  const LazyTensor e = exp(shifted(x, axis));
  return {to_type(e / sum(e, {axis}, true), out)};
}

Tensors softmax_vjp(const VjpCall& c) {
  const LazyTensor y = widened(c.outputs[0]), g = widened(c.grads[0]);
  const LazyTensor dx = y * (g - sum(g * y, {axis_of(c.attrs)}, true));
  return {to_type(dx, c.inputs[0].dtype())};
}

Tensors decompose_log_softmax(const OpCall& c) {
  const LazyTensor& x = c.inputs[0];
  const DType out = float_type(x.dtype());
  if (x.numel() == 0) return {to_type(x, out)};
  const int axis = axis_of(c.attrs);
  const LazyTensor z = shifted(x, axis);
  return {to_type(z - log(sum(exp(z), {axis}, true)), out)};
}

Tensors log_softmax_vjp(const VjpCall& c) {
  const LazyTensor y = widened(c.outputs[0]), g = widened(c.grads[0]);
  const LazyTensor dx = g - exp(y) * sum(g, {axis_of(c.attrs)}, true);
  return {to_type(dx, c.inputs[0].dtype())};
}

void sample_axes(SampleSink& s) {
  s.add({s.normal({3, 7})}, {1});
  s.add({s.normal({3, 4, 5})}, {0});
  s.add({s.normal({3, 4, 5}, 4)}, {1});
  s.add({s.uniform({2, 33}, -100, 400)}, {1});
  s.add({s.normal({1})}, {0});
}

}  // namespace

constinit const OpDef softmax_def{.name = "softmax",
                                  .kind = OpKind::composite,
                                  .infer = infer_float,
                                  .decompose = decompose_softmax,
                                  .vjp = softmax_vjp,
                                  .samples = sample_axes};
constinit const OpDef log_softmax_def{.name = "log_softmax",
                                      .kind = OpKind::composite,
                                      .infer = infer_float,
                                      .decompose = decompose_log_softmax,
                                      .vjp = log_softmax_vjp,
                                      .samples = sample_axes};

}  // namespace ops

LazyTensor softmax(const LazyTensor& x, int axis) {
  return record(ops::softmax_def, {x}, {ops::checked_axis(ops::softmax_def, x, axis)});
}
LazyTensor log_softmax(const LazyTensor& x, int axis) {
  return record(ops::log_softmax_def, {x}, {ops::checked_axis(ops::log_softmax_def, x, axis)});
}
LazyTensor LazyTensor::softmax(int axis) const { return metal_candle::softmax(*this, axis); }
LazyTensor LazyTensor::log_softmax(int axis) const { return metal_candle::log_softmax(*this, axis); }

}  // namespace metal_candle
