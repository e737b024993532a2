// Which numbers an integer type can hold.
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

std::string shown(const Scalar& s) {
  if (beyond_int64(s)) return fmt::format("{:.0f}", s.f);
  return s.integral ? std::to_string(s.i) : fmt::format("{}", s.f);
}

}  // namespace metal_candle
