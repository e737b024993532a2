// Which numbers an integer type can hold, and how many lie in a range.
#include "graph/limits.h"

#include <fmt/format.h>

#include <limits>

namespace metal_candle {
namespace {

template <class T>
bool within(std::int64_t value) {
  return value >= std::numeric_limits<T>::min() && value <= std::numeric_limits<T>::max();
}

}  // namespace

std::string uncountable(DType dtype, const Shape& shape) {
  if (size_of(dtype) == 0) return fmt::format("there is no type of number {}", static_cast<int>(dtype));
  return fmt::format("a result of {}{} has more bytes than any machine has addresses for", name(dtype), shape.str());
}

bool fit_number(DType dtype, Scalar& s) {
  if (is_float(dtype)) {
    s = Scalar(s.f);
    return true;
  }
  if (dtype == DType::boolean) {
    s = Scalar(std::int64_t{s.f != 0});
    return true;
  }
  if (beyond_int64(s)) return false;
  if (!s.integral) {
    constexpr double limit = 0x1p63;
    if (!(s.f >= -limit && s.f < limit)) return false;  // NaN too
    s = Scalar(static_cast<std::int64_t>(s.f));
  }
  switch (dtype) {
    case DType::i8: return within<std::int8_t>(s.i);
    case DType::u8: return within<std::uint8_t>(s.i);
    case DType::i32: return within<std::int32_t>(s.i);
    default: return true;
  }
}

std::uint64_t count_of(std::int64_t begin, std::int64_t end, std::int64_t step) {
  // Unsigned: the distance of two i64 need not be one.
  const auto from = static_cast<std::uint64_t>(begin), to = static_cast<std::uint64_t>(end),
             by = static_cast<std::uint64_t>(step);
  if (step > 0) return begin < end ? (to - from - 1) / by + 1 : 0;
  return begin > end ? (from - to - 1) / -by + 1 : 0;
}

std::string shown(const Scalar& s) {
  if (beyond_int64(s)) return fmt::format("{:.0f}", s.f);
  return s.integral ? std::to_string(s.i) : fmt::format("{}", s.f);
}

}  // namespace metal_candle
