// cumsum: running sums along an axis, from the front or, reversed, from the back; each is the other's gradient.
#include "ops/arguments.h"
#include "ops/reduce.h"
#include "ops/table.h"

namespace metal_candle {
namespace ops {
namespace {

// cumsum{axis, reverse}(x)
void infer_cumsum(const OpCall& c, InferResult& r) {
  const DType dtype = c.inputs[0].dtype();
  if (dtype == DType::boolean) fail_dtype(c, "cast to an integer type to count");
  r.add(dtype, c.inputs[0].shape());
}

// Σ_j [j <= i]·x_j over a new axis: quadratic, an oracle rather than a way to compute.
Tensors decompose_cumsum(const OpCall& c) {
  const LazyTensor& x = c.inputs[0];
  const int axis = static_cast<int>(c.attrs[0]);
  const std::int64_t n = x.shape()[axis];
  Shape from;  // [n (i), n (j), 1...] against x as [.., 1, n (j), ..]
  from.push_back(n);
  from.push_back(n);
  for (int i = axis + 1; i < x.rank(); ++i) from.push_back(1);
  const LazyTensor i = iota(from, 0), j = iota(from, 1);
  const LazyTensor wide = unsqueeze(to_type(x, is_float(x.dtype()) ? compute_type(x.dtype()) : x.dtype()), axis);
  const LazyTensor terms = where(c.attrs[1] ? greater_equal(j, i) : less_equal(j, i), wide, zero_like(wide));
  return {to_type(sum(terms, {axis + 1}), x.dtype())};
}

Tensors cumsum_vjp(const VjpCall& c) { return {record(cumsum_def, {c.grads[0]}, {c.attrs[0], 1 - c.attrs[1]})}; }

void sample_cumsum(SampleSink& s) {
  s.add({s.normal({9})}, {0, 0});
  s.add({s.normal({3, 5})}, {1, 1});
  s.add({s.normal({2, 4, 3})}, {1, 0});
  s.add({s.normal({4, 1, 2})}, {0, 1});
}

}  // namespace

constinit const OpDef cumsum_def{.name = "cumsum",
                                 .kind = OpKind::kernel,
                                 .infer = infer_cumsum,
                                 .decompose = decompose_cumsum,
                                 .vjp = cumsum_vjp,
                                 .samples = sample_cumsum};

}  // namespace ops

LazyTensor cumsum(const LazyTensor& x, int axis) {
  const CalledAs named("cumsum", x);
  const Attrs attrs{ops::checked_axis(ops::cumsum_def, x, axis), 0};
  return record(ops::cumsum_def, {ops::counted(x)}, attrs);
}

}  // namespace metal_candle
