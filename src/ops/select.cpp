// where, cast, logical_not and identity, and the small functions that are made of them and of the elementwise table.
#include <limits>

#include "metal_candle/ops.hpp"
#include "ops/identity.h"
#include "ops/operands.h"
#include "ops/primitive.h"
#include "ops/table.h"

namespace metal_candle {
namespace ops {
namespace {

// ---- where(condition, a, b) ---------------------------------------------------------------------------------------
Shape where_shape(const OpCall& c) {
  Shape shape = c.inputs[0].shape();
  if (!broadcast_into(shape, c.inputs[1].shape()) || !broadcast_into(shape, c.inputs[2].shape()))
    fail_shape(c, "the shapes do not broadcast");
  return shape;
}

void infer_where(const OpCall& c, InferResult& r) {
  require_inputs(c, 3);
  if (c.inputs[0].dtype() != DType::boolean) fail_dtype(c, "the condition must be bool");
  if (c.inputs[1].dtype() != c.inputs[2].dtype()) fail_dtype(c, "the types of the two sides differ");
  r.add(c.inputs[1].dtype(), where_shape(c));
}

Tensors where_vjp(const VjpCall& c) {
  const LazyTensor &condition = c.inputs[0], &g = c.grads[0];
  Tensors out(3);
  if (c.needs[1]) out[1] = where(condition, g, zero_like(g));
  if (c.needs[2]) out[2] = where(condition, zero_like(g), g);
  return out;
}

void sample_where(SampleSink& s) {
  s.add({s.integers({3, 5}, 0, 2, DType::boolean), s.normal({3, 5}), s.normal({3, 5})});
  s.add({s.integers({4, 1}, 0, 2, DType::boolean), s.normal({3}), s.normal({})});
}

// ---- logical_not, cast, identity ----------------------------------------------------------------------------------
void infer_not(const OpCall& c, InferResult& r) { infer_unary(c, r, Domain::logic); }

void sample_not(SampleSink& s) { s.add({s.integers({3, 5}, 0, 2, DType::boolean)}); }

void infer_cast(const OpCall& c, InferResult& r) {
  require_inputs(c, 1);
  if (c.attrs.size() != 1 || c.attrs[0] < 0 || c.attrs[0] >= kDTypeCount) fail_dtype(c, "no such type");
  r.add(static_cast<DType>(c.attrs[0]), c.inputs[0].shape());
}

Tensors pass_on(const VjpCall& c) { return {c.grads[0]}; }  // autograd casts back

void sample_cast(SampleSink& s) {
  s.add({s.uniform({3, 5}, -9, 9)}, {static_cast<std::int64_t>(DType::f32)});
  s.add({s.uniform({3, 5}, -9, 9)}, {static_cast<std::int64_t>(DType::f64)});
  s.add({s.uniform({7}, -9, 9)}, {static_cast<std::int64_t>(DType::i32)});
  s.add({s.integers({7}, -9, 9)}, {static_cast<std::int64_t>(DType::boolean)});
}

void infer_identity(const OpCall& c, InferResult& r) {
  require_defined(c.op, c.inputs);
  if (c.inputs.empty() || c.attrs.size() != 1) fail_argument(c, "takes at least one input and says why it is there");
  r.add(c.inputs[0].dtype(), c.inputs[0].shape());
}

Tensors identity_vjp(const VjpCall& c) {
  Tensors out(c.inputs.size());
  if (c.attrs[0] != kStopGradient) out[0] = c.grads[0];
  return out;
}

void sample_identity(SampleSink& s) {
  s.add({s.normal({3, 5})}, {kStopGradient});
  s.add({s.normal({3, 5}), s.normal({2})}, {kBarrier});
}

// ---- clamp(x, low, high) of floats: composite, for its gradient -----------------------------------------------------
void infer_clamp(const OpCall& c, InferResult& r) {
  require_inputs(c, 3);
  r.add(c.inputs[0].dtype(), c.inputs[0].shape());
}

Tensors decompose_clamp(const OpCall& c) { return {minimum(maximum(c.inputs[0], c.inputs[1]), c.inputs[2])}; }

// Nothing flows back at the bounds, as in PyTorch 2.15; maximum and minimum alone would halve it there.
Tensors clamp_vjp(const VjpCall& c) {
  const LazyTensor& x = c.inputs[0];
  const LazyTensor inside = logical_and(greater(x, c.inputs[1]), less(x, c.inputs[2]));
  return {where(inside, c.grads[0], zero_like(c.grads[0])), {}, {}};
}

void sample_clamp(SampleSink& s) {
  s.add({s.uniform({4, 9}, -3, 3), scalar(-1.0), scalar(1.5)});
  s.add({s.uniform({7}, -3, 3), scalar(1.0), scalar(-1.0)});  // the upper bound wins
}

LazyTensor as_bool(const LazyTensor& x) { return cast(x, DType::boolean); }

LazyTensor choose(const LazyTensor& condition, const LazyTensor& a, const LazyTensor& b) {
  const Borrowed given(condition, a, b);
  require_defined(where_def, given);
  const DType dtype = promote(a.dtype(), b.dtype());
  const LazyTensor c = as_bool(condition), x = cast(a, dtype), z = cast(b, dtype);
  const Borrowed inputs(c, x, z);
  return record_typed(where_def, dtype, where_shape({where_def, given, {}}), inputs);
}

LazyTensor number_beside(const LazyTensor& other, Scalar s) {
  require_defined(where_def, {&other, 1});
  return typed_scalar(where_def, s, weak_type(other.dtype(), s));
}

}  // namespace

constinit const OpDef where_def = primitive("where", OpKind::elementwise, kWhere, infer_where, where_vjp, sample_where);
constinit const OpDef clamp_def{.name = "clamp",
                                .kind = OpKind::composite,
                                .infer = infer_clamp,
                                .decompose = decompose_clamp,
                                .vjp = clamp_vjp,
                                .samples = sample_clamp};
constinit const OpDef logical_not_def =
    primitive("logical_not", OpKind::elementwise, kLogicalNot, infer_not, NoGrad{}, sample_not);
constinit const OpDef cast_def = primitive("cast", OpKind::elementwise, kCast, infer_cast, pass_on, sample_cast);
constinit const OpDef identity_def =
    primitive("identity", OpKind::elementwise, kIdentity, infer_identity, identity_vjp, sample_identity);

}  // namespace ops

LazyTensor where(const LazyTensor& condition, const LazyTensor& a, const LazyTensor& b) {
  const CalledAs named("where", condition, a, b);
  // A number made with `scalar` is as weak here as it is beside an operator.
  Scalar s(0);
  bool literal = false;
  if (a.defined() && b.defined() && as_scalar(a, s, literal) && !as_scalar(b, s, literal))
    return ops::choose(condition, cast(a, ops::weak_type(b.dtype(), s)), b);
  if (a.defined() && b.defined() && as_scalar(b, s, literal) && !as_scalar(a, s, literal))
    return ops::choose(condition, a, cast(b, ops::weak_type(a.dtype(), s)));
  return ops::choose(condition, a, b);
}
LazyTensor where(const LazyTensor& condition, Scalar a, const LazyTensor& b) {
  const CalledAs named("where", condition, b);
  return ops::choose(condition, ops::number_beside(b, a), b);
}
LazyTensor where(const LazyTensor& condition, const LazyTensor& a, Scalar b) {
  const CalledAs named("where", condition, a);
  return ops::choose(condition, a, ops::number_beside(a, b));
}

LazyTensor logical_not(const LazyTensor& x) { return ops::unary(ops::logical_not_def, ops::Domain::logic, x); }

LazyTensor cast(const LazyTensor& x, DType dtype) {
  ops::require_defined(ops::cast_def, {&x, 1});
  if (x.node()->dtype == dtype && x.node()->op->kind != OpKind::scalar) return x;
  const Attrs attrs{static_cast<std::int64_t>(dtype)};
  return record_typed(ops::cast_def, dtype, x.node()->shape, {&x, 1}, &attrs);
}

LazyTensor clamp(const LazyTensor& x, Scalar low, Scalar high) {
  const CalledAs named("clamp", x);
  ops::require_defined(ops::clamp_def, {&x, 1});
  if (!is_float(x.dtype())) return minimum(maximum(x, low), high);  // may promote, and has no gradient
  return record(ops::clamp_def, {x, scalar(low), scalar(high)});
}

LazyTensor is_nan(const LazyTensor& x) {
  const CalledAs named("is_nan", x);
  return not_equal(x, x);
}

LazyTensor is_inf(const LazyTensor& x) {
  const CalledAs named("is_inf", x);
  const LiteralScope literal;
  ops::require_defined(ops::elementwise_def(Elementwise::abs), {&x, 1});
  if (!is_float(x.dtype())) return not_equal(x, x);  // never
  return equal(abs(x), std::numeric_limits<double>::infinity());
}

LazyTensor zero_like(const LazyTensor& x) {
  const CalledAs named("zero_like", x);
  ops::require_defined(ops::full_def, {&x, 1});
  return zeros(x.shape(), x.dtype());
}

LazyTensor powi(const LazyTensor& x, int exponent) {
  const CalledAs named("powi", x);
  const LiteralScope literal;
  const OpDef& op = ops::elementwise_def(Elementwise::pow);
  ops::require_defined(op, {&x, 1});
  if (x.dtype() == DType::boolean) fail_dtype({op, {&x, 1}, {}}, "not defined on bools; cast them");
  if (exponent < -4) return pow(x, Scalar(static_cast<double>(exponent)));
  // Not the reciprocal of a power: integers wrap, and at 0 and infinity its slope would be infinity times 0.
  if (exponent < 0) return powi(reciprocal(x), -exponent);
  if (exponent == 0) return ones(x.shape(), x.dtype());
  if (exponent > 4 && is_float(x.dtype())) return pow(x, Scalar(static_cast<double>(exponent)));
  LazyTensor result, factor = x;  // the factor is x, x², x⁴, ...
  for (int rest = exponent;; factor = square(factor)) {
    if (rest & 1) result = result.defined() ? result * factor : factor;
    if ((rest >>= 1) == 0) return result;
  }
}

// silu = x·s with s = sigmoid(x);  silu' = s·(1 + x·(1-s));  silu'' = s·(1-s)·(2 + x·(1-2s))
LazyTensor second_silu(const LazyTensor& x) {
  const LazyTensor s = sigmoid(x);
  return s * (1 - s) * (x * (1 - s * 2) + 2);
}

// gelu' = Φ + x·φ;  gelu'' = φ·(2 - x²)
LazyTensor second_gelu(const LazyTensor& x) {
  const LazyTensor xx = square(x);
  return exp(xx * -0.5) * 0.3989422804014327 * (2 - xx);
}

// gelu_tanh = x·s with s = sigmoid(u), u = a·x + b·x³:  gelu_tanh'' = s·(1-s)·(2u' + x·(u'' + (1-2s)·u'²))
LazyTensor second_gelu_tanh(const LazyTensor& x) {
  constexpr double a = 1.5957691216057308, b = 0.07135481627260025;
  const LazyTensor xx = square(x);
  const LazyTensor u = x * (xx * b + a), s = sigmoid(u), du = xx * (3 * b) + a;
  // sigmoid(-u) for 1-s: where s is nearly 1 the difference is mostly rounding, and x·u'² multiplies it by hundreds.
  return s * sigmoid(-u) * (du * 2 + x * (x * (6 * b) + (1 - s * 2) * square(du)));
}

}  // namespace metal_candle
