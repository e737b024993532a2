// A matmul step as few loops as possible: m, n, k, one batch, and what is left outside.
#pragma once

#include <array>
#include <vector>

#include "compiler/plan.h"

namespace metal_candle::cpu {

struct MatmulShape {
  /// a, b, a2, b2; strides in elements. A missing second product has k = 0.
  struct Side {
    int buffer = -1;
    std::int64_t offset = 0, row_stride = 0, col_stride = 1;
    std::vector<std::int64_t> strides;  // per entry of `extents`
    bool constant = false;
  };
  std::int64_t m = 0, n = 0, k[2] = {};
  std::vector<std::int64_t> extents;  // batch, none of them 1
  std::int64_t batch = 1;             // their product
  std::array<Side, 4> sides;

  bool empty() const { return m == 0 || n == 0 || batch == 0; }
  /// Where entry `index` of the batch begins, in elements.
  std::int64_t offset(const Side& side, std::int64_t index) const {
    std::int64_t at = side.offset;
    for (std::size_t d = extents.size(); d-- > 0; index /= extents[d]) at += index % extents[d] * side.strides[d];
    return at;
  }
};

/// Extents that are walked in one stride become one; a batch that shares b and is dense in a becomes rows. The rows of
/// all batch entries keep their order.
MatmulShape simplify(const MatmulStep& step);

}  // namespace metal_candle::cpu
