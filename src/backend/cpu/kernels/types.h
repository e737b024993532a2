// From a dtype to a C++ type: `visit(dtype, f)` calls `f.template operator()<T>()`.
#pragma once

#include <cstdint>

#include "metal_candle/dtype.hpp"

namespace metal_candle::cpu {

template <class F>
decltype(auto) visit(DType dtype, F&& f) {
  switch (dtype) {
    case DType::f32: return f.template operator()<float>();
    case DType::f64: return f.template operator()<double>();
    case DType::f16: return f.template operator()<f16>();
    case DType::bf16: return f.template operator()<bf16>();
    case DType::i8: return f.template operator()<std::int8_t>();
    case DType::u8: return f.template operator()<std::uint8_t>();
    case DType::i32: return f.template operator()<std::int32_t>();
    case DType::i64: return f.template operator()<std::int64_t>();
    case DType::boolean: break;
  }
  return f.template operator()<bool>();
}

template <class T>
inline constexpr bool is_half = std::is_same_v<T, f16> || std::is_same_v<T, bf16>;

/// f64 or i64: what a 0-d host value, or an index tensor, arrives as.
inline std::int64_t read_index(const void* data, DType dtype, std::int64_t at) {
  return dtype == DType::i32 ? static_cast<const std::int32_t*>(data)[at] : static_cast<const std::int64_t*>(data)[at];
}

}  // namespace metal_candle::cpu
