#include "metal_candle/shape.hpp"

#include <fmt/format.h>

#include "metal_candle/device.hpp"
#include "metal_candle/error.hpp"

namespace metal_candle {
namespace {

constexpr std::int64_t kMaxElements = std::int64_t{1} << 62;

std::string text(std::span<const std::int64_t> dims) {
  std::string s = "[";
  for (std::size_t i = 0; i < dims.size(); ++i) s += (i ? ", " : "") + std::to_string(dims[i]);
  return s + "]";
}

}  // namespace

Shape::Shape(std::span<const std::int64_t> dims) {
  if (dims.size() > kMaxRank)
    throw UserError(ErrorKind::shape, fmt::format("a shape has at most {} axes, got {}", kMaxRank, text(dims)));
  std::int64_t product = 1;
  for (const std::int64_t d : dims) {
    if (d < 0) throw UserError(ErrorKind::shape, "negative extent in shape " + text(dims));
    // Zeros do not hide an overflow: strides are computed from the other extents.
    if (d > 0 && product > kMaxElements / d)
      throw UserError(ErrorKind::shape, "shape " + text(dims) + " has too many elements");
    if (d > 0) product *= d;
    dims_[rank_++] = d;
  }
}

void Shape::push_back(std::int64_t extent) {
  if (rank_ == kMaxRank) throw UserError(ErrorKind::shape, fmt::format("a shape has at most {} axes", kMaxRank));
  dims_[rank_++] = extent;
}

int Shape::normalize_axis(int axis) const {
  if (axis < -rank_ || axis >= rank_)
    throw UserError(ErrorKind::argument,
                    fmt::format("axis {} is out of range for shape {} of rank {}", axis, str(), rank_));
  return axis < 0 ? axis + rank_ : axis;
}

std::string Shape::str() const { return text(dims()); }

Shape broadcast(const Shape& a, const Shape& b) {
  const int rank = a.rank() > b.rank() ? a.rank() : b.rank();
  std::int64_t out[Shape::kMaxRank];
  for (int i = 0; i < rank; ++i) {
    const int ia = a.rank() - rank + i, ib = b.rank() - rank + i;
    const std::int64_t da = ia < 0 ? 1 : a[ia], db = ib < 0 ? 1 : b[ib];
    if (da != db && da != 1 && db != 1)
      throw UserError(ErrorKind::shape, fmt::format("shapes {} and {} do not broadcast", a.str(), b.str()));
    out[i] = da == 1 ? db : da;
  }
  return Shape(std::span<const std::int64_t>(out, static_cast<std::size_t>(rank)));
}

Shape contiguous_strides(const Shape& shape) {
  Shape strides = shape;
  std::int64_t step = 1;
  for (int i = shape.rank() - 1; i >= 0; --i) {
    strides[i] = step;
    step *= shape[i] > 0 ? shape[i] : 1;
  }
  return strides;
}

std::string Device::str() const { return index == 0 ? "cpu" : "cpu:" + std::to_string(index); }

}  // namespace metal_candle
