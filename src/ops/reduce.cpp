// Reductions. A node keeps its reduced axes with extent 1 and the public functions drop them with a view, so that
// gradients broadcast without thinking. Sums and products of bools and 8-bit integers are i32; of nothing at all, a sum
// is 0 and a product 1; a maximum, which `max` does not take, would be the lowest value there is.
#include <algorithm>
#include <limits>

#include "metal_candle/ops.hpp"
#include "ops/arguments.h"
#include "ops/operands.h"
#include "ops/primitive.h"
#include "ops/reduce.h"
#include "ops/table.h"

namespace metal_candle {
namespace ops {

Attrs reduced_axes(const OpDef& op, const LazyTensor& x, const Axes& axes, Extents extents) {
  require_defined(op, {&x, 1});
  const Shape& shape = x.shape();
  bool reduced[Shape::kMaxRank] = {};
  for (const int axis : axes) {
    const int a = checked_axis(op, x, axis, shape.rank());
    if (reduced[a]) fail_argument({op, {&x, 1}, {}}, "axis " + std::to_string(axis) + " is named twice");
    reduced[a] = true;
  }
  Attrs result;
  for (int a = 0; a < shape.rank(); ++a)
    if ((axes.empty() || reduced[a]) && (extents == Extents::all || shape[a] != 1)) result.push(std::int64_t{a});
  return result;
}

Shape reduced_shape(Shape shape, std::span<const std::int64_t> axes) {
  for (const std::int64_t a : axes) shape[static_cast<int>(a)] = 1;
  return shape;
}

std::int64_t reduced_count(const Shape& shape, std::span<const std::int64_t> axes) {
  std::int64_t count = 1;
  for (const std::int64_t a : axes) count *= shape[static_cast<int>(a)];
  return count;
}

LazyTensor drop_axes(const LazyTensor& reduced, const Axes& axes, bool keepdim) {
  if (keepdim || reduced.rank() == 0) return reduced;
  const Shape& shape = reduced.shape();
  bool drop[Shape::kMaxRank] = {};
  for (const int axis : axes) drop[axis < 0 ? axis + shape.rank() : axis] = true;
  Shape rest;
  for (int a = 0; a < shape.rank(); ++a)
    if (!axes.empty() && !drop[a]) rest.push_back(shape[a]);
  return reshape(reduced, rest.dims());
}

void check_axes(const OpCall& c, std::size_t first_attr) {
  require_inputs(c, 1);
  std::int64_t last = -1;
  for (const std::int64_t a : c.attrs.values().subspan(first_attr)) {
    if (a <= last || a >= c.inputs[0].rank()) fail_argument(c, "axes must exist and ascend");
    last = a;
  }
}

namespace {

void infer_accumulating(const OpCall& c, InferResult& r) {
  check_axes(c);
  const LazyTensor& x = c.inputs[0];
  if (x.dtype() == DType::boolean) fail_dtype(c, "not defined on bools; cast them");
  r.add(x.dtype(), reduced_shape(x.shape(), c.attrs.values()));
}

void infer_extreme(const OpCall& c, InferResult& r) {
  check_axes(c);
  r.add(c.inputs[0].dtype(), reduced_shape(c.inputs[0].shape(), c.attrs.values()));
}

void infer_index(const OpCall& c, InferResult& r) {
  check_axes(c);
  if (c.attrs.size() != 1) fail_argument(c, "takes one axis");
  const Shape& shape = c.inputs[0].shape();
  if (shape[static_cast<int>(c.attrs[0])] == 0) fail_shape(c, "an axis without elements has no such index");
  require_countable(c, shape[static_cast<int>(c.attrs[0])]);
  r.add(DType::i32, reduced_shape(shape, c.attrs.values()));
}

Axes as_axes(const Attrs& attrs) { return {attrs.values().begin(), attrs.values().end()}; }

Tensors sum_vjp(const VjpCall& c) { return {expand(c.grads[0], c.inputs[0].shape())}; }

// Elements that share the extreme value share its gradient. NaN is shared by nobody: everything is NaN then, as it is in
// PyTorch.
Tensors extreme_vjp(const VjpCall& c) {
  const LazyTensor &x = c.inputs[0], &g = c.grads[0];
  const LazyTensor hit = equal(x, c.outputs[0]);
  const LazyTensor number = sum(cast(hit, compute_type(x.dtype())), as_axes(c.attrs), true);  // f16 ends at 65504
  const LazyTensor share = g / number;
  return {where(hit, share, share * 0)};
}

// d/dx_i is the product of the others. Zeros, infinities and NaN cannot be divided away: they are counted, and taken for
// 1 (an infinity for its sign) in the product that is divided. A lone zero among the others is itself the factor, since
// second derivatives are by it; of two or more the product is flat.
Tensors prod_vjp(const VjpCall& c) {
  const LazyTensor x = widened(c.inputs[0]), g = widened(c.grads[0]);
  const Axes axes = as_axes(c.attrs);
  const LazyTensor zero = equal(x, 0), infinite = is_inf(x), nan = is_nan(x);
  const LazyTensor factors = where(logical_or(zero, nan), Scalar(1.0), where(infinite, sign(x), x));
  const LazyTensor one = ones({}, x.dtype());
  const auto of_others = [&](const LazyTensor& y) { return sum(y, axes, true) - y; };
  const auto number_beside = [&](const LazyTensor& there) { return of_others(cast(there, x.dtype())); };
  const auto beside = [&](const LazyTensor& there, double value) {  // `value` if there is one among the others, else 1
    return where(greater(number_beside(there), 0), Scalar(value), one);
  };
  using Limits = std::numeric_limits<double>;
  const LazyTensor zeros = number_beside(zero), lone = of_others(where(zero, x, Scalar(0.0)));
  const LazyTensor of_zeros = where(equal(zeros, 0), one, where(equal(zeros, 1), lone, Scalar(0.0)));
  const LazyTensor others = prod(factors, axes, true) / factors;
  const LazyTensor slope = others * beside(infinite, Limits::infinity()) * of_zeros * beside(nan, Limits::quiet_NaN());
  return {to_type(g * slope, c.inputs[0].dtype())};
}

void sample_axes(SampleSink& s) {
  s.add({s.normal({3, 7})}, {1});
  s.add({s.normal({3, 7})}, {0});
  s.add({s.normal({2, 3, 4})}, {0, 2});
  s.add({s.normal({2, 3, 4})}, {1});
  s.add({s.normal({5})}, {0});
}
void sample_products(SampleSink& s) {
  sample_axes(s);
  s.add({s.uniform({3, 4}, 0.5, 2)}, {0, 1});
}
void sample_indices(SampleSink& s) {
  s.add({s.normal({3, 7})}, {1});
  s.add({s.normal({3, 7})}, {0});
  s.add({s.integers({2, 9, 3}, 0, 3)}, {1});  // with ties
}

}  // namespace

constinit const OpDef sum_def = primitive("sum", OpKind::reduce, kSum, infer_accumulating, sum_vjp, sample_axes);
constinit const OpDef prod_def =
    primitive("prod", OpKind::reduce, kProd, infer_accumulating, prod_vjp, sample_products);
constinit const OpDef max_def = primitive("max", OpKind::reduce, kMax, infer_extreme, extreme_vjp, sample_axes);
constinit const OpDef min_def = primitive("min", OpKind::reduce, kMin, infer_extreme, extreme_vjp, sample_axes);
constinit const OpDef argmax_def = primitive("argmax", OpKind::reduce, kArgMax, infer_index, NoGrad{}, sample_indices);
constinit const OpDef argmin_def = primitive("argmin", OpKind::reduce, kArgMin, infer_index, NoGrad{}, sample_indices);

namespace {

// Axes of extent 1 have nothing to reduce; without others there is no node.
LazyTensor reduced(const OpDef& op, const LazyTensor& x, const Axes& axes, bool keepdim) {
  const Attrs attrs = reduced_axes(op, x, axes, Extents::larger_than_one);
  if (attrs.size() == 0) return drop_axes(x, axes, keepdim);
  const LazyTensor y = record_typed(op, x.dtype(), reduced_shape(x.shape(), attrs.values()), {&x, 1}, &attrs);
  return drop_axes(y, axes, keepdim);
}

LazyTensor extreme(const OpDef& op, const LazyTensor& x, const Axes& axes, bool keepdim) {
  require_defined(op, {&x, 1});
  if (x.numel() == 0 && reduced_count(x.shape(), reduced_axes(op, x, axes, Extents::all).values()) == 0)
    fail_shape({op, {&x, 1}, {}}, "an axis without elements has no " + std::string(op.name));
  return reduced(op, x, axes, keepdim);
}

LazyTensor accumulated(const OpDef& op, const LazyTensor& x, const Axes& axes, bool keepdim) {
  const CalledAs named(op.name, x);
  require_defined(op, {&x, 1});
  return reduced(op, counted(x), axes, keepdim);
}

LazyTensor index_of(const OpDef& op, const LazyTensor& x, int axis, bool keepdim) {
  const Attrs attrs = reduced_axes(op, x, {axis}, Extents::all);
  return drop_axes(record(op, {x}, attrs), {axis}, keepdim);
}

}  // namespace

LazyTensor counted(const LazyTensor& x) {
  const bool narrow = x.dtype() == DType::boolean || x.dtype() == DType::i8 || x.dtype() == DType::u8;
  return narrow ? cast(x, DType::i32) : x;
}

LazyTensor max_or_lowest(const LazyTensor& x, const Axes& axes) { return reduced(max_def, x, axes, true); }

}  // namespace ops

LazyTensor sum(const LazyTensor& x, const Axes& axes, bool keepdim) {
  return ops::accumulated(ops::sum_def, x, axes, keepdim);
}
LazyTensor prod(const LazyTensor& x, const Axes& axes, bool keepdim) {
  return ops::accumulated(ops::prod_def, x, axes, keepdim);
}
LazyTensor max(const LazyTensor& x, const Axes& axes, bool keepdim) {
  return ops::extreme(ops::max_def, x, axes, keepdim);
}
LazyTensor min(const LazyTensor& x, const Axes& axes, bool keepdim) {
  return ops::extreme(ops::min_def, x, axes, keepdim);
}
LazyTensor argmax(const LazyTensor& x, int axis, bool keepdim) {
  return ops::index_of(ops::argmax_def, x, axis, keepdim);
}
LazyTensor argmax(const LazyTensor& x) {
  const CalledAs named("argmax", x);
  return argmax(flatten(x), 0);
}
LazyTensor argmin(const LazyTensor& x) {
  const CalledAs named("argmin", x);
  return argmin(flatten(x), 0);
}
LazyTensor argmin(const LazyTensor& x, int axis, bool keepdim) {
  return ops::index_of(ops::argmin_def, x, axis, keepdim);
}

}  // namespace metal_candle
