// Rotary embedding. Component i of each head turns with component i + d/2 by position·inv_freq[i].
//
// The angles become tables of cosines and sines, [.., t, d/2], which do not depend on heads, layers or direction: equal
// subgraphs are computed once a plan. `rotate` turns x by them, and has a kernel because both halves of a head read
// both halves: fused from primitives that is two passes over x. The gradient is the rotation by the opposite angle.
#include <cmath>

#include "ops/arguments.h"
#include "ops/table.h"

namespace metal_candle {
namespace ops {
namespace {

// rope{base, sign}(x [.., t, h, d], positions [t] or [.., t] [, inv_freq [d/2]])
void infer_rope(const OpCall& c, InferResult& r) {
  const LazyTensor &x = c.inputs[0], &positions = c.inputs[1];
  if (x.rank() < 3) fail_shape(c, "x must be [.., t, h, d]");
  if (x.dim(-1) % 2 != 0) fail_shape(c, "the head width must be even");
  if (x.rank() == Shape::kMaxRank) fail_shape(c, "at most seven axes");
  if (!is_float(x.dtype())) fail_dtype(c, "x must be of a float type");
  if (!is_integer(positions.dtype())) fail_dtype(c, "positions must be integers");
  bool fits = positions.rank() >= 1 && positions.rank() <= x.rank() - 2;
  for (int i = 1; fits && i <= positions.rank(); ++i)
    fits = positions.dim(-i) == x.dim(-i - 2) || (i > 1 && positions.dim(-i) == 1);
  if (!fits) fail_shape(c, "positions must be [t] or [.., t]");
  if (c.inputs.size() == 3 && (c.inputs[2].rank() != 1 || c.inputs[2].dim(0) != x.dim(-1) / 2))
    fail_shape(c, "inv_freq must be [d/2]");
  r.add(x.dtype(), x.shape());
}

// Powers of the base in f64, so that a frequency is the nearest number of its type.
LazyTensor frequencies(const OpCall& c, DType type) {
  if (c.inputs.size() == 3) return to_type(c.inputs[2], type);
  const std::int64_t d = c.inputs[0].dim(-1);
  const double step = -2 * std::log(c.attrs.real(0)) / static_cast<double>(d);
  return to_type(exp(iota({d / 2}, 0, DType::f64) * step), type);
}

LazyTensor angles(const OpCall& c, DType type) { return cast(unsqueeze(c.inputs[1], -1), type) * frequencies(c, type); }

Tensors decompose_rope(const OpCall& c) {
  const LazyTensor& x = c.inputs[0];
  if (x.numel() == 0) return {x};
  const LazyTensor angle = angles(c, compute_type(x.dtype()));
  return {record(rotate_def, {x, cos(angle), sin(angle)}, {c.attrs[1]})};
}

// rotate{sign}(x [.., t, h, d], cosine, sine [.., t, d/2], of the type x is computed in)
void infer_rotate(const OpCall& c, InferResult& r) {
  const LazyTensor& x = c.inputs[0];
  if (x.rank() < 3 || x.dim(-1) % 2 != 0) fail_shape(c, "x must be [.., t, h, d] with an even d");
  if (!is_float(x.dtype())) fail_dtype(c, "x must be of a float type");
  for (const LazyTensor& table : c.inputs.subspan(1)) {
    bool fits = table.rank() >= 2 && table.rank() < x.rank() && table.dim(-1) == x.dim(-1) / 2;
    for (int i = 2; fits && i <= table.rank(); ++i)
      fits = table.dim(-i) == x.dim(-i - 1) || (i > 2 && table.dim(-i) == 1);
    if (!fits || table.shape() != c.inputs[1].shape()) fail_shape(c, "tables must be [.., t, d/2]");
    if (table.dtype() != compute_type(x.dtype())) fail_dtype(c, "tables must be of the type x is computed in");
  }
  r.add(x.dtype(), x.shape());
}

// With the halves as an axis of their own, [.., t, h, 2, d/2]: both are broadcast over that axis and out = first·a +
// second·b, where (a, b) is (cos, -sin) in the first half and (sin, cos) in the second.
Tensors decompose_rotate(const OpCall& c) {
  const LazyTensor& x = c.inputs[0];
  if (x.numel() == 0) return {x};
  const DType type = compute_type(x.dtype());
  const std::int64_t half = x.dim(-1) / 2;
  const LazyTensor cosine = unsqueeze(unsqueeze(c.inputs[1], -2), -2);
  const LazyTensor turned = unsqueeze(unsqueeze(c.inputs[2], -2), -2);
  const LazyTensor sine = c.attrs[0] > 0 ? turned : -turned;

  const LazyTensor in_first = equal(iota({2, 1}, 0), 0);
  const LazyTensor a = where(in_first, cosine, sine);
  const LazyTensor b = where(in_first, -sine, cosine);
  const LazyTensor first = unsqueeze(slice(x, -1, 0, half), -2);
  const LazyTensor second = unsqueeze(slice(x, -1, half, 2 * half), -2);
  const LazyTensor y = to_type(first, type) * a + to_type(second, type) * b;
  return {reshape(to_type(y, x.dtype()), x.shape().dims())};
}

Attrs rope_attrs(double base, std::int64_t sign) {
  Attrs attrs;
  attrs.push(base);
  attrs.push(sign);
  return attrs;
}

// Towards a head's angle the result changes as it turns on: d first = -sign·second, d second = sign·first.
LazyTensor frequency_grad(const VjpCall& c) {
  const LazyTensor y = widened(c.outputs[0]), g = to_type(c.grads[0], y.dtype());
  const std::int64_t half = y.dim(-1) / 2;
  const auto first = [&](const LazyTensor& t) { return slice(t, -1, 0, half); };
  const auto second = [&](const LazyTensor& t) { return slice(t, -1, half, 2 * half); };
  const LazyTensor turned = first(y) * second(g) - second(y) * first(g);
  const LazyTensor by_token = sum(c.attrs[1] > 0 ? turned : -turned, {-2});
  const LazyTensor all = by_token * cast(unsqueeze(c.inputs[1], -1), y.dtype());
  Axes lead;
  for (int a = 0; a + 1 < all.rank(); ++a) lead.push_back(a);
  return to_type(sum(all, lead), c.inputs[2].dtype());
}

Tensors rope_vjp(const VjpCall& c) {
  Tensors inputs(c.inputs.begin(), c.inputs.end());
  inputs[0] = to_type(c.grads[0], c.inputs[0].dtype());
  Tensors out(c.inputs.size());
  if (c.needs[0]) out[0] = record(rope_def, inputs, rope_attrs(c.attrs.real(0), -c.attrs[1]));
  if (inputs.size() == 3 && c.needs[2] && is_float(inputs[2].dtype())) out[2] = frequency_grad(c);
  return out;
}

void sample_rope(SampleSink& s) {
  s.add({s.normal({5, 2, 8}), s.integers({5}, 0, 50)}, rope_attrs(10000, 1));
  s.add({s.normal({2, 5, 3, 6}), s.integers({2, 5}, 0, 50, DType::i64)}, rope_attrs(10000, 1));
  s.add({s.normal({2, 4, 1, 4}), s.integers({4}, 0, 9), s.uniform({2}, 0.01, 1)}, rope_attrs(10000, -1));
  s.add({s.normal({2, 3, 2, 6}), s.integers({2, 3}, 0, 9), s.uniform({3}, 0.01, 1)}, rope_attrs(1, 1));
}

void sample_rotate(SampleSink& s) {
  const auto table = [&](const Shape& shape) { return widened(s.normal(shape)); };
  s.add({s.normal({5, 2, 8}), table({5, 4}), table({5, 4})}, {1});
  s.add({s.normal({2, 5, 3, 6}), table({1, 5, 3}), table({1, 5, 3})}, {-1});
  s.add({s.normal({2, 3, 2, 40}), table({2, 3, 20}), table({2, 3, 20})}, {-1});
}

}  // namespace

constinit const OpDef rotate_def{.name = "rotate",
                                 .kind = OpKind::kernel,
                                 .infer = infer_rotate,
                                 .decompose = decompose_rotate,
                                 .vjp = DecomposedGrad{},
                                 .samples = sample_rotate};
constinit const OpDef rope_def{.name = "rope",
                               .kind = OpKind::composite,
                               .infer = infer_rope,
                               .decompose = decompose_rope,
                               .vjp = rope_vjp,
                               .samples = sample_rope};

}  // namespace ops

LazyTensor rope(const LazyTensor& x, const LazyTensor& positions, double base, const LazyTensor& inv_freq) {
  const CalledAs named = inv_freq.defined() ? CalledAs("rope", x, positions, inv_freq) : CalledAs("rope", x, positions);
  // With frequencies given, the base means nothing: one value of it, so that equal calls are equal nodes.
  if (inv_freq.defined()) return record(ops::rope_def, {x, positions, inv_freq}, ops::rope_attrs(1, 1));
  if (!(base > 0 && std::isfinite(base)))
    fail_argument({ops::rope_def, {}, {}}, "the base must be positive and finite");
  return record(ops::rope_def, {x, positions}, ops::rope_attrs(base, 1));
}

}  // namespace metal_candle
