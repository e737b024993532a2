// What a tensor may be: sizes whose bytes can be counted, and numbers that a type can hold.
#pragma once

#include <string>

#include "metal_candle/lazy_tensor.hpp"

namespace metal_candle {

/// No machine addresses more; and sums of a hundred such sizes are far from overflowing.
inline constexpr std::uint64_t kMostBytes = std::uint64_t{1} << 56;

/// Whether a dense tensor of this type takes at most kMostBytes, so that elements, bytes and strides can be computed
/// without a check. False for a negative extent, and for what is no type. Zeros hide nothing: strides are products of the
/// other extents.
inline bool countable(DType dtype, const Shape& shape) {
  std::uint64_t bytes = size_of(dtype);
  bool over = bytes == 0;
  for (const std::int64_t extent : shape)
    over |= __builtin_mul_overflow(bytes, static_cast<std::uint64_t>(extent) + (extent == 0), &bytes);
  return !over && bytes <= kMostBytes;
}

/// Why a tensor of this type is not countable.
std::string uncountable(DType dtype, const Shape& shape);

/// `s` as a number that `dtype` is filled with: a float type gets any number, bool whether it is not zero, an integer
/// type the number without its fraction. False: an integer type cannot hold that.
bool fit_number(DType dtype, Scalar& s);

/// How many of begin, begin + step, ... come before end; step is not 0.
std::uint64_t count_of(std::int64_t begin, std::int64_t end, std::int64_t step);

/// Whether an integer was given that int64 does not hold. As a float it is a number like any other.
inline bool beyond_int64(const Scalar& s) { return s.integral && static_cast<double>(s.i) != s.f; }
/// The number as errors show it.
std::string shown(const Scalar& s);

}  // namespace metal_candle
