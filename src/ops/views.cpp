// Views: another layout of the same data. A view that changes nothing is no node.
#include <algorithm>
#include <numeric>

#include "metal_candle/ops.hpp"
#include "ops/arguments.h"
#include "ops/operands.h"
#include "ops/primitive.h"
#include "ops/table.h"

namespace metal_candle {
namespace ops {
namespace {

Shape as_shape(const Attrs& attrs) { return Shape(attrs.values()); }

Attrs as_attrs(const Shape& shape) {
  Attrs attrs;
  for (const std::int64_t extent : shape) attrs.push(extent);
  return attrs;
}

const Shape& checked(const OpDef& op, const LazyTensor& x) {
  require_defined(op, {&x, 1});
  return x.node()->shape;
}

// ---- reshape{dims} ------------------------------------------------------------------------------------------------
void infer_reshape(const OpCall& c, InferResult& r) {
  require_inputs(c, 1);
  const Shape shape = as_shape(c.attrs);
  if (shape.numel() != c.inputs[0].numel()) fail_shape(c, "the number of elements is not that of " + shape.str());
  r.add(c.inputs[0].dtype(), shape);
}

Tensors reshape_vjp(const VjpCall& c) { return {reshape(c.grads[0], c.inputs[0].shape().dims())}; }

// The extent that -1 stands for is what the others leave over.
Shape inferred(const LazyTensor& x, std::span<const std::int64_t> dims) {
  const OpCall call{reshape_def, {&x, 1}, {}};
  Shape shape;
  int open = -1;
  std::int64_t known = 1;
  for (const std::int64_t extent : dims) {
    if (extent < -1) fail_argument(call, "an extent is " + std::to_string(extent));
    if (extent == -1 && open >= 0) fail_argument(call, "two extents are -1");
    if (extent == -1) open = shape.rank();
    else if (__builtin_mul_overflow(known, extent, &known)) fail_shape(call, "the extents have no product");
    if (shape.rank() == Shape::kMaxRank) fail_shape(call, "more than 8 axes");
    shape.push_back(extent == -1 ? 1 : extent);
  }
  if (open < 0) return shape;
  if (known == 0 || x.numel() % known != 0)
    fail_shape(call, "no extent in place of -1 makes the number of elements that of " + shape.str());
  shape[open] = x.numel() / known;
  return shape;
}

// ---- permute{axes} ------------------------------------------------------------------------------------------------
void infer_permute(const OpCall& c, InferResult& r) {
  require_inputs(c, 1);
  const Shape& from = c.inputs[0].shape();
  if (c.attrs.size() != from.rank()) fail_argument(c, "names " + std::to_string(c.attrs.size()) + " axes");
  Shape shape = from;
  unsigned seen = 0;
  for (int i = 0; i < from.rank(); ++i) {
    const std::int64_t a = c.attrs[i];
    if (a < 0 || a >= from.rank()) fail_argument(c, "there is no axis " + std::to_string(a));
    if (seen & (1u << a)) fail_argument(c, "axis " + std::to_string(a) + " is named twice");
    seen |= 1u << a;
    shape[i] = from[static_cast<int>(a)];
  }
  r.add(c.inputs[0].dtype(), shape);
}

Tensors permute_vjp(const VjpCall& c) {
  Axes back(static_cast<std::size_t>(c.attrs.size()));
  for (int i = 0; i < c.attrs.size(); ++i) back[static_cast<std::size_t>(c.attrs[i])] = i;
  return {permute(c.grads[0], back)};
}

// ---- expand{dims} -------------------------------------------------------------------------------------------------
void infer_expand(const OpCall& c, InferResult& r) {
  require_inputs(c, 1);
  const Shape& from = c.inputs[0].shape();
  const Shape to = as_shape(c.attrs);
  bool fits = to.rank() >= from.rank();
  for (int i = 1; fits && i <= from.rank(); ++i) {
    const std::int64_t have = from[from.rank() - i];
    fits = have == 1 || have == to[to.rank() - i];
  }
  if (!fits) fail_shape(c, "does not expand to " + to.str());
  r.add(c.inputs[0].dtype(), to);
}

// An extent of -1 is that of x.
Shape kept(const LazyTensor& x, std::span<const std::int64_t> dims) {
  const OpCall call{expand_def, {&x, 1}, {}};
  const Shape& from = checked(expand_def, x);
  if (dims.size() > Shape::kMaxRank) fail_shape(call, "more than 8 axes");
  const int lead = static_cast<int>(dims.size()) - from.rank();
  Shape to;
  for (std::int64_t extent : dims) {
    const int axis = to.rank() - lead;
    if (extent < -1) fail_argument(call, "an extent is " + std::to_string(extent));
    if (extent == -1 && axis < 0) fail_argument(call, "a new axis has no extent that -1 could keep");
    to.push_back(extent == -1 ? from[axis] : extent);
  }
  return to;
}

Tensors expand_vjp(const VjpCall& c) { return {c.grads[0]}; }  // autograd sums what was broadcast

// ---- slice{begin.., step.., extent..} -----------------------------------------------------------------------------
void infer_slice(const OpCall& c, InferResult& r) {
  require_inputs(c, 1);
  const Shape& from = c.inputs[0].shape();
  const int rank = from.rank();
  if (c.attrs.size() != 3 * rank) fail_argument(c, "takes a begin, a step and an extent for each axis");
  Shape shape = from;
  for (int i = 0; i < rank; ++i) {
    const std::int64_t begin = c.attrs[i], step = c.attrs[rank + i], extent = c.attrs[2 * rank + i];
    if (begin < 0 || step < 1 || extent < 0 ||
        (extent > 0 && (begin >= from[i] || extent - 1 > (from[i] - 1 - begin) / step)))
      fail_argument(c, "reaches out of axis " + std::to_string(i));
    shape[i] = extent;
  }
  r.add(c.inputs[0].dtype(), shape);
}

// Between the elements of an axis with a step there were step-1 others: zeros on a new axis beside it, made one with
// it.
LazyTensor spread(const LazyTensor& g, int axis, std::int64_t step) {
  if (step == 1) return g;
  const LazyTensor apart = unsqueeze(g, axis + 1);
  std::vector<std::int64_t> before(static_cast<std::size_t>(apart.rank()), 0), after = before;
  after[static_cast<std::size_t>(axis) + 1] = step - 1;
  return flatten(pad(apart, before, after), axis, axis + 1);
}

Tensors slice_vjp(const VjpCall& c) {
  const Shape& from = c.inputs[0].shape();
  const int rank = from.rank();
  LazyTensor g = c.grads[0];
  std::vector<std::int64_t> before, after;
  for (int i = 0; i < rank; ++i) {
    g = spread(g, i, c.attrs[rank + i]);
    const std::int64_t room = from[i] - c.attrs[i];
    if (g.shape()[i] > room) g = slice(g, i, 0, room);  // zeros after the last element
    before.push_back(c.attrs[i]);
    after.push_back(room - g.shape()[i]);
  }
  return {pad(g, before, after)};
}

// ---- samples ------------------------------------------------------------------------------------------------------
void sample_reshape(SampleSink& s) {
  s.add({s.normal({3, 4})}, {2, 6});
  s.add({s.normal({2, 3, 4})}, {24});
  s.add({s.normal({1})}, Attrs{});
}
void sample_permute(SampleSink& s) {
  s.add({s.normal({3, 4})}, {1, 0});
  s.add({s.normal({2, 3, 4})}, {2, 0, 1});
}
void sample_expand(SampleSink& s) {
  s.add({s.normal({3, 1})}, {3, 4});
  s.add({s.normal({4})}, {2, 3, 4});
  s.add({s.normal({})}, {5});
}
void sample_slice(SampleSink& s) {
  s.add({s.normal({6})}, {1, 1, 4});
  s.add({s.normal({5, 7})}, {1, 0, 1, 3, 4, 3});  // rows 1..4, every third column, the last one taken
  s.add({s.normal({5, 8})}, {0, 1, 2, 3, 2, 2});  // columns 1 and 4 of 8: the last gap is not whole
}

}  // namespace

constinit const OpDef reshape_def =
    primitive("reshape", OpKind::view, kReshape, infer_reshape, reshape_vjp, sample_reshape);
constinit const OpDef permute_def =
    primitive("permute", OpKind::view, kPermute, infer_permute, permute_vjp, sample_permute);
constinit const OpDef expand_def = primitive("expand", OpKind::view, kExpand, infer_expand, expand_vjp, sample_expand);
constinit const OpDef slice_def = primitive("slice", OpKind::view, kSlice, infer_slice, slice_vjp, sample_slice);

}  // namespace ops

LazyTensor reshape(const LazyTensor& x, std::initializer_list<std::int64_t> dims) {
  return reshape(x, std::span(dims.begin(), dims.size()));
}
LazyTensor reshape(const LazyTensor& x, std::span<const std::int64_t> dims) {
  const Shape& from = ops::checked(ops::reshape_def, x);
  const Shape to = ops::inferred(x, dims);
  return from == to ? x : record(ops::reshape_def, {&x, 1}, ops::as_attrs(to));
}

LazyTensor permute(const LazyTensor& x, const Axes& axes) {
  const int rank = ops::checked(ops::permute_def, x).rank();
  Attrs attrs;
  bool moves = static_cast<int>(axes.size()) != rank;
  for (std::size_t i = 0; i < axes.size(); ++i) {
    const int a = ops::checked_axis(ops::permute_def, x, axes[i], rank);
    moves |= a != static_cast<int>(i);
    attrs.push(std::int64_t{a});
  }
  return moves ? record(ops::permute_def, {&x, 1}, attrs) : x;
}

LazyTensor transpose(const LazyTensor& x, int a, int b) {
  const CalledAs named("transpose", x);
  const int rank = ops::checked(ops::permute_def, x).rank();
  Axes axes(static_cast<std::size_t>(rank));
  std::iota(axes.begin(), axes.end(), 0);
  std::swap(axes[static_cast<std::size_t>(ops::checked_axis(ops::permute_def, x, a, rank))],
            axes[static_cast<std::size_t>(ops::checked_axis(ops::permute_def, x, b, rank))]);
  return permute(x, axes);
}

LazyTensor expand(const LazyTensor& x, std::initializer_list<std::int64_t> dims) {
  return expand(x, ops::kept(x, std::span(dims.begin(), dims.size())));
}
LazyTensor expand(const LazyTensor& x, const Shape& shape) {
  if (ops::checked(ops::expand_def, x) == shape) return x;
  return record(ops::expand_def, {&x, 1}, ops::as_attrs(shape));
}

LazyTensor slice(const LazyTensor& x, int axis, std::int64_t begin, std::int64_t end, std::int64_t step) {
  const Shape& shape = ops::checked(ops::slice_def, x);
  const int a = ops::checked_axis(ops::slice_def, x, axis, shape.rank());
  if (step < 1) fail_argument({ops::slice_def, {&x, 1}, {}}, "the step must be positive");
  const std::int64_t n = shape[a];
  const auto clipped = [n](std::int64_t at) { return std::clamp<std::int64_t>(at < 0 ? at + n : at, 0, n); };
  const std::int64_t from = clipped(begin), to = std::max(from, clipped(end));
  const std::int64_t extent = (to - from) / step + ((to - from) % step != 0);
  if (extent == n) return x;
  Attrs attrs;
  for (int i = 0; i < shape.rank(); ++i) attrs.push(i == a ? from : 0);
  for (int i = 0; i < shape.rank(); ++i) attrs.push(i == a && extent > 1 ? step : std::int64_t{1});
  for (int i = 0; i < shape.rank(); ++i) attrs.push(i == a ? extent : shape[i]);
  return record(ops::slice_def, {&x, 1}, attrs);
}

LazyTensor squeeze(const LazyTensor& x, int axis) {
  const CalledAs named("squeeze", x);
  const Shape& shape = ops::checked(ops::reshape_def, x);
  const int a = ops::checked_axis(ops::reshape_def, x, axis, shape.rank());
  if (shape[a] != 1)
    fail_shape({ops::reshape_def, {&x, 1}, {}}, "axis " + std::to_string(axis) + " to squeeze is not 1");
  Shape to;
  for (int i = 0; i < shape.rank(); ++i)
    if (i != a) to.push_back(shape[i]);
  return reshape(x, to.dims());
}

LazyTensor unsqueeze(const LazyTensor& x, int axis) {
  const CalledAs named("unsqueeze", x);
  const Shape& shape = ops::checked(ops::reshape_def, x);
  const int a = ops::checked_axis(ops::reshape_def, x, axis, shape.rank() + 1);
  if (shape.rank() == Shape::kMaxRank) fail_shape({ops::reshape_def, {&x, 1}, {}}, "more than 8 axes");
  Shape to;
  for (int i = 0; i <= shape.rank(); ++i) {
    if (i == a) to.push_back(1);
    if (i < shape.rank()) to.push_back(shape[i]);
  }
  return reshape(x, to.dims());
}

LazyTensor flatten(const LazyTensor& x, int first, int last) {
  const CalledAs named("flatten", x);
  const Shape& shape = ops::checked(ops::reshape_def, x);
  if (shape.rank() == 0) return reshape(x, {1});
  const int f = ops::checked_axis(ops::reshape_def, x, first, shape.rank());
  const int l = ops::checked_axis(ops::reshape_def, x, last, shape.rank());
  if (f > l) fail_argument({ops::reshape_def, {&x, 1}, {}}, "the first axis is after the last");
  Shape to;
  for (int i = 0; i < shape.rank(); ++i) {
    if (i > f && i <= l) to[to.rank() - 1] *= shape[i];
    else to.push_back(shape[i]);
  }
  return reshape(x, to.dims());
}

std::vector<LazyTensor> split(const LazyTensor& x, const std::vector<std::int64_t>& sizes, int axis) {
  const CalledAs named("split", x);
  const Shape& shape = ops::checked(ops::slice_def, x);
  const int a = ops::checked_axis(ops::slice_def, x, axis, shape.rank());
  std::vector<LazyTensor> parts;
  std::int64_t at = 0;
  for (const std::int64_t size : sizes) {
    if (size < 0) fail_argument({ops::slice_def, {&x, 1}, {}}, "a size is negative");
    if (size > shape[a] - at) break;
    parts.push_back(slice(x, a, at, at + size));
    at += size;
  }
  if (at != shape[a] || parts.size() != sizes.size())
    fail_shape({ops::slice_def, {&x, 1}, {}}, "the sizes do not add up to the extent");
  return parts;
}

}  // namespace metal_candle
