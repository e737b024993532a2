// Vectors of f32, 2^x over them and their rounding to bf16. Included into a namespace per instruction set, after Highway and `hn`.

using D = HWY_FULL(float);
using DI = hn::RebindToSigned<D>;
using V = hn::Vec<D>;
constexpr D d;
constexpr DI di;
constexpr int kLanes = HWY_LANES(float);
constexpr float kLog2e = 1.44269504f, kMinusInf = -std::numeric_limits<float>::infinity();

HWY_INLINE V k(float x) { return hn::Set(d, x); }

// Limits that let a NaN through: x86 takes the second one of a pair with a NaN; elsewhere, and without vectors, Highway
// takes the other number.
#if HWY_ARCH_X86 && HWY_TARGET != HWY_SCALAR && HWY_TARGET != HWY_EMU128
HWY_INLINE V at_least(V low, V x) { return hn::Max(low, x); }
HWY_INLINE V at_most(V high, V x) { return hn::Min(high, x); }
#else
HWY_INLINE V at_least(V low, V x) { return hn::IfThenElse(hn::Lt(x, low), low, x); }
HWY_INLINE V at_most(V high, V x) { return hn::IfThenElse(hn::Lt(high, x), high, x); }
#endif

/// 2^x = whole·(1 + p·f) for x from -127 to 127, with f from -0.5 to 0.5; NaN stays in f.
struct Power {
  V p, f, whole;
};
HWY_INLINE Power power_of_two(V x) {
  const V shift = k(12582912.0f);  // 1.5·2^23: adding it leaves the nearest integer in the low bits
  const V t = hn::Add(x, shift);
  const V f = hn::Sub(x, hn::Sub(t, shift));
  V p = hn::MulAdd(k(1.5353362e-4f), f, k(1.3398874e-3f));
  p = hn::MulAdd(p, f, k(9.6184369e-3f));
  p = hn::MulAdd(p, f, k(5.5503324e-2f));
  p = hn::MulAdd(p, f, k(0.24022648f));
  p = hn::MulAdd(p, f, k(0.69314718f));
  // The exponent's bits; for -127 they are those of zero.
  return {p, f, hn::BitCast(d, hn::Add(hn::ShiftLeft<23>(hn::BitCast(di, t)), hn::Set(di, 127 << 23)))};
}

/// 2^x for x <= 0 or little above, to an ulp. 2^0 is exactly 1; below 2^-126 (and at -inf) it is 0; NaN stays.
HWY_INLINE V exp2(V x) {
  const Power y = power_of_two(at_least(k(-127.0f), x));
  return hn::Mul(hn::MulAdd(y.p, y.f, k(1.0f)), y.whole);
}

using DU = hn::RebindToUnsigned<D>;
constexpr DU du;

/// The nearest bf16 in the lower half of each lane; NaN stays.
HWY_INLINE hn::Vec<DU> round_bf16(V x) {
  const auto u = hn::BitCast(du, x);
  const auto high = hn::ShiftRight<16>(u);
  const auto rounded = hn::ShiftRight<16>(hn::Add(u, hn::Add(hn::And(high, hn::Set(du, 1u)), hn::Set(du, 0x7fffu))));
  return hn::IfThenElse(hn::RebindMask(du, hn::IsNaN(x)), hn::Or(high, hn::Set(du, 0x40u)), rounded);
}
