// A number and its place as one ordered key: keys compare like numbers, -0 equals +0, NaN is largest, and equal
// numbers compare by place. So an unstable sort of keys is a stable sort of numbers, needs no extra memory, and has one
// result.
#pragma once

#include <bit>
#include <cstdint>
#include <type_traits>

#include "backend/cpu/kernels/types.h"

namespace metal_candle::cpu {

template <class U, class F>
U ordered_bits(F value) {
  if (value != value) return ~U{0};
  if (value == 0) value = 0;  // -0
  const U bits = std::bit_cast<U>(value);
  constexpr U sign = U{1} << (8 * sizeof(U) - 1);
  return bits & sign ? ~bits : bits | sign;
}

template <class T>
auto ordered(T value) {
  if constexpr (is_half<T>) return ordered_bits<std::uint32_t>(static_cast<float>(value));
  else if constexpr (std::is_same_v<T, float>) return ordered_bits<std::uint32_t>(value);
  else if constexpr (std::is_same_v<T, double>) return ordered_bits<std::uint64_t>(value);
  else if constexpr (std::is_same_v<T, std::int64_t>)
    return static_cast<std::uint64_t>(value) ^ (std::uint64_t{1} << 63);
  else return static_cast<std::uint32_t>(static_cast<std::int32_t>(value)) ^ (1u << 31);
}

struct WideKey {
  std::uint64_t value;
  std::uint32_t place;
  friend bool operator<(const WideKey& a, const WideKey& b) {
    return a.value != b.value ? a.value < b.value : a.place < b.place;
  }
};

template <class T>
using SortKey = std::conditional_t<sizeof(ordered(T{})) == 4, std::uint64_t, WideKey>;

template <class T>
SortKey<T> sort_key(T value, std::uint32_t place, bool descending) {
  auto bits = ordered(value);
  if (descending) bits = ~bits;
  if constexpr (sizeof(bits) == 4) return std::uint64_t{bits} << 32 | place;
  else return {bits, place};
}
inline std::uint32_t place_of(std::uint64_t key) { return static_cast<std::uint32_t>(key); }
inline std::uint32_t place_of(const WideKey& key) { return key.place; }

inline std::size_t key_size(DType dtype) {
  return visit(dtype, []<class T>() { return sizeof(SortKey<T>); });
}

}  // namespace metal_candle::cpu
