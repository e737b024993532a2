// set_rows: rows put where an index says, the others left alone. How a cache of keys takes in what a step computed:
// each token names its place, and one that has none is not kept. It writes state that no gradient passes through.
#include "ops/arguments.h"
#include "ops/table.h"

namespace metal_candle {
namespace ops {
namespace {

// set_rows(base [v, ...], indices [n], rows [n, ...])
void infer_set_rows(const OpCall& c, InferResult& r) {
  const LazyTensor &base = c.inputs[0], &indices = c.inputs[1], &rows = c.inputs[2];
  if (indices.dtype() != DType::i32 && indices.dtype() != DType::i64) fail_dtype(c, "indices must be i32 or i64");
  if (base.dtype() != rows.dtype()) fail_dtype(c, "base and rows must have one type");
  if (base.rank() < 1) fail_shape(c, "base has no rows");
  bool fits = indices.rank() == 1 && rows.rank() == base.rank() && rows.shape()[0] == indices.shape()[0];
  for (int i = 1; fits && i < base.rank(); ++i) fits = rows.shape()[i] == base.shape()[i];
  if (!fits) fail_shape(c, "indices must be [n] and rows [n] + base.shape[1:]");
  r.add(base.dtype(), base.shape());
}

void sample_set_rows(SampleSink& s) {
  s.add({s.normal({5, 3}), s.integers({4}, -2, 7), s.normal({4, 3})});
  s.add({s.normal({7}), s.integers({3}, 0, 7, DType::i64), s.normal({3})});
  s.add({s.normal({3, 2, 4}), s.integers({6}, 0, 3), s.normal({6, 2, 4})});
}

}  // namespace

constinit const OpDef set_rows_def{.name = "set_rows",
                                   .kind = OpKind::kernel,
                                   .infer = infer_set_rows,
                                   .decompose = nullptr,
                                   .vjp = NoGrad{},
                                   .samples = sample_set_rows};

}  // namespace ops

LazyTensor set_rows(const LazyTensor& base, const LazyTensor& indices, const LazyTensor& rows) {
  const CalledAs named("set_rows", base, indices, rows);
  return record(ops::set_rows_def, {base, indices, ops::as_written(ops::set_rows_def, base, rows)});
}

}  // namespace metal_candle
