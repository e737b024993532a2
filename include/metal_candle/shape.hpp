// Shapes: up to eight non-negative extents, held inline.
//
//   const mc::Shape s{2, 3, 4};
//   s.dim(-1);                              // 4
//   mc::broadcast({2, 1}, {3});             // [2, 3]
#pragma once

#include <cstdint>
#include <initializer_list>
#include <span>
#include <string>
#include <utility>
#include <vector>

namespace metal_candle {

/// A list of at most `kMaxRank` extents. Rank 0 is a scalar. An extent of 0 is legal everywhere.
class Shape {
 public:
  static constexpr int kMaxRank = 8;

  Shape() = default;
  Shape(std::initializer_list<std::int64_t> dims) : Shape(std::span(dims.begin(), dims.size())) {}
  /// Throws UserError on a negative extent, on more than eight, or when the product of all overflows 2^62.
  explicit Shape(std::span<const std::int64_t> dims);

  int rank() const { return rank_; }
  std::int64_t operator[](int axis) const { return dims_[axis]; }
  std::int64_t& operator[](int axis) { return dims_[axis]; }
  /// Extent of an axis counted from either end; throws UserError if there is no such axis.
  std::int64_t dim(int axis) const { return dims_[normalize_axis(axis)]; }
  std::int64_t numel() const {
    std::int64_t n = 1;
    for (int i = 0; i < rank_; ++i) n *= dims_[i];
    return n;
  }
  const std::int64_t* begin() const { return dims_; }
  const std::int64_t* end() const { return dims_ + rank_; }
  std::span<const std::int64_t> dims() const { return {dims_, static_cast<std::size_t>(rank_)}; }
  void push_back(std::int64_t extent);
  /// -rank..rank-1 to 0..rank-1; throws UserError naming the range.
  int normalize_axis(int axis) const;
  std::string str() const;  // "[2, 3]"

  friend bool operator==(const Shape& a, const Shape& b) {
    if (a.rank_ != b.rank_) return false;
    for (int i = 0; i < a.rank_; ++i)
      if (a.dims_[i] != b.dims_[i]) return false;
    return true;
  }

 private:
  std::int64_t dims_[kMaxRank];
  int rank_ = 0;
};

/// Axes of an operation, counted from either end: one number, a list, or nothing, which for reductions means all.
///
///   mc::sum(x); mc::sum(x, -1); mc::sum(x, {0, 2}, true);
struct Axes : std::vector<int> {
  using std::vector<int>::vector;
  Axes(int axis) : Axes({axis}) {}                                    // NOLINT: implicit by intent, and below
  Axes(std::vector<int> axes) : std::vector<int>(std::move(axes)) {}  // NOLINT
  Axes(bool) = delete;                                                // `sum(x, true)` meant keepdim
};

/// Numpy broadcasting of two shapes; throws UserError naming both.
Shape broadcast(const Shape& a, const Shape& b);
/// Strides, in elements, of a dense row-major tensor.
Shape contiguous_strides(const Shape& shape);

}  // namespace metal_candle
