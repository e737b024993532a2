// Copying a box of elements between two strided arrays of one element size: what concat, pad and the slices consist of.
#pragma once

#include <cstdint>

#include "metal_candle/shape.hpp"

namespace metal_candle::cpu {

/// A box in canonical form: axes of extent 1 are gone, neighbouring axes that are one run in both arrays are one axis.
struct Box {
  Box(const Shape& extents, const Shape& to_strides, const Shape& from_strides);

  std::int64_t numel = 1;
  int rank = 0;
  std::int64_t dims[Shape::kMaxRank], to[Shape::kMaxRank], from[Shape::kMaxRank];
};

/// Copies the elements [begin, end) of the box, counted in row-major order.
void copy_box(const Box& box, void* to, const void* from, std::size_t item, std::int64_t begin, std::int64_t end);

inline char* at(void* data, std::int64_t elements, std::size_t item) {
  return static_cast<char*>(data) + elements * static_cast<std::int64_t>(item);
}
inline const char* at(const void* data, std::int64_t elements, std::size_t item) {
  return static_cast<const char*>(data) + elements * static_cast<std::int64_t>(item);
}

}  // namespace metal_candle::cpu
