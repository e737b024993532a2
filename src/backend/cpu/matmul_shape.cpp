#include "backend/cpu/matmul_shape.h"

#include <algorithm>

namespace metal_candle::cpu {
namespace {

void drop_ones(MatmulShape& s) {
  for (std::size_t d = s.extents.size(); d-- > 0;) {
    if (s.extents[d] != 1) continue;
    const auto at = static_cast<std::ptrdiff_t>(d);
    s.extents.erase(s.extents.begin() + at);
    for (auto& side : s.sides) side.strides.erase(side.strides.begin() + at);
  }
}

void merge_neighbours(MatmulShape& s) {
  for (std::size_t d = s.extents.size(); d-- > 1;) {
    const bool one_stride = std::all_of(s.sides.begin(), s.sides.end(), [&](const auto& side) {
      return side.strides[d - 1] == side.strides[d] * s.extents[d];
    });
    if (!one_stride) continue;
    const auto at = static_cast<std::ptrdiff_t>(d);
    s.extents[d - 1] *= s.extents[d];
    s.extents.erase(s.extents.begin() + at);
    for (auto& side : s.sides) side.strides.erase(side.strides.begin() + at - 1);
  }
}

bool folds(const MatmulShape& s) {
  if (s.extents.empty()) return false;
  for (int i = 0; i < 4; ++i) {
    const auto& side = s.sides[static_cast<std::size_t>(i)];
    if (s.k[i / 2] == 0) continue;
    const std::int64_t stride = side.strides.back();
    if (i % 2 == 1 ? stride != 0 : s.m != 1 && stride != s.m * side.row_stride) return false;
  }
  return true;
}

void fold_into_rows(MatmulShape& s) {
  while (folds(s)) {
    for (std::size_t i = 0; i < 4; ++i) {
      if (i % 2 == 0 && s.m == 1) s.sides[i].row_stride = s.sides[i].strides.back();
      s.sides[i].strides.pop_back();
    }
    s.m *= s.extents.back();
    s.extents.pop_back();
  }
}

}  // namespace

MatmulShape simplify(const MatmulStep& step) {
  MatmulShape s;
  s.m = step.m;
  s.n = step.n;
  s.k[0] = step.k;
  s.k[1] = step.k2;
  s.extents = step.batch;
  const MatmulOperand* operands[4] = {&step.a, &step.b, &step.a2, &step.b2};
  for (std::size_t i = 0; i < 4; ++i) {
    const MatmulOperand& o = *operands[i];
    auto& side = s.sides[i];
    if (s.k[i / 2] > 0) side = {o.buffer, o.offset, o.row_stride, o.col_stride, o.batch_strides, o.constant};
    side.strides.resize(step.batch.size(), 0);
  }
  if (std::find(s.extents.begin(), s.extents.end(), 0) != s.extents.end()) s.m = 0;
  if (s.m == 0 || s.n == 0) return s;
  drop_ones(s);
  merge_neighbours(s);
  fold_into_rows(s);
  for (auto e : s.extents) s.batch *= e;
  return s;
}

}  // namespace metal_candle::cpu
