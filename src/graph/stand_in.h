// Numbers that stand for inputs of an op while its decomposition is recorded (compiler/rules/decompose.cpp). They are
// numbers, so that they stay weak in promotion; their value says which input they stand for, so nothing may change it.
#pragma once

#include <bit>

#include "metal_candle/lazy_tensor.hpp"

namespace metal_candle {

inline constexpr std::uint64_t kNumberMark = 0x7ff8c0de00000000ull;  // a NaN's payload
inline constexpr std::int64_t kIntegerMark = 0x5eadc0de0000;

/// For one of the first 256 inputs, a whole number or one that is not.
inline Scalar stand_in(int input, bool integral) {
  if (integral) return Scalar(kIntegerMark + input);
  return Scalar(std::bit_cast<double>(kNumberMark + static_cast<std::uint64_t>(input)));
}

/// Which input it stands for, or -1.
inline int stood_for(Scalar s) {
  if (s.integral) return s.i >= kIntegerMark && s.i < kIntegerMark + 256 ? static_cast<int>(s.i - kIntegerMark) : -1;
  const auto bits = std::bit_cast<std::uint64_t>(s.f);
  return (bits & 0xffffffffffffff00ull) == kNumberMark ? static_cast<int>(bits & 0xff) : -1;
}

}  // namespace metal_candle
