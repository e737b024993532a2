#include "backend/cpu/kernels/box.h"

#include <algorithm>
#include <cstring>

namespace metal_candle::cpu {
namespace {

template <class T>
void copy_strided(char* to, std::int64_t to_stride, const char* from, std::int64_t from_stride, std::int64_t n) {
  T* t = reinterpret_cast<T*>(to);
  const T* f = reinterpret_cast<const T*>(from);
  for (std::int64_t i = 0; i < n; ++i) t[i * to_stride] = f[i * from_stride];
}

void copy_run(char* to, std::int64_t to_stride, const char* from, std::int64_t from_stride, std::int64_t n,
              std::size_t item) {
  if (to_stride == 1 && from_stride == 1) {
    std::memcpy(to, from, static_cast<std::size_t>(n) * item);
    return;
  }
  switch (item) {
    case 1: return copy_strided<std::uint8_t>(to, to_stride, from, from_stride, n);
    case 2: return copy_strided<std::uint16_t>(to, to_stride, from, from_stride, n);
    case 4: return copy_strided<std::uint32_t>(to, to_stride, from, from_stride, n);
    default: return copy_strided<std::uint64_t>(to, to_stride, from, from_stride, n);
  }
}

}  // namespace

Box::Box(const Shape& extents, const Shape& to_strides, const Shape& from_strides) {
  for (int i = 0; i < extents.rank(); ++i) {
    numel *= extents[i];
    if (extents[i] == 1) continue;
    const bool joins =
        rank > 0 && to[rank - 1] == to_strides[i] * extents[i] && from[rank - 1] == from_strides[i] * extents[i];
    if (joins) {
      dims[rank - 1] *= extents[i];
    } else {
      dims[rank++] = extents[i];
    }
    to[rank - 1] = to_strides[i];
    from[rank - 1] = from_strides[i];
  }
  if (rank == 0) {
    dims[0] = to[0] = from[0] = 1;
    rank = 1;
  }
}

void copy_box(const Box& box, void* to, const void* from, std::size_t item, std::int64_t begin, std::int64_t end) {
  if (begin >= end) return;
  const int last = box.rank - 1;
  const std::int64_t columns = box.dims[last];
  std::int64_t index[Shape::kMaxRank] = {};
  std::int64_t to_at = 0, from_at = 0, column = begin % columns;
  for (std::int64_t i = last - 1, rest = begin / columns; i >= 0; --i) {
    index[i] = rest % box.dims[i];
    rest /= box.dims[i];
    to_at += index[i] * box.to[i];
    from_at += index[i] * box.from[i];
  }
  while (begin < end) {
    const std::int64_t n = std::min(columns - column, end - begin);
    copy_run(at(to, to_at + column * box.to[last], item), box.to[last],
             at(from, from_at + column * box.from[last], item), box.from[last], n, item);
    begin += n;
    column = 0;
    for (int i = last - 1; i >= 0; --i) {
      to_at += box.to[i];
      from_at += box.from[i];
      if (++index[i] < box.dims[i]) break;
      index[i] = 0;
      to_at -= box.to[i] * box.dims[i];
      from_at -= box.from[i] * box.dims[i];
    }
  }
}

}  // namespace metal_candle::cpu
