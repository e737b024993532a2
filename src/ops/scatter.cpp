// scatter_add: rows added to rows that an index names, in the order of the updates, so that the sums never depend on
// threads. It is the gradient of a gather, and a gather is its own.
#include "ops/arguments.h"
#include "ops/table.h"

namespace metal_candle {
namespace ops {
namespace {

// scatter_add(base [v, ...], indices [...], updates indices.shape + base.shape[1:])
void infer_scatter_add(const OpCall& c, InferResult& r) {
  const LazyTensor &base = c.inputs[0], &indices = c.inputs[1], &updates = c.inputs[2];
  if (indices.dtype() != DType::i32 && indices.dtype() != DType::i64) fail_dtype(c, "indices must be i32 or i64");
  if (base.dtype() != updates.dtype()) fail_dtype(c, "base and updates must have one type");
  if (base.dtype() == DType::boolean) fail_dtype(c, "bool cannot be added");
  if (base.rank() < 1) fail_shape(c, "base has no rows");
  bool fits = updates.rank() == indices.rank() + base.rank() - 1;
  for (int i = 0; fits && i < updates.rank(); ++i)
    fits = updates.shape()[i] == (i < indices.rank() ? indices.shape()[i] : base.shape()[i - indices.rank() + 1]);
  if (!fits) fail_shape(c, "updates must be indices.shape + base.shape[1:]");
  r.add(base.dtype(), base.shape());
}

Tensors scatter_add_vjp(const VjpCall& c) {
  Tensors out(3);
  if (c.needs[0]) out[0] = c.grads[0];
  if (c.needs[2]) out[2] = take(c.grads[0], c.inputs[1]);
  return out;
}

void sample_scatter_add(SampleSink& s) {
  s.add({s.normal({5, 3}), s.integers({8}, -5, 5), s.normal({8, 3})});
  s.add({s.normal({7}), s.integers({2, 3}, 0, 7, DType::i64), s.normal({2, 3})});
  s.add({s.normal({3, 2, 4}), s.integers({}, 0, 3), s.normal({2, 4})});
}

}  // namespace

constinit const OpDef scatter_add_def{.name = "scatter_add",
                                      .kind = OpKind::kernel,
                                      .infer = infer_scatter_add,
                                      .decompose = nullptr,
                                      .vjp = scatter_add_vjp,
                                      .samples = sample_scatter_add};

}  // namespace ops

LazyTensor scatter_add(const LazyTensor& base, const LazyTensor& indices, const LazyTensor& updates) {
  const CalledAs named("scatter_add", base, indices, updates);
  ops::require_defined(ops::scatter_add_def, ops::Borrowed(base, indices, updates));
  const bool narrow = indices.dtype() == DType::i8 || indices.dtype() == DType::u8;
  return record(ops::scatter_add_def, {base, narrow ? cast(indices, DType::i32) : indices,
                                       ops::as_written(ops::scatter_add_def, base, updates)});
}

}  // namespace metal_candle
