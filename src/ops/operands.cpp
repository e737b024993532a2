#include "ops/operands.h"

#include <optional>

#include "graph/limits.h"
#include "graph/stand_in.h"
#include "metal_candle/ops.hpp"
#include "ops/table.h"

namespace metal_candle::ops {
namespace {

bool computes_in(Domain domain, DType dtype) {
  switch (domain) {
    case Domain::numeric: return dtype != DType::boolean;
    case Domain::floats: return is_float(dtype);
    case Domain::compare: return true;
    case Domain::logic: return dtype == DType::boolean;
  }
  return false;
}

DType result_type(Domain domain, DType computed) { return domain == Domain::compare ? DType::boolean : computed; }

DType computing_type(Domain domain, DType dtype) {
  switch (domain) {
    case Domain::floats: return float_type(dtype);
    case Domain::logic: return DType::boolean;
    default: return dtype;
  }
}

bool is_scalar(const Node* n) { return n->op->kind == OpKind::scalar; }

// ---- two numbers: they stay one -----------------------------------------------------------------------------------

struct HostNumber {
  Scalar value;
  bool literal;
};
HostNumber host_number(const LazyTensor& t) {
  HostNumber n{Scalar(0), false};
  as_scalar(t, n.value, n.literal);
  return n;
}

std::optional<Scalar> fold(std::uint16_t code, Scalar a, Scalar b) {
  const bool whole = a.integral && b.integral;
  // Integers wrap, as those of tensors do.
  const auto x = static_cast<std::uint64_t>(a.i), z = static_cast<std::uint64_t>(b.i);
  const auto wrapped = [](std::uint64_t value) { return Scalar(static_cast<std::int64_t>(value)); };
  switch (static_cast<Elementwise>(code)) {
    case Elementwise::add: return whole ? wrapped(x + z) : Scalar(a.f + b.f);
    case Elementwise::sub: return whole ? wrapped(x - z) : Scalar(a.f - b.f);
    case Elementwise::mul: return whole ? wrapped(x * z) : Scalar(a.f * b.f);
    case Elementwise::div: return Scalar(a.f / b.f);
    default: return std::nullopt;
  }
}

// A number that is neither known when the plan is made nor promoted: a slot stays a slot wherever it is used.
LazyTensor scalar_like(Scalar value, bool literal) {
  LazyTensor t = scalar(value);
  auto& flags = t.node()->scalar_flags;
  flags = static_cast<std::uint8_t>(literal ? flags | Node::kScalarLiteral : flags & ~Node::kScalarLiteral);
  return t;
}

// Outside of literal scopes the host computes, and the result is a number again. Inside, the number may be a
// decomposition's stand-in for a value that is not known yet: it is computed where the rest is.
LazyTensor of_two_numbers(const OpDef& op, Domain domain, const LazyTensor& x, const LazyTensor& z) {
  const HostNumber a = host_number(x), b = host_number(z);
  if (!literals_on()) {
    if (const auto folded = fold(op.code, a.value, b.value)) return scalar_like(*folded, a.literal && b.literal);
  }
  const DType dtype = computing_type(domain, a.value.integral && b.value.integral ? DType::i64 : DType::f32);
  return binary(op, domain, cast(x, dtype), cast(z, dtype));
}

// ---- the general way ----------------------------------------------------------------------------------------------

// Arithmetic on bools is logic; so no arithmetic kernel ever sees one.
const OpDef& of_bools(const OpDef& op, std::span<const LazyTensor> inputs) {
  switch (static_cast<Elementwise>(op.code)) {
    case Elementwise::add:
    case Elementwise::maximum: return elementwise_def(Elementwise::logical_or);
    case Elementwise::mul:
    case Elementwise::minimum: return elementwise_def(Elementwise::logical_and);
    default: fail_dtype({op, inputs, {}}, "not defined on bools; cast them, or use a logical op");
  }
}

LazyTensor of_tensors(const OpDef& op, Domain domain, const LazyTensor& x, const LazyTensor& z) {
  const Borrowed inputs(x, z);
  const DType dtype = computing_type(domain, promote(x.dtype(), z.dtype()));
  if (domain == Domain::numeric && dtype == DType::boolean) return binary(of_bools(op, inputs), Domain::logic, x, z);
  Shape shape = x.shape();
  if (!broadcast_into(shape, z.shape())) fail_shape({op, inputs, {}}, "the shapes do not broadcast");
  const LazyTensor a = cast(x, dtype), b = cast(z, dtype);
  return record_typed(op, result_type(domain, dtype), shape, Borrowed(a, b));
}

LazyTensor with_number(const OpDef& op, Domain domain, const LazyTensor& x, Scalar s, bool first) {
  DType dtype = computing_type(domain, weak_type(x.dtype(), s));
  Scalar fitted = s;
  if (domain == Domain::compare && !fit_number(dtype, fitted)) dtype = DType::i64;  // 200 < 300, also in u8
  const Scalar value = scalar_as(op, s, dtype);
  if (x.dtype() == dtype) return record_with_scalar(op, result_type(domain, dtype), x, value, first);
  return record_with_scalar(op, result_type(domain, dtype), cast(x, dtype), value, first);
}

// A number that was made with `scalar` goes inline like a C++ one. But a slot inside a literal scope is the input of a
// decomposition or of a gradient: it stays the object that it is, so that forward and backward share it.
LazyTensor with_number_tensor(const OpDef& op, Domain domain, const LazyTensor& x, const LazyTensor& number,
                              bool first) {
  const HostNumber n = host_number(number);
  if (n.literal == literals_on()) return with_number(op, domain, x, n.value, first);
  const LazyTensor typed = cast(number, computing_type(domain, weak_type(x.dtype(), n.value)));
  return first ? of_tensors(op, domain, typed, x) : of_tensors(op, domain, x, typed);
}

LazyTensor binary_general(const OpDef& op, Domain domain, const LazyTensor& x, const LazyTensor& z) {
  require_defined(op, Borrowed(x, z));
  const bool x_number = is_scalar(x.node()), z_number = is_scalar(z.node());
  if (x_number && z_number) return of_two_numbers(op, domain, x, z);
  if (z_number) return with_number_tensor(op, domain, x, z, false);
  if (x_number) return with_number_tensor(op, domain, z, x, true);
  return of_tensors(op, domain, x, z);
}

LazyTensor binary_number(const OpDef& op, Domain domain, const LazyTensor& x, Scalar s, bool first) {
  Node* n = x.node();
  if (!n) require_defined(op, {&x, 1});
  if (is_scalar(n)) return first ? binary_general(op, domain, scalar(s), x) : binary_general(op, domain, x, scalar(s));
  return with_number(op, domain, x, s, first);
}

}  // namespace

LazyTensor unary(const OpDef& op, Domain domain, const LazyTensor& x) {
  Node* n = x.node();
  if (!n) require_defined(op, {&x, 1});
  if (computes_in(domain, n->dtype)) [[likely]]
    return record_typed(op, n->dtype, n->shape, {&x, 1});
  if (domain == Domain::numeric) fail_dtype({op, {&x, 1}, {}}, "not defined on bools; cast them, or use a logical op");
  const LazyTensor computed = cast(x, computing_type(domain, n->dtype));
  return record_typed(op, computed.dtype(), n->shape, {&computed, 1});
}

LazyTensor binary(const OpDef& op, Domain domain, const LazyTensor& x, const LazyTensor& z) {
  const Node *a = x.node(), *b = z.node();
  if (a && b && a->dtype == b->dtype && a->shape.rank() > 0 && a->shape == b->shape && computes_in(domain, a->dtype))
      [[likely]]
    return record_typed(op, result_type(domain, a->dtype), a->shape, Borrowed(x, z));
  return binary_general(op, domain, x, z);
}
LazyTensor binary(const OpDef& op, Domain domain, const LazyTensor& x, Scalar z) {
  return binary_number(op, domain, x, z, false);
}
LazyTensor binary(const OpDef& op, Domain domain, Scalar x, const LazyTensor& z) {
  return binary_number(op, domain, z, x, true);
}

void infer_unary(const OpCall& c, InferResult& r, Domain domain) {
  require_inputs(c, 1);
  const LazyTensor& x = c.inputs[0];
  if (!computes_in(domain, x.dtype())) fail_dtype(c, "not defined on this type");
  r.add(result_type(domain, x.dtype()), x.shape());
}

void infer_binary(const OpCall& c, InferResult& r, Domain domain) {
  require_inputs(c, 2);
  const LazyTensor &x = c.inputs[0], &z = c.inputs[1];
  if (x.dtype() != z.dtype()) fail_dtype(c, "the types differ");
  if (!computes_in(domain, x.dtype())) fail_dtype(c, "not defined on this type");
  Shape shape = x.shape();
  if (!broadcast_into(shape, z.shape())) fail_shape(c, "the shapes do not broadcast");
  r.add(result_type(domain, x.dtype()), shape);
}

DType weak_type(DType dtype, Scalar s) {
  if (is_float(dtype)) return dtype;
  if (!s.integral) return DType::f32;
  return dtype == DType::boolean ? DType::i32 : dtype;
}

Scalar scalar_as(const OpDef& op, Scalar s, DType dtype) {
  if (literals_on() && stood_for(s) >= 0) return s;  // the number itself was checked where it was given
  Scalar fitted = s;
  if (!fit_number(dtype, fitted)) {
    fail_argument({op, {}, {}}, "the number " + shown(s) + " does not fit " + std::string(name(dtype)));
  }
  return fitted;
}

LazyTensor typed_scalar(const OpDef& op, Scalar s, DType dtype) {
  const LazyTensor number = scalar(scalar_as(op, s, dtype));
  const Attrs attrs{static_cast<std::int64_t>(dtype)};
  return record_typed(full_def, dtype, Shape{}, {&number, 1}, &attrs);
}

void require_defined(const OpDef& op, std::span<const LazyTensor> inputs) {
  for (const LazyTensor& t : inputs)
    if (!t.defined()) fail_argument({op, inputs, {}}, "an operand is an empty handle");
}

void require_inputs(const OpCall& c, std::size_t count) {
  require_defined(c.op, c.inputs);
  if (c.inputs.size() != count) fail_argument(c, "takes " + std::to_string(count) + " inputs");
}

bool broadcast_into(Shape& shape, const Shape& with) {
  if (with.rank() > shape.rank()) {
    Shape wider = with;
    const int lead = with.rank() - shape.rank();
    for (int i = 0; i < shape.rank(); ++i) {
      std::int64_t& e = wider[lead + i];
      if (e == 1) e = shape[i];
      else if (shape[i] != 1 && shape[i] != e) return false;
    }
    shape = wider;
    return true;
  }
  const int lead = shape.rank() - with.rank();
  for (int i = 0; i < with.rank(); ++i) {
    std::int64_t& e = shape[lead + i];
    if (e == 1) e = with[i];
    else if (with[i] != 1 && with[i] != e) return false;
  }
  return true;
}

}  // namespace metal_candle::ops
