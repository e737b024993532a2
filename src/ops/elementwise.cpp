// The elementwise table as op definitions and as functions: everything here is generated from elementwise.def.
#include "metal_candle/elementwise.hpp"

#include "metal_candle/ops.hpp"
#include "ops/operands.h"
#include "ops/primitive.h"
#include "ops/table.h"

namespace metal_candle {
namespace ops {
namespace {

constexpr Domain kNUMERIC = Domain::numeric;
constexpr Domain kFLOAT = Domain::floats;
constexpr Cost kSIMPLE = Cost::simple, kDIVIDE = Cost::divide, kROOT = Cost::root, kSERIES = Cost::series,
               kPOWER = Cost::power;

template <Domain kDomain>
void infer_one(const OpCall& c, InferResult& r) {
  infer_unary(c, r, kDomain);
}
template <Domain kDomain>
void infer_two(const OpCall& c, InferResult& r) {
  infer_binary(c, r, kDomain);
}

// ---- gradients -----------------------------------------------------------------------------------------------------

// x^0 is 1 everywhere, and 0^z is 0 for all z above 0: the formulas would give 0·inf and 0·-inf there.
LazyTensor pow_grad_base(const LazyTensor& x, const LazyTensor& z, const LazyTensor& g) {
  return where(equal(z, 0), zero_like(g), g * z * pow(x, z - 1));
}
LazyTensor pow_grad_exponent(const LazyTensor& x, const LazyTensor& z, const LazyTensor& y, const LazyTensor& g) {
  return where(logical_and(equal(x, 0), greater_equal(z, 0)), zero_like(g), g * y * log(x));
}

#define MC_UNARY(name, domain, cost, body, vjp, low, high)                                  \
  Tensors name##_vjp(const VjpCall& c) {                                                    \
    [[maybe_unused]] const LazyTensor &x = c.inputs[0], &y = c.outputs[0], &g = c.grads[0]; \
    return {vjp};                                                                           \
  }
#define MC_BINARY(name, domain, cost, body, vjp_a, vjp_b, low, high)      \
  Tensors name##_vjp(const VjpCall& c) {                                  \
    [[maybe_unused]] const LazyTensor &x = c.inputs[0], &z = c.inputs[1]; \
    [[maybe_unused]] const LazyTensor &y = c.outputs[0], &g = c.grads[0]; \
    Tensors out(2);                                                       \
    if (c.needs[0]) out[0] = vjp_a;                                       \
    if (c.needs[1]) out[1] = vjp_b;                                       \
    return out;                                                           \
  }
#include "metal_candle/elementwise.def"

// ---- samples: one shape, broadcast both ways, a 0-d side ----------------------------------------------------------
void sample_unary(SampleSink& s, double low, double high) {
  s.add({s.uniform({3, 5}, low, high)});
  s.add({s.uniform({2, 1, 7}, low, high)});
  s.add({s.uniform({}, low, high)});
}
void sample_binary(SampleSink& s, double low, double high) {
  s.add({s.uniform({3, 5}, low, high), s.uniform({3, 5}, low, high)});
  s.add({s.uniform({3, 1, 2}, low, high), s.uniform({4, 1}, low, high)});
  s.add({s.uniform({}, low, high), s.uniform({6}, low, high)});
}
void sample_compare(SampleSink& s) {
  s.add({s.normal({3, 5}), s.normal({3, 5})});
  s.add({s.integers({4, 7}, -2, 3), s.integers({7}, -2, 3)});  // with ties
}
void sample_logic(SampleSink& s) {
  s.add({s.integers({4, 4}, 0, 2, DType::boolean), s.integers({4, 1}, 0, 2, DType::boolean)});
}

// ---- the table -----------------------------------------------------------------------------------------------------
constexpr OpDef row(std::string_view name, Elementwise op, Infer infer, Vjp vjp, Samples samples) {
  return primitive(name, OpKind::elementwise, static_cast<std::uint16_t>(op), infer, vjp, samples);
}
constexpr OpDef kDefs[] = {
#define MC_UNARY(name, domain, cost, body, vjp, low, high) \
  row(#name, Elementwise::name, infer_one<k##domain>, name##_vjp, [](SampleSink& s) { sample_unary(s, low, high); }),
#define MC_BINARY(name, domain, cost, body, vjp_a, vjp_b, low, high) \
  row(#name, Elementwise::name, infer_two<k##domain>, name##_vjp, [](SampleSink& s) { sample_binary(s, low, high); }),
#define MC_COMPARE(name, body) row(#name, Elementwise::name, infer_two<Domain::compare>, NoGrad{}, sample_compare),
#define MC_LOGIC(name, body) row(#name, Elementwise::name, infer_two<Domain::logic>, NoGrad{}, sample_logic),
#include "metal_candle/elementwise.def"
};

constexpr ElementwiseInfo kInfos[] = {
#define MC_UNARY(name, domain, cost, ...) {#name, ElementwiseClass::unary, k##domain == Domain::floats, k##cost},
#define MC_BINARY(name, domain, cost, ...) {#name, ElementwiseClass::binary, k##domain == Domain::floats, k##cost},
#define MC_COMPARE(name, ...) {#name, ElementwiseClass::compare, false, Cost::simple},
#define MC_LOGIC(name, ...) {#name, ElementwiseClass::logic, false, Cost::simple},
#include "metal_candle/elementwise.def"
};

consteval bool complete() {
  if (std::size(kDefs) != static_cast<std::size_t>(Elementwise::kCount)) return false;
  for (std::size_t i = 0; i < std::size(kDefs); ++i) {
    const OpDef& d = kDefs[i];
    if (d.code != i || d.name.empty() || kInfos[i].name != d.name) return false;
  }
  return true;
}
static_assert(complete(), "the table and the enum agree, line by line");

const OpDef& def(Elementwise op) { return kDefs[static_cast<std::size_t>(op)]; }

}  // namespace

const OpDef& elementwise_def(Elementwise op) { return def(op); }

}  // namespace ops

const ElementwiseInfo& info(Elementwise op) { return ops::kInfos[static_cast<std::size_t>(op)]; }

// ---- the functions ------------------------------------------------------------------------------------------------
#define MC_TWO(name, domain)                                                                                        \
  LazyTensor name(const LazyTensor& x, const LazyTensor& z) {                                                       \
    return ops::binary(ops::def(Elementwise::name), domain, x, z);                                                  \
  }                                                                                                                 \
  LazyTensor name(const LazyTensor& x, Scalar z) { return ops::binary(ops::def(Elementwise::name), domain, x, z); } \
  LazyTensor name(Scalar x, const LazyTensor& z) { return ops::binary(ops::def(Elementwise::name), domain, x, z); }
#define MC_UNARY(name, domain, ...) \
  LazyTensor name(const LazyTensor& x) { return ops::unary(ops::def(Elementwise::name), ops::k##domain, x); }
#define MC_BINARY(name, domain, ...) MC_TWO(name, ops::k##domain)
#define MC_COMPARE(name, ...) MC_TWO(name, ops::Domain::compare)
#define MC_LOGIC(name, ...)                                                    \
  LazyTensor name(const LazyTensor& x, const LazyTensor& z) {                  \
    return ops::binary(ops::def(Elementwise::name), ops::Domain::logic, x, z); \
  }
#include "metal_candle/elementwise.def"
#undef MC_TWO

LazyTensor operator-(const LazyTensor& x) { return neg(x); }
#define MC_OPERATOR(symbol, name)                                                             \
  LazyTensor operator symbol(const LazyTensor& x, const LazyTensor& z) { return name(x, z); } \
  LazyTensor operator symbol(const LazyTensor& x, Scalar z) { return name(x, z); }            \
  LazyTensor operator symbol(Scalar x, const LazyTensor& z) { return name(x, z); }
MC_OPERATOR(+, add)
MC_OPERATOR(-, sub)
MC_OPERATOR(*, mul)
MC_OPERATOR(/, div)
MC_OPERATOR(<, less)
MC_OPERATOR(<=, less_equal)
MC_OPERATOR(>, greater)
MC_OPERATOR(>=, greater_equal)
#undef MC_OPERATOR
#define MC_ASSIGN(symbol, name)                                                              \
  LazyTensor& operator symbol(LazyTensor& x, const LazyTensor& z) { return x = name(x, z); } \
  LazyTensor& operator symbol(LazyTensor& x, Scalar z) { return x = name(x, z); }
MC_ASSIGN(+=, add)
MC_ASSIGN(-=, sub)
MC_ASSIGN(*=, mul)
MC_ASSIGN(/=, div)
#undef MC_ASSIGN

}  // namespace metal_candle
