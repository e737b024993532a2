// sort and topk. Both give values and the places (i32) where they were; equal elements keep their order and NaN is the
// largest value. The gradient of a value goes to its place: a scatter_add over the flattened rows.
#include "ops/arguments.h"
#include "ops/table.h"

namespace metal_candle {
namespace ops {
namespace {

// ---- sort{axis, descending}(x) -> values, indices -------------------------------------------------------------------

void infer_sort(const OpCall& c, InferResult& r) {
  const LazyTensor& x = c.inputs[0];
  require_countable(c, c.inputs[0].shape()[static_cast<int>(c.attrs[0])]);
  r.add(x.dtype(), x.shape());
  r.add(DType::i32, x.shape());
}

// zeros of `shape` with g[.., j, ..] added at [.., indices[.., j, ..], ..] along `axis`.
LazyTensor spread(const LazyTensor& g, const LazyTensor& indices, const Shape& shape, int axis) {
  if (g.numel() == 0) return zeros(shape, g.dtype());
  const int last = shape.rank() - 1;
  const LazyTensor rows = as_rows(transpose(g, axis, last)), places = as_rows(transpose(indices, axis, last));
  const std::int64_t n = shape[axis];
  const LazyTensor start = iota(rows.shape(), 0, DType::i64) * n;
  const LazyTensor flat = reshape(start + cast(places, DType::i64), {rows.numel()});
  Shape moved = shape;
  std::swap(moved[axis], moved[last]);
  const LazyTensor base = zeros({rows.dim(0) * n}, g.dtype());
  return transpose(reshape(scatter_add(base, flat, reshape(rows, {rows.numel()})), moved.dims()), axis, last);
}

Tensors sort_vjp(const VjpCall& c) {
  if (!c.grads[0].defined()) return Tensors(1);
  return {spread(c.grads[0], c.outputs[1], c.inputs[0].shape(), static_cast<int>(c.attrs[0]))};
}

void sample_sort(SampleSink& s) {
  s.add({s.normal({17})}, {0, 0});
  s.add({s.normal({3, 9})}, {1, 1});
  s.add({s.normal({2, 5, 3})}, {1, 0});
}

// ---- topk{k}(x) -> values, indices, along the last axis, largest first ----------------------------------------------

void infer_topk(const OpCall& c, InferResult& r) {
  const LazyTensor& x = c.inputs[0];
  if (x.rank() == 0) fail_shape(c, "there is no axis to choose from");
  require_countable(c, c.inputs[0].shape()[x.rank() - 1]);
  if (c.attrs[0] < 0 || c.attrs[0] > x.dim(-1)) fail_argument(c, "k must lie in 0 .. the last extent");
  Shape shape = x.shape();
  shape[x.rank() - 1] = c.attrs[0];
  r.add(x.dtype(), shape);
  r.add(DType::i32, shape);
}

Tensors decompose_topk(const OpCall& c) {
  const Sorted all = sort(c.inputs[0], -1, true);
  return {slice(all.values, -1, 0, c.attrs[0]), slice(all.indices, -1, 0, c.attrs[0])};
}

Tensors topk_vjp(const VjpCall& c) {
  if (!c.grads[0].defined()) return Tensors(1);
  return {spread(c.grads[0], c.outputs[1], c.inputs[0].shape(), c.inputs[0].rank() - 1)};
}

void sample_topk(SampleSink& s) {
  s.add({s.normal({17})}, {5});
  s.add({s.normal({4, 9})}, {1});
  s.add({s.normal({2, 3, 6})}, {6});
}

}  // namespace

constinit const OpDef sort_def{.name = "sort",
                               .kind = OpKind::kernel,
                               .infer = infer_sort,
                               .decompose = nullptr,
                               .vjp = sort_vjp,
                               .samples = sample_sort};
constinit const OpDef topk_def{.name = "topk",
                               .kind = OpKind::kernel,
                               .infer = infer_topk,
                               .decompose = decompose_topk,
                               .vjp = topk_vjp,
                               .samples = sample_topk};

}  // namespace ops

Sorted sort(const LazyTensor& x, int axis, bool descending) {
  Tensors out = record_all(ops::sort_def, {x}, {ops::checked_axis(ops::sort_def, x, axis), descending});
  return {std::move(out[0]), std::move(out[1])};
}
Sorted topk(const LazyTensor& x, std::int64_t k) {
  Tensors out = record_all(ops::topk_def, {x}, {k});
  return {std::move(out[0]), std::move(out[1])};
}

}  // namespace metal_candle
