#include "metal_candle/dtype.hpp"

#include <cmath>

namespace metal_candle {
namespace {

struct Row {
  std::string_view name;
  std::size_t size;
};
constexpr Row kRows[kDTypeCount] = {{"f32", 4}, {"f64", 8}, {"f16", 2}, {"bf16", 2}, {"i8", 1},
                                    {"u8", 1},  {"i32", 4}, {"i64", 8}, {"bool", 1}};
constexpr Row kNone{"no type", 0};

// Any number can be made a DType.
const Row& row(DType d) { return static_cast<int>(d) < kDTypeCount ? kRows[static_cast<int>(d)] : kNone; }

int width_rank(DType d) {  // wider within its family is larger
  switch (d) {
    case DType::i8:
    case DType::u8: return 1;
    case DType::i32: return 2;
    case DType::i64: return 3;
    case DType::f16:
    case DType::bf16: return 1;
    case DType::f32: return 2;
    case DType::f64: return 3;
    case DType::boolean: return 0;
  }
  return 0;
}

}  // namespace

std::size_t size_of(DType d) { return row(d).size; }
std::string_view name(DType d) { return row(d).name; }
bool is_float(DType d) { return d <= DType::bf16; }
bool is_integer(DType d) { return d >= DType::i8 && d <= DType::i64; }

DType promote(DType a, DType b) {
  if (a == b) return a;
  if (a == DType::boolean) return b;
  if (b == DType::boolean) return a;
  if (is_float(a) != is_float(b)) return is_float(a) ? a : b;
  if (width_rank(a) != width_rank(b)) return width_rank(a) > width_rank(b) ? a : b;
  return is_float(a) ? DType::f32 : DType::i32;  // f16 with bf16, i8 with u8
}

DType float_type(DType d) { return is_float(d) ? d : DType::f32; }

f16::f16(float value) {
  const auto u = std::bit_cast<std::uint32_t>(value);
  const std::uint32_t sign = (u >> 16) & 0x8000u;
  const std::uint32_t magnitude = u & 0x7fffffffu;
  std::uint32_t out;
  if (magnitude > 0x7f800000u) {
    out = 0x7e00u | ((magnitude >> 13) & 0x3ffu);  // NaN stays one
  } else if (magnitude >= 0x477ff000u) {
    out = 0x7c00u;  // rounds to infinity
  } else if (magnitude < 0x38800000u) {
    // Subnormal: adding 0.5 lets the float unit shift and round to nearest even.
    const float shifted = std::bit_cast<float>(magnitude) + 0.5f;
    out = std::bit_cast<std::uint32_t>(shifted) - 0x3f000000u;
  } else {
    out = (magnitude + 0xc8000fffu + ((magnitude >> 13) & 1u)) >> 13;
  }
  bits = static_cast<std::uint16_t>(sign | out);
}

f16::operator float() const {
  const std::uint32_t sign = (static_cast<std::uint32_t>(bits) & 0x8000u) << 16;
  const std::uint32_t exponent = (bits >> 10) & 0x1fu;
  const std::uint32_t mantissa = bits & 0x3ffu;
  if (exponent == 31) return std::bit_cast<float>(sign | 0x7f800000u | (mantissa << 13));
  if (exponent != 0) return std::bit_cast<float>(sign | ((exponent + 112) << 23) | (mantissa << 13));
  const float value = std::ldexp(static_cast<float>(mantissa), -24);
  return sign ? -value : value;
}

}  // namespace metal_candle
