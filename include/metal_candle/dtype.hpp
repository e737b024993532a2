// Element types, their promotion, and the two 16-bit floats as C++ types.
//
//   mc::promote(mc::DType::bf16, mc::DType::i32);                     // bf16
//   const mc::bf16 half(1.5f);
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <string_view>

namespace metal_candle {

enum class DType : std::uint8_t { f32, f64, f16, bf16, i8, u8, i32, i64, boolean };
inline constexpr int kDTypeCount = 9;

/// Of a number that is none of the types: 0.
std::size_t size_of(DType dtype);
/// "f32", "bool", ...; of a number that is none of the types: "no type".
std::string_view name(DType dtype);
bool is_float(DType dtype);
/// i8, u8, i32, i64 (not bool).
bool is_integer(DType dtype);

/// The type of `a ∘ b`. The rules, in order:
///   1. equal types stay;
///   2. bool gives way to anything; an integer gives way to any float;
///   3. of two integers the wider wins, i8 with u8 gives i32;
///   4. of two floats the wider wins, f16 with bf16 gives f32.
/// A C++ scalar operand is weak: it takes the tensor's type, except that a fractional scalar turns an integer or bool
/// tensor into f32, and an integer scalar turns a bool tensor into i32.
DType promote(DType a, DType b);
/// The type in which a float-only operation (exp, division, mean) computes: floats stay, the rest becomes f32.
DType float_type(DType dtype);

/// Brain float: the upper half of an f32. Conversion rounds to nearest even and keeps NaN.
struct bf16 {
  std::uint16_t bits = 0;
  bf16() = default;
  explicit bf16(float value) {
    const auto u = std::bit_cast<std::uint32_t>(value);
    const bool nan = (u & 0x7fffffffu) > 0x7f800000u;
    bits = static_cast<std::uint16_t>(nan ? (u >> 16) | 0x40u : (u + 0x7fffu + ((u >> 16) & 1u)) >> 16);
  }
  explicit operator float() const { return std::bit_cast<float>(static_cast<std::uint32_t>(bits) << 16); }
  friend bool operator==(bf16 a, bf16 b) { return static_cast<float>(a) == static_cast<float>(b); }
};

/// IEEE half. Conversion rounds to nearest even.
struct f16 {
  std::uint16_t bits = 0;
  f16() = default;
  explicit f16(float value);
  explicit operator float() const;
  friend bool operator==(f16 a, f16 b) { return static_cast<float>(a) == static_cast<float>(b); }
};

template <class T>
struct DTypeOf;
// clang-format off
template <> struct DTypeOf<float> { static constexpr DType value = DType::f32; };
template <> struct DTypeOf<double> { static constexpr DType value = DType::f64; };
template <> struct DTypeOf<f16> { static constexpr DType value = DType::f16; };
template <> struct DTypeOf<bf16> { static constexpr DType value = DType::bf16; };
template <> struct DTypeOf<std::int8_t> { static constexpr DType value = DType::i8; };
template <> struct DTypeOf<std::uint8_t> { static constexpr DType value = DType::u8; };
template <> struct DTypeOf<std::int32_t> { static constexpr DType value = DType::i32; };
template <> struct DTypeOf<std::int64_t> { static constexpr DType value = DType::i64; };
template <> struct DTypeOf<bool> { static constexpr DType value = DType::boolean; };
// clang-format on
template <class T>
inline constexpr DType dtype_of = DTypeOf<T>::value;

}  // namespace metal_candle
