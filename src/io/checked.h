// Arithmetic on numbers that a file contains: an overflow sticks, and is asked for once, at the end.
#pragma once

#include <cstdint>

namespace metal_candle::io {

class Checked {
 public:
  constexpr Checked(std::uint64_t value) : value_(value) {}
  constexpr Checked& operator*=(std::uint64_t factor) {
    overflow_ |= __builtin_mul_overflow(value_, factor, &value_);
    return *this;
  }
  constexpr Checked& operator+=(std::uint64_t term) {
    overflow_ |= __builtin_add_overflow(value_, term, &value_);
    return *this;
  }
  friend constexpr Checked operator*(Checked a, std::uint64_t b) { return a *= b; }
  friend constexpr Checked operator+(Checked a, std::uint64_t b) { return a += b; }
  constexpr bool overflow() const { return overflow_; }
  /// What it is, if nothing overflowed on the way.
  constexpr std::uint64_t value() const { return value_; }
  /// Whether it is this number, exactly.
  constexpr bool is(std::uint64_t other) const { return !overflow_ && value_ == other; }
  constexpr bool at_most(std::uint64_t most) const { return !overflow_ && value_ <= most; }

 private:
  std::uint64_t value_;
  bool overflow_ = false;
};

}  // namespace metal_candle::io
