// Vectors of f32 that read like numbers, and the functions that the bodies of elementwise.def call.
//
// All functions are within 2 to 4 ulp over their whole domain, denormals and overflow included, and give what C99 gives
// for NaN, infinities and zeros. A lane's result depends on the lane alone. Range reductions use constants split so
// that the products are exact with and without a fused multiply-add; polynomials are near-minimax on the reduced range.
#if defined(MC_VM_MATH_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef MC_VM_MATH_INL_H_
#undef MC_VM_MATH_INL_H_
#else
#define MC_VM_MATH_INL_H_
#endif

#include <cmath>
#include <limits>

#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace metal_candle::cpu::vm::HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;

using DF = HWY_FULL(float);
using DI = hn::RebindToSigned<DF>;
using VF = hn::Vec<DF>;
using VI = hn::Vec<DI>;
using MF = hn::Mask<DF>;
inline constexpr DF df;
inline constexpr DI di;
#undef MC_INLINE
#define MC_INLINE static HWY_INLINE

struct M {
  MF m;
};

struct F {
  VF v;
  F() = default;
  HWY_INLINE F(VF vec) : v(vec) {}
  HWY_INLINE explicit F(double x) : v(hn::Set(df, static_cast<float>(x))) {}
  friend HWY_INLINE F operator+(F a, F b) { return hn::Add(a.v, b.v); }
  friend HWY_INLINE F operator-(F a, F b) { return hn::Sub(a.v, b.v); }
  friend HWY_INLINE F operator*(F a, F b) { return hn::Mul(a.v, b.v); }
  friend HWY_INLINE F operator/(F a, F b) { return hn::Div(a.v, b.v); }
  friend HWY_INLINE F operator-(F a) { return hn::Xor(a.v, hn::Set(df, -0.0f)); }
  friend HWY_INLINE M operator<(F a, F b) { return {hn::Lt(a.v, b.v)}; }
  friend HWY_INLINE M operator<=(F a, F b) { return {hn::Le(a.v, b.v)}; }
  friend HWY_INLINE M operator>(F a, F b) { return {hn::Gt(a.v, b.v)}; }
  friend HWY_INLINE M operator>=(F a, F b) { return {hn::Ge(a.v, b.v)}; }
  friend HWY_INLINE M operator==(F a, F b) { return {hn::Eq(a.v, b.v)}; }
  // Highway 1.0's Ne is ordered on AVX-512: false for NaN.
  friend HWY_INLINE M operator!=(F a, F b) { return {hn::Not(hn::Eq(a.v, b.v))}; }
};

MC_INLINE F k(float x) { return hn::Set(df, x); }
MC_INLINE F select(M m, F a, F b) { return hn::IfThenElse(m.m, a.v, b.v); }
MC_INLINE M is_nan(F x) { return {hn::IsNaN(x.v)}; }
#if HWY_TARGET == HWY_AVX3
MC_INLINE M either_nan(F a, F b) { return {MF{_mm512_cmp_ps_mask(a.v.raw, b.v.raw, _CMP_UNORD_Q)}}; }
#else
MC_INLINE M either_nan(F a, F b) { return {hn::Or(hn::IsNaN(a.v), hn::IsNaN(b.v))}; }
#endif
MC_INLINE M both(M a, M b) { return {hn::And(a.m, b.m)}; }
MC_INLINE F fma(F a, F b, F c) { return hn::MulAdd(a.v, b.v, c.v); }
MC_INLINE F nfma(F a, F b, F c) { return hn::NegMulAdd(a.v, b.v, c.v); }  // c - a·b
MC_INLINE F abs(F x) { return hn::Abs(x.v); }
MC_INLINE F floor(F x) { return hn::Floor(x.v); }
MC_INLINE F ceil(F x) { return hn::Ceil(x.v); }
MC_INLINE F round(F x) { return hn::Round(x.v); }
MC_INLINE F sqrt(F x) { return hn::Sqrt(x.v); }
MC_INLINE F rsqrt(F x) { return k(1) / sqrt(x); }
MC_INLINE F copysign(F magnitude, F sign) { return hn::CopySign(magnitude.v, sign.v); }

// x86 max(a, b) gives b when either is NaN; elsewhere, and without vectors, Highway gives the one that is none.
#if HWY_ARCH_X86 && HWY_TARGET != HWY_SCALAR && HWY_TARGET != HWY_EMU128
MC_INLINE F clamp_low(F x, F low) { return hn::Max(low.v, x.v); }  // NaN stays
MC_INLINE F clamp_high(F x, F high) { return hn::Min(high.v, x.v); }
MC_INLINE F max(F a, F b) { return select(is_nan(a), a, hn::Max(a.v, b.v)); }
MC_INLINE F min(F a, F b) { return select(is_nan(a), a, hn::Min(a.v, b.v)); }
#else
MC_INLINE F clamp_low(F x, F low) { return select(x < low, low, x); }
MC_INLINE F clamp_high(F x, F high) { return select(x > high, high, x); }
MC_INLINE F max(F a, F b) { return select(is_nan(a), a, select(a > b, a, b)); }
MC_INLINE F min(F a, F b) { return select(is_nan(a), a, select(a < b, a, b)); }
#endif

MC_INLINE VI bits(F x) { return hn::BitCast(di, x.v); }
MC_INLINE F from_bits(VI x) { return hn::BitCast(df, x); }

/// 2^n for n in [-126, 127].
MC_INLINE F pow2(VI n) { return from_bits(hn::ShiftLeft<23>(hn::Add(n, hn::Set(di, 127)))); }

/// x · 2^n for integral n in [-252, 254], through overflow and denormals.
MC_INLINE F scale(F x, F n) {
#if HWY_TARGET == HWY_AVX3
  return F(VF{_mm512_scalef_ps(x.v.raw, n.v.raw)});
#else
  const VI whole = hn::NearestInt(n.v);
  const VI half = hn::ShiftRight<1>(whole);
  return x * pow2(half) * pow2(hn::Sub(whole, half));
#endif
}

inline constexpr float kLog2e = 1.44269504f;
inline constexpr float kLn2Hi = 0.693115234375f, kLn2Lo = 3.19461833e-5f;  // hi has 12 bits: n·hi is exact

/// exp for x that is NaN or in a range where scale works: [-150·ln 2, 130·ln 2].
#if HWY_TARGET == HWY_AVX3
// x = b·ln 2 + r, b a multiple of 1/16: 2^(b's fraction) comes from a register by its last four bits, and e^r needs
// three terms only. Adding 1.5·2^19 rounds b and leaves these bits at the end of the mantissa.
inline constexpr float kSixteenths[16] = {1.0f,        1.04427378f, 1.09050773f, 1.13878863f, 1.18920712f, 1.24185781f,
                                          1.29683955f, 1.35425555f, 1.41421356f, 1.47682615f, 1.54221083f, 1.61049033f,
                                          1.68179283f, 1.75625216f, 1.83400809f, 1.91520656f};
MC_INLINE F exp_bounded(F x) {
  const F magic = k(1.5f * 524288.0f);
  const F t = fma(x, k(kLog2e), magic);
  const F b = t - magic;
  F r = nfma(b, k(kLn2Hi), x);
  r = nfma(b, k(kLn2Lo), r);
  const F power = F(VF{_mm512_permutexvar_ps(_mm512_castps_si512(t.v.raw), _mm512_loadu_ps(kSixteenths))});
  const F q = fma(fma(k(0.166666667f), r, k(0.5f)), r * r, r);
  return scale(fma(power, q, power), b);  // scale floors b
}
#else
MC_INLINE F exp_bounded(F x) {
  const F n = round(x * k(kLog2e));
  F r = nfma(n, k(kLn2Hi), x);
  r = nfma(n, k(kLn2Lo), r);
  F p = fma(k(0.00138131455f), r, k(0.00836941876f));
  p = fma(p, r, k(0.0416684568f));
  p = fma(p, r, k(0.166665148f));
  p = fma(p, r, k(0.499999931f));
  p = fma(p, r, k(1));
  p = fma(p, r, k(1));
  return scale(p, n);
}
#endif
MC_INLINE F exp(F x) { return exp_bounded(clamp_high(clamp_low(x, k(-104)), k(89))); }

/// expm1 for x NaN or in [-18, 89]. 2^n - 1 is formed at half scale, so that n = 128 does not overflow early.
MC_INLINE F expm1_bounded(F x) {
  const F n = round(x * k(kLog2e));
  F r = nfma(n, k(kLn2Hi), x);
  r = nfma(n, k(kLn2Lo), r);
  F q = fma(k(0.00139475746f), r, k(0.00836723408f));
  q = fma(q, r, k(0.041666267f));
  q = fma(q, r, k(0.166665382f));
  q = fma(q, r, k(0.500000007f));
  const F p = fma(r * r, q, r);
  const F half = pow2(hn::Sub(hn::NearestInt(n.v), hn::Set(di, 1)));
  const F y = fma(half, p, half - k(0.5f));
  return y + y;
}
MC_INLINE F expm1(F x) { return expm1_bounded(clamp_high(clamp_low(x, k(-18)), k(89))); }

/// log(1 + f) + n·ln 2 for f in [√½ - 1, √2 - 1].
MC_INLINE F log_reduced(F f, F n) {
  F p = fma(k(-0.0786902985f), f, k(0.129216392f));
  p = fma(p, f, k(-0.131423533f));
  p = fma(p, f, k(0.141764134f));
  p = fma(p, f, k(-0.166228879f));
  p = fma(p, f, k(0.200024514f));
  p = fma(p, f, k(-0.250008539f));
  p = fma(p, f, k(0.333333151f));
  const F ff = f * f;
  F y = fma(n, k(kLn2Lo), p * f * ff);
  y = nfma(k(0.5f), ff, y);
  return fma(n, k(kLn2Hi), f + y);
}

inline constexpr int kSqrtHalfBits = 0x3f3504f3;

#if HWY_TARGET == HWY_AVX3
// Exponent and mantissa come with log's own special values: 0 gives -inf, a negative number NaN.
MC_INLINE F log(F x) {
  const F m = F(VF{_mm512_getmant_ps(x.v.raw, _MM_MANT_NORM_1_2, _MM_MANT_SIGN_nan)});
  const F e = F(VF{_mm512_getexp_ps(x.v.raw)});
  const M high = m > k(1.41421356f);
  return log_reduced(select(high, m * k(0.5f), m) - k(1), select(high, e + k(1), e));
}
#else
MC_INLINE F log(F x) {
  const M tiny = x < k(1.17549435e-38f);
  const F scaled = select(tiny, x * k(8388608.0f), x);
  const VI n = hn::ShiftRight<23>(hn::Sub(bits(scaled), hn::Set(di, kSqrtHalfBits)));
  const F m = from_bits(hn::Sub(bits(scaled), hn::ShiftLeft<23>(n)));
  const F e = F(hn::ConvertTo(df, n)) - select(tiny, k(23), k(0));
  const F y = log_reduced(m - k(1), e);
  const float inf = std::numeric_limits<float>::infinity();
  const F special = select(x == k(0), k(-inf), select(x < k(0), k(std::numeric_limits<float>::quiet_NaN()), x));
  return select(both(x > k(0), x < k(inf)), y, special);
}

#endif

/// 1 + x = 2^n (1 + f), with f computed from x itself: (x + 1 - 2^n) / 2^n loses nothing.
MC_INLINE F log1p(F x) {
  const F u = x + k(1);
  const VI n = hn::ShiftRight<23>(hn::Sub(bits(u), hn::Set(di, kSqrtHalfBits)));
  const M huge = x > k(1e30f);  // n reaches 128, where 2^-n is denormal: take 1/16 of it
  const VI shift = hn::Sub(n, hn::IfThenElseZero(hn::RebindMask(di, huge.m), hn::Set(di, 4)));
  const F inverse = pow2(hn::Neg(shift));
  const F f = fma(select(huge, x * k(0.0625f), x), inverse, inverse - k(1));
  const F y = log_reduced(f, F(hn::ConvertTo(df, n)));
  const float inf = std::numeric_limits<float>::infinity();
  const F special = select(x == k(-1), k(-inf), select(x < k(-1), k(std::numeric_limits<float>::quiet_NaN()), x));
  return select(both(x > k(-1), x < k(inf)), y, special);
}

MC_INLINE F tanh(F x) {
  const F t = expm1_bounded(clamp_high(abs(x), k(10)) * k(2));
  return copysign(t / (t + k(2)), x);
}

/// Through exp(-|x|), so that neither tail overflows: small results keep their relative precision.
MC_INLINE F sigmoid(F x) {
  const F e = exp_bounded(clamp_low(-abs(x), k(-104)));
  return select(x >= k(0), k(1), e) / (k(1) + e);
}

/// Two ranges (after N. Juffa): an odd polynomial below 475/512, 1 - exp(polynomial) above.
MC_INLINE F erf(F x) {
  const F t = clamp_high(abs(x), k(10)), s = t * t;
  F r = fma(k(-1.72853470e-5f), t, k(3.83197126e-4f));
  const F u = fma(k(-3.88396438e-3f), t, k(2.42546219e-2f));
  r = fma(r, s, u);
  r = fma(r, t, k(-1.06777877e-1f));
  r = fma(r, t, k(-6.34846687e-1f));
  r = fma(r, t, k(-1.28717512e-1f));
  r = fma(r, t, -t);
  const F outer = copysign(k(1) - exp_bounded(clamp_low(r, k(-104))), x);
  F p = fma(k(-5.96761703e-4f), s, k(4.99119423e-3f));
  p = fma(p, s, k(-2.67681349e-2f));
  p = fma(p, s, k(1.12819925e-1f));
  p = fma(p, s, k(-3.76125336e-1f));
  p = fma(p, s, k(1.28379166e-1f));
  return select(t > k(0.927734375f), outer, fma(p, x, x));
}

/// Lanes of `which` computed by a scalar function of double.
template <class Fn>
HWY_NOINLINE VF by_lane(VF x, VF otherwise, MF which, Fn fn) {
  HWY_ALIGN float in[HWY_MAX_BYTES / 4], out[HWY_MAX_BYTES / 4], use[HWY_MAX_BYTES / 4];
  hn::Store(x, df, in);
  hn::Store(otherwise, df, out);
  hn::Store(hn::IfThenElseZero(which, hn::Set(df, 1.0f)), df, use);
  for (std::size_t i = 0; i < hn::Lanes(df); ++i) {
    if (use[i] != 0) out[i] = static_cast<float>(fn(static_cast<double>(in[i])));
  }
  return hn::Load(df, out);
}

// x = n·π/2 + r. Three parts of π/2 with fma: the first difference is exact, for |x| up to 1e5. Without fma in double.
MC_INLINE F reduce_quarter(F x, F& n) {
  n = round(x * k(0.636619772f));
#if HWY_TARGET == HWY_SCALAR || HWY_TARGET == HWY_SSE4
  HWY_ALIGN float xs[HWY_MAX_BYTES / 4], ns[HWY_MAX_BYTES / 4];
  hn::Store(x.v, df, xs);
  hn::Store(n.v, df, ns);
  for (std::size_t i = 0; i < hn::Lanes(df); ++i) {
    const double q = ns[i];
    xs[i] = static_cast<float>((xs[i] - q * 1.57079632673412561417) - q * 6.07710050650619224932e-11);
  }
  return hn::Load(df, xs);
#else
  F r = nfma(n, k(1.57079637f), x);
  r = nfma(n, k(-4.37113883e-8f), r);
  return nfma(n, k(-1.71512489e-15f), r);
#endif
}

/// sin of r + quadrant·π/2 for |r| <= π/4.
MC_INLINE F sin_quadrant(F r, VI quadrant) {
  const F z = r * r;
  F s = fma(k(-1.9515295891e-4f), z, k(8.3321608736e-3f));
  s = fma(s, z, k(-1.6666654611e-1f));
  s = fma(s * z, r, r);
  F c = fma(k(2.443315711809948e-5f), z, k(-1.388731625493765e-3f));
  c = fma(c, z, k(4.166664568298827e-2f));
  c = fma(c * z, z, nfma(k(0.5f), z, k(1)));
  const VI one = hn::Set(di, 1);
  const M odd{hn::RebindMask(df, hn::Eq(hn::And(quadrant, one), one))};
  const VI sign = hn::ShiftLeft<30>(hn::And(quadrant, hn::Set(di, 2)));
  return from_bits(hn::Xor(bits(select(odd, c, s)), sign));
}

inline constexpr float kQuarterLimit = 1e5f;

MC_INLINE F sin(F x) {
  F n;
  const F r = reduce_quarter(x, n);
  const F y = sin_quadrant(r, hn::NearestInt(n.v));
  const M far{hn::Not((abs(x) <= k(kQuarterLimit)).m)};
  if (HWY_LIKELY(hn::AllFalse(df, far.m))) return y;
  return by_lane(x.v, y.v, far.m, [](double v) { return std::sin(v); });
}
MC_INLINE F cos(F x) {
  F n;
  const F r = reduce_quarter(x, n);
  const F y = sin_quadrant(r, hn::Add(hn::NearestInt(n.v), hn::Set(di, 1)));
  const M far{hn::Not((abs(x) <= k(kQuarterLimit)).m)};
  if (HWY_LIKELY(hn::AllFalse(df, far.m))) return y;
  return by_lane(x.v, y.v, far.m, [](double v) { return std::cos(v); });
}

HWY_MAYBE_UNUSED static HWY_NOINLINE F pow(F x, F y) {
  HWY_ALIGN float xs[HWY_MAX_BYTES / 4], ys[HWY_MAX_BYTES / 4];
  hn::Store(x.v, df, xs);
  hn::Store(y.v, df, ys);
  for (std::size_t i = 0; i < hn::Lanes(df); ++i) xs[i] = std::pow(xs[i], ys[i]);
  return hn::Load(df, xs);
}

MC_INLINE F silu_grad(F x) {
  const F s = sigmoid(x);
  return s * fma(x, k(1) - s, k(1));
}
/// d/dx of x·σ(u), u = x·(c1·x² + c0). x² is bounded where σ is 0 or 1, so that nothing overflows.
template <class Sigmoid>
HWY_INLINE F gelu_tanh_slope(F x, Sigmoid sigma) {
  const F c0 = k(1.5957691216057308f), c1 = k(0.07135481627260025f);
  const F xx = clamp_high(x * x, k(400));
  const F s = sigma(x * fma(xx, c1, c0));
  const F slope = fma(xx, k(3) * c1, c0);
  return fma(x * s * (k(1) - s), slope, s);
}
MC_INLINE F gelu_tanh_grad(F x) {
  return gelu_tanh_slope(x, [](F u) HWY_ATTR { return sigmoid(u); });
}

// Memory. The whole vector, or its first n lanes: nothing outside them is touched.
MC_INLINE F load(const float* p) { return hn::LoadU(df, p); }
MC_INLINE void store(F x, float* p) { hn::StoreU(x.v, df, p); }
MC_INLINE F load_some(const float* p, std::size_t n) {
#if HWY_TARGET == HWY_AVX3
  return F(VF{_mm512_maskz_loadu_ps(static_cast<__mmask16>((1u << n) - 1), p)});
#else
  HWY_ALIGN float tmp[HWY_MAX_BYTES / 4] = {};
  for (std::size_t i = 0; i < n; ++i) tmp[i] = p[i];
  return hn::Load(df, tmp);
#endif
}
MC_INLINE void store_some(F x, float* p, std::size_t n) {
#if HWY_TARGET == HWY_AVX3
  _mm512_mask_storeu_ps(p, static_cast<__mmask16>((1u << n) - 1), x.v.raw);
#else
  HWY_ALIGN float tmp[HWY_MAX_BYTES / 4];
  hn::Store(x.v, df, tmp);
  for (std::size_t i = 0; i < n; ++i) p[i] = tmp[i];
#endif
}

}  // namespace metal_candle::cpu::vm::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif
