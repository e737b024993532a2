// One value of any register type, with the functions that the bodies of elementwise.def call.
//
// The reference arithmetic for f64 (gradient tests rely on its accuracy: everything is the C++ library's), and the
// kernels of the integer types. Integers wrap.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <type_traits>

namespace metal_candle::cpu::vm {

template <class E>
struct Lane {
  E v;
  Lane() = default;
  template <class N>
  requires std::is_arithmetic_v<N>
  explicit Lane(N x) : v(static_cast<E>(x)) {}

  // Integers compute in their unsigned type, where overflow is defined.
  static constexpr bool kFloat = std::is_floating_point_v<E>;
  using U = typename std::conditional_t<kFloat, std::type_identity<E>, std::make_unsigned<E>>::type;
  static Lane of(U x) { return Lane(static_cast<E>(x)); }
  friend Lane operator+(Lane a, Lane b) { return of(static_cast<U>(a.v) + static_cast<U>(b.v)); }
  friend Lane operator-(Lane a, Lane b) { return of(static_cast<U>(a.v) - static_cast<U>(b.v)); }
  friend Lane operator*(Lane a, Lane b) { return of(static_cast<U>(a.v) * static_cast<U>(b.v)); }
  friend Lane operator/(Lane a, Lane b) { return Lane(a.v / b.v); }
  friend Lane operator-(Lane a) { return kFloat ? Lane(-a.v) : Lane(E(0)) - a; }
  friend Lane operator&(Lane a, Lane b) {
    return Lane(static_cast<E>(static_cast<std::int64_t>(a.v) & static_cast<std::int64_t>(b.v)));
  }
  friend Lane operator|(Lane a, Lane b) {
    return Lane(static_cast<E>(static_cast<std::int64_t>(a.v) | static_cast<std::int64_t>(b.v)));
  }
  friend Lane operator^(Lane a, Lane b) {
    return Lane(static_cast<E>(static_cast<std::int64_t>(a.v) ^ static_cast<std::int64_t>(b.v)));
  }
  friend bool operator<(Lane a, Lane b) { return a.v < b.v; }
  friend bool operator<=(Lane a, Lane b) { return a.v <= b.v; }
  friend bool operator>(Lane a, Lane b) { return a.v > b.v; }
  friend bool operator>=(Lane a, Lane b) { return a.v >= b.v; }
  friend bool operator==(Lane a, Lane b) { return a.v == b.v; }
  friend bool operator!=(Lane a, Lane b) { return a.v != b.v; }
};

template <class E>
Lane<E> select(bool m, Lane<E> a, Lane<E> b) {
  return m ? a : b;
}
template <class E>
Lane<E> max(Lane<E> a, Lane<E> b) {
  return a.v != a.v || a.v > b.v ? a : b;
}
template <class E>
Lane<E> min(Lane<E> a, Lane<E> b) {
  return a.v != a.v || a.v < b.v ? a : b;
}
template <class E>
Lane<E> abs(Lane<E> x) {
  if constexpr (Lane<E>::kFloat) return Lane<E>(std::fabs(x.v));
  else return x.v < 0 ? -x : x;
}
// Integers are whole already.
#define MC_ROUNDING(name, call)                                    \
  template <class E>                                               \
  Lane<E> name(Lane<E> x) {                                        \
    if constexpr (Lane<E>::kFloat) return Lane<E>(std::call(x.v)); \
    else return x;                                                 \
  }
MC_ROUNDING(floor, floor)
MC_ROUNDING(ceil, ceil)
MC_ROUNDING(round, nearbyint)
#undef MC_ROUNDING
// clang-format off
#define MC_STD(name)                \
  template <class E>                \
  Lane<E> name(Lane<E> x) {         \
    return Lane<E>(std::name(x.v)); \
  }
MC_STD(exp)
MC_STD(expm1)
MC_STD(log)
MC_STD(log1p)
MC_STD(sqrt)
MC_STD(sin)
MC_STD(cos)
MC_STD(tanh)
MC_STD(erf)
#undef MC_STD
// clang-format on
template <class E>
Lane<E> rsqrt(Lane<E> x) {
  return Lane<E>(1 / std::sqrt(x.v));
}
template <class E>
Lane<E> pow(Lane<E> x, Lane<E> y) {
  return Lane<E>(std::pow(x.v, y.v));
}
template <class E>
Lane<E> fma(Lane<E> a, Lane<E> b, Lane<E> c) {
  return Lane<E>(std::fma(a.v, b.v, c.v));
}
template <class E>
Lane<E> sigmoid(Lane<E> x) {
  const E e = std::exp(-std::fabs(x.v));
  return Lane<E>((x.v >= 0 ? E(1) : e) / (1 + e));
}
template <class E>
Lane<E> silu_grad(Lane<E> x) {
  const E s = sigmoid(x).v;
  return Lane<E>(s * (1 + x.v * (1 - s)));
}
template <class E>
Lane<E> gelu_tanh_grad(Lane<E> x) {
  const E c0 = E(1.5957691216057308), c1 = E(0.07135481627260025);
  const E xx = x.v * x.v > 400 ? E(400) : x.v * x.v;
  const E s = sigmoid(Lane<E>(x.v * (xx * c1 + c0))).v;
  return Lane<E>(s + x.v * s * (1 - s) * (c0 + 3 * c1 * xx));
}

/// Number conversion with the rules of KOp::cast: to a narrower integer it wraps, to bool it asks != 0. A float that
/// does not fit gives the smallest integer, as the x86 instruction does.
template <class To, class From>
To convert(From x) {
  if constexpr (std::is_same_v<To, bool>) {
    return x != From(0);
  } else if constexpr (std::is_floating_point_v<From> && std::is_integral_v<To>) {
    using Wide = std::conditional_t<(sizeof(To) < 4), std::int32_t, To>;
    constexpr From limit = From(9007199254740992.0) * (sizeof(Wide) == 8 ? From(1024) : From(1) / From(4194304));
    const Wide whole = x >= -limit && x < limit ? static_cast<Wide>(x) : std::numeric_limits<Wide>::min();
    return static_cast<To>(whole);
  } else {
    return static_cast<To>(x);
  }
}

}  // namespace metal_candle::cpu::vm
