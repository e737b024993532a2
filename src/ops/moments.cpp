// mean, var and logsumexp: composed of reductions, and row programs once fused. 16-bit floats are computed in f32, so
// that no sum of theirs overflows or rounds on the way.
#include <algorithm>
#include <limits>

#include "metal_candle/ops.hpp"
#include "ops/arguments.h"
#include "ops/operands.h"
#include "ops/reduce.h"
#include "ops/table.h"

namespace metal_candle {
namespace ops {
namespace {

// The axes as attributes hold them; var has two numbers before them.
struct Reduced {
  Axes axes;
  double count;
  Reduced(const LazyTensor& x, const Attrs& attrs, std::size_t first)
      : axes(attrs.values().begin() + static_cast<std::ptrdiff_t>(first), attrs.values().end()),
        count(static_cast<double>(reduced_count(x.shape(), attrs.values().subspan(first)))) {}
  // All axes of extent 1 were dropped from the attributes, which must not turn into "all of them".
  LazyTensor sum_of(const LazyTensor& x) const { return axes.empty() ? x : sum(x, axes, true); }
};

template <std::size_t kFirst>
void infer_moment(const OpCall& c, InferResult& r) {
  check_axes(c, kFirst);
  const LazyTensor& x = c.inputs[0];
  if (!is_float(x.dtype())) fail_dtype(c, "the type must be a float");
  r.add(x.dtype(), reduced_shape(x.shape(), c.attrs.values().subspan(kFirst)));
}

// ---- mean{axes} ---------------------------------------------------------------------------------------------------
Tensors decompose_mean(const OpCall& c) {
  const LazyTensor& x = c.inputs[0];
  const Reduced over(x, c.attrs, 0);
  return {to_type(over.sum_of(widened(x)) / over.count, x.dtype())};
}

Tensors mean_vjp(const VjpCall& c) {
  const LazyTensor& x = c.inputs[0];
  return {expand(c.grads[0] / Reduced(x, c.attrs, 0).count, x.shape())};
}

// ---- var{correction, no axes were named, axes} ----------------------------------------------------------------------
struct Deviation {
  LazyTensor values;  // x - mean
  Reduced over;
  double freedom;
  Deviation(const LazyTensor& x, const Attrs& attrs)
      : over(x, attrs, 2), freedom(over.count - static_cast<double>(attrs[0])) {
    const LazyTensor wide = widened(x);
    values = wide - over.sum_of(wide) / over.count;
  }
};

Tensors decompose_var(const OpCall& c) {
  const Deviation d(c.inputs[0], c.attrs);
  return {to_type(d.over.sum_of(square(d.values)) / std::max(d.freedom, 0.0), c.inputs[0].dtype())};
}

Tensors var_vjp(const VjpCall& c) {
  const Deviation d(c.inputs[0], c.attrs);
  const LazyTensor g = widened(c.grads[0]);
  // Without a degree of freedom, PyTorch's: no signs if no axes were named, 2 / freedom whatever it is otherwise.
  const LazyTensor slope = c.attrs[1] != 0 && d.freedom <= 0
                               ? where(equal(d.values, 0), Scalar(std::numeric_limits<double>::quiet_NaN()),
                                       full({}, std::numeric_limits<double>::infinity(), d.values.dtype()))
                               : (2 / d.freedom) * d.values;
  return {to_type(g * slope, c.inputs[0].dtype())};
}

// ---- logsumexp{axes} -------------------------------------------------------------------------------------------------

// The maximum is taken off first. It is infinite when all is -inf, or when the answer is +inf: then 0 is taken off.
LazyTensor finite_or_zero(const LazyTensor& x) { return where(is_inf(x), Scalar(0.0), x); }

Tensors decompose_logsumexp(const OpCall& c) {
  const LazyTensor wide = widened(c.inputs[0]);
  const Reduced over(wide, c.attrs, 0);
  if (over.axes.empty()) return {c.inputs[0]};
  const LazyTensor m = finite_or_zero(max_or_lowest(wide, over.axes));
  return {to_type(log(over.sum_of(exp(wide - m))) + m, c.inputs[0].dtype())};
}

Tensors logsumexp_vjp(const VjpCall& c) {
  const LazyTensor wide = widened(c.inputs[0]), y = widened(c.outputs[0]);
  return {to_type(widened(c.grads[0]) * exp(wide - y), c.inputs[0].dtype())};
}

void sample_axes(SampleSink& s) {
  s.add({s.normal({3, 7})}, {1});
  s.add({s.normal({2, 3, 4})}, {0, 2});
  s.add({s.normal({2, 3, 4})}, {1});
  s.add({s.uniform({2, 33}, -100, 400)}, {1});
}
void sample_var(SampleSink& s) {
  s.add({s.normal({3, 7})}, {1, 0, 1});
  s.add({s.normal({2, 3, 4})}, {0, 0, 0, 2});
  s.add({s.normal({5}, 100)}, {1, 1, 0});
}

constexpr OpDef composite(std::string_view name, Infer infer, Decompose decompose, Vjp vjp, Samples samples) {
  return {
      .name = name, .kind = OpKind::composite, .infer = infer, .decompose = decompose, .vjp = vjp, .samples = samples};
}

}  // namespace

constinit const OpDef mean_def = composite("mean", infer_moment<0>, decompose_mean, mean_vjp, sample_axes);
constinit const OpDef var_def = composite("var", infer_moment<2>, decompose_var, var_vjp, sample_var);
constinit const OpDef logsumexp_def =
    composite("logsumexp", infer_moment<0>, decompose_logsumexp, logsumexp_vjp, sample_axes);

namespace {

LazyTensor as_float(const OpDef& op, const LazyTensor& x) {
  require_defined(op, {&x, 1});
  return cast(x, float_type(x.dtype()));
}

// Over axes of extent 1 both are their argument.
LazyTensor moment(const OpDef& op, const LazyTensor& x, const Axes& axes, bool keepdim) {
  const CalledAs named(op.name, x);
  const LazyTensor f = as_float(op, x);
  const Attrs attrs = reduced_axes(op, f, axes, Extents::larger_than_one);
  if (attrs.size() == 0) return drop_axes(f, axes, keepdim);
  const Shape shape = reduced_shape(f.shape(), attrs.values());
  return drop_axes(record_typed(op, f.dtype(), shape, {&f, 1}, &attrs), axes, keepdim);
}

}  // namespace
}  // namespace ops

LazyTensor mean(const LazyTensor& x, const Axes& axes, bool keepdim) {
  return ops::moment(ops::mean_def, x, axes, keepdim);
}
LazyTensor logsumexp(const LazyTensor& x, const Axes& axes, bool keepdim) {
  return ops::moment(ops::logsumexp_def, x, axes, keepdim);
}
LazyTensor var(const LazyTensor& x, const Axes& axes, bool keepdim, int correction) {
  const CalledAs named("var", x);
  const LazyTensor f = ops::as_float(ops::var_def, x);
  const Attrs over = ops::reduced_axes(ops::var_def, f, axes, ops::Extents::all);
  Attrs attrs{correction, axes.empty()};
  for (const std::int64_t axis : over.values()) attrs.push(axis);
  const Shape shape = ops::reduced_shape(f.shape(), over.values());
  return ops::drop_axes(record_typed(ops::var_def, f.dtype(), shape, {&f, 1}, &attrs), axes, keepdim);
}

}  // namespace metal_candle
