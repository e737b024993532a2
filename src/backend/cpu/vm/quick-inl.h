// How an op is applied to a vector: to any lanes, or the short way, which is right for lanes that are not far out and
// tells how far they are. Four vectors go the short way and look once. The same bits for a lane that both may take.
#if defined(MC_VM_QUICK_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef MC_VM_QUICK_INL_H_
#undef MC_VM_QUICK_INL_H_
#else
#define MC_VM_QUICK_INL_H_
#endif

#include "backend/cpu/vm/rows-inl.h"

HWY_BEFORE_NAMESPACE();
namespace metal_candle::cpu::vm::HWY_NAMESPACE {

template <class Op>
struct Lanes {
  static constexpr bool quick = false;
  static HWY_INLINE F apply(F x) { return Op::apply(x); }
  static HWY_INLINE F near(F x, F&) { return Op::apply(x); }
};

#if HWY_TARGET == HWY_AVX3
/// The largest magnitude so far. NaN does not count: the short ways hand it on.
MC_INLINE F farther(F far, F x) { return F(VF{_mm512_range_ps(far.v.raw, x.v.raw, 0xb)}); }

/// 2^b · c for t from the rounding in exp_bounded, b in [-126, 127): the table's entries lack what the last bits of b
/// add to the mantissa, so that one sum sets exponent and mantissa.
MC_INLINE F power_near(F t) {
  constexpr int kStep = 1 << 19;
  alignas(64) static constexpr std::int32_t kBits[16] = {0x3f800000,
                                                         0x3f85aac3 - 1 * kStep,
                                                         0x3f8b95c2 - 2 * kStep,
                                                         0x3f91c3d3 - 3 * kStep,
                                                         0x3f9837f0 - 4 * kStep,
                                                         0x3f9ef532 - 5 * kStep,
                                                         0x3fa5fed7 - 6 * kStep,
                                                         0x3fad583f - 7 * kStep,
                                                         0x3fb504f3 - 8 * kStep,
                                                         0x3fbd08a4 - 9 * kStep,
                                                         0x3fc5672a - 10 * kStep,
                                                         0x3fce248c - 11 * kStep,
                                                         0x3fd744fd - 12 * kStep,
                                                         0x3fe0ccdf - 13 * kStep,
                                                         0x3feac0c7 - 14 * kStep,
                                                         0x3ff5257d - 15 * kStep};
  const VI root{_mm512_permutexvar_epi32(bits(t).raw, _mm512_load_si512(kBits))};
  return from_bits(hn::Add(root, hn::ShiftLeft<19>(bits(t))));
}
/// exp for |x| <= kFar, in the steps of exp_bounded.
MC_INLINE F exp_near(F x) {
  const F magic = k(1.5f * 524288.0f);
  const F t = fma(x, k(kLog2e), magic);
  const F b = t - magic;
  F r = nfma(b, k(kLn2Hi), x);
  r = nfma(b, k(kLn2Lo), r);
  const F power = power_near(t);
  const F q = fma(fma(k(0.166666667f), r, k(0.5f)), r * r, r);
  return fma(power, q, power);
}

template <>
struct Lanes<Op_exp> {
  static constexpr bool quick = true;
  static HWY_INLINE F apply(F x) { return Op_exp::apply(x); }
  static HWY_INLINE F near(F x, F& far) {
    far = farther(far, x);
    return exp_near(x);
  }
};

/// σ(x), where exp(-x) overflows as exp(x).
MC_INLINE F sigmoid_any(F x) { return select(x < k(-kFar), exp(x), k(1) / (k(1) + exp(-x))); }
MC_INLINE F sigmoid_near(F x) { return k(1) / (k(1) + exp_near(-x)); }

template <>
struct Lanes<Op_sigmoid> {
  static constexpr bool quick = true;
  static HWY_INLINE F apply(F x) { return sigmoid_any(x); }
  static HWY_INLINE F near(F x, F& far) {
    far = farther(far, x);
    return sigmoid_near(x);
  }
};

template <>
struct Lanes<Op_silu_grad> {
  static constexpr bool quick = true;
  static HWY_INLINE F slope(F x, F s) { return s * fma(x, k(1) - s, k(1)); }
  static HWY_INLINE F apply(F x) { return slope(x, sigmoid_any(x)); }
  static HWY_INLINE F near(F x, F& far) {
    far = farther(far, x);
    return slope(x, sigmoid_near(x));
  }
};

/// x / (1 + exp(-x)); where that overflows σ(x) is exp(x).
template <>
struct Lanes<Op_silu> {
  static constexpr bool quick = true;
  static HWY_INLINE F apply(F x) { return select(x < k(-kFar), x * exp(x), x / (k(1) + exp(-x))); }
  static HWY_INLINE F near(F x, F& far) {
    far = farther(far, x);
    return x / (k(1) + exp_near(-x));
  }
};

/// The same of u, which is x · (c1·x² + c0).
template <>
struct Lanes<Op_gelu_tanh> {
  static constexpr bool quick = true;
  static HWY_INLINE F argument(F x) { return x * fma(x * x, k(0.07135481627260025f), k(1.5957691216057308f)); }
  static HWY_INLINE F apply(F x) {
    const F u = argument(x);
    return select(u < k(-kFar), x * exp(u), x / (k(1) + exp(-u)));
  }
  static HWY_INLINE F near(F x, F& far) {
    const F u = argument(x);
    far = farther(far, u);
    return x / (k(1) + exp_near(-u));
  }
};

template <>
struct Lanes<Op_gelu_tanh_grad> {
  static constexpr bool quick = true;
  static HWY_INLINE F apply(F x) {
    return gelu_tanh_slope(x, [](F u) HWY_ATTR { return sigmoid_any(u); });
  }
  static HWY_INLINE F near(F x, F& far) {
    return gelu_tanh_slope(x, [&](F u) HWY_ATTR {
      far = farther(far, u);
      return sigmoid_near(u);
    });
  }
};
#endif

}  // namespace metal_candle::cpu::vm::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif
