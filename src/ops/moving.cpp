// concat, stack and pad: data moves to new places, nothing is computed. Gradients are slices.
#include "graph/record.h"
#include "ops/arguments.h"
#include "ops/table.h"

namespace metal_candle {
namespace ops {
namespace {

// ---- concat{axis}(parts...) -----------------------------------------------------------------------------------------

// A node keeps the number of its inputs in a byte.
constexpr std::size_t kMaxParts = 128;

void infer_concat(const OpCall& c, InferResult& r) {
  const LazyTensor& first = c.inputs[0];
  Shape shape = first.shape();
  const int axis = static_cast<int>(c.attrs[0]);
  shape[axis] = 0;
  for (const LazyTensor& part : c.inputs) {
    if (part.dtype() != first.dtype()) fail_dtype(c, "the parts must have one type");
    if (part.rank() != first.rank()) fail_shape(c, "the parts must have one rank");
    for (int i = 0; i < first.rank(); ++i)
      if (i != axis && part.shape()[i] != first.shape()[i])
        fail_shape(c, "the parts may differ along axis " + std::to_string(axis) + " only");
    if (__builtin_add_overflow(shape[axis], part.shape()[axis], &shape[axis]))
      fail_shape(c, "the extents of axis " + std::to_string(axis) + " have no sum");
  }
  r.add(first.dtype(), shape);
}

Tensors concat_vjp(const VjpCall& c) {
  const int axis = static_cast<int>(c.attrs[0]);
  Tensors out(c.inputs.size());
  std::int64_t at = 0;
  for (std::size_t i = 0; i < out.size(); ++i) {
    const std::int64_t extent = c.inputs[i].shape()[axis];
    if (c.needs[i]) out[i] = slice(c.grads[0], axis, at, at + extent);
    at += extent;
  }
  return out;
}

void sample_concat(SampleSink& s) {
  s.add({s.normal({3, 4}), s.normal({3, 1}), s.normal({3, 7})}, {1});
  s.add({s.normal({2, 3, 4}), s.normal({1, 3, 4})}, {0});
  s.add({s.normal({2, 3, 4}), s.normal({2, 0, 4}), s.normal({2, 2, 4})}, {1});
}

LazyTensor concat_typed(std::span<const LazyTensor> parts, int axis) {
  if (parts.size() == 1) return parts[0];
  if (parts.size() <= kMaxParts) return record(concat_def, parts, {axis});
  Tensors joined;
  for (std::size_t i = 0; i < parts.size(); i += kMaxParts)
    joined.push_back(concat_typed(parts.subspan(i, std::min(kMaxParts, parts.size() - i)), axis));
  return concat_typed(joined, axis);
}

// ---- pad{before..., after...}(x, value) -----------------------------------------------------------------------------

void infer_pad(const OpCall& c, InferResult& r) {
  const LazyTensor& x = c.inputs[0];
  if (c.attrs.size() != 2 * x.rank()) fail_argument(c, "before and after need one entry an axis");
  Shape shape = x.shape();
  for (int i = 0; i < x.rank(); ++i) {
    const std::int64_t before = c.attrs[i], after = c.attrs[x.rank() + i];
    if (before < 0 || after < 0) fail_argument(c, "padding must not be negative");
    if (__builtin_add_overflow(shape[i], before, &shape[i]) || __builtin_add_overflow(shape[i], after, &shape[i]))
      fail_shape(c, "axis " + std::to_string(i) + " padded has no extent");
  }
  r.add(x.dtype(), shape);
}

Tensors pad_vjp(const VjpCall& c) {
  const Shape& shape = c.inputs[0].shape();
  LazyTensor g = c.grads[0];
  for (int i = 0; i < shape.rank(); ++i)
    if (shape[i] != g.shape()[i]) g = slice(g, i, c.attrs[i], c.attrs[i] + shape[i]);
  return {g, {}};
}

void sample_pad(SampleSink& s) {
  s.add({s.normal({5}), scalar(0.0)}, {2, 1});
  s.add({s.normal({3, 4}), scalar(1.5)}, {1, 0, 0, 3});
  s.add({s.normal({2, 3, 4}), scalar(0.0)}, {0, 2, 0, 0, 1, 0});
}

}  // namespace

constinit const OpDef concat_def{.name = "concat",
                                 .kind = OpKind::kernel,
                                 .infer = infer_concat,
                                 .decompose = nullptr,
                                 .vjp = concat_vjp,
                                 .samples = sample_concat};
constinit const OpDef pad_def{.name = "pad",
                              .kind = OpKind::kernel,
                              .infer = infer_pad,
                              .decompose = nullptr,
                              .vjp = pad_vjp,
                              .samples = sample_pad};

}  // namespace ops

LazyTensor concat(const std::vector<LazyTensor>& parts, int axis) {
  const CalledAs named("concat", parts);
  if (parts.empty()) fail_argument({ops::concat_def, {}, {}}, "there is nothing to join");
  ops::require_defined(ops::concat_def, parts);
  DType dtype = parts[0].dtype();
  for (const LazyTensor& part : parts) dtype = promote(dtype, part.dtype());
  Tensors typed;
  typed.reserve(parts.size());
  for (const LazyTensor& part : parts) typed.push_back(ops::to_type(part, dtype));
  return ops::concat_typed(typed, ops::checked_axis(ops::concat_def, parts[0], axis));
}

LazyTensor stack(const std::vector<LazyTensor>& parts, int axis) {
  const CalledAs named("stack", parts);
  if (parts.empty()) fail_argument({ops::concat_def, {}, {}}, "there is nothing to stack");
  ops::require_defined(ops::concat_def, parts);
  const int at = ops::checked_axis(ops::concat_def, parts[0], axis, parts[0].rank() + 1);
  for (const LazyTensor& part : parts)
    if (part.shape() != parts[0].shape())
      fail_shape({ops::concat_def, parts, {}}, "tensors to stack must have one shape");
  std::vector<LazyTensor> thick;
  thick.reserve(parts.size());
  for (const LazyTensor& part : parts) thick.push_back(unsqueeze(part, at));
  return concat(thick, at);
}

LazyTensor pad(const LazyTensor& x, const std::vector<std::int64_t>& before, const std::vector<std::int64_t>& after,
               Scalar value) {
  const CalledAs named("pad", x);
  ops::require_defined(ops::pad_def, {&x, 1});
  Attrs attrs;
  for (const auto& side : {before, after}) {
    if (static_cast<int>(side.size()) != x.rank())
      fail_argument({ops::pad_def, {&x, 1}, {}}, "before and after need one entry an axis");
    for (const std::int64_t n : side) attrs.push(n);
  }
  return record(ops::pad_def, {x, scalar(ops::scalar_as(ops::pad_def, value, x.dtype()))}, attrs);
}

}  // namespace metal_candle
