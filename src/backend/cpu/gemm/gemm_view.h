// A product as the kernels see it: who is broadcast, who fills the vector lanes. In a swapped product Bᵀ is the left
// operand and Aᵀ the right one, and everything below this header speaks of Cᵀ without knowing.
#pragma once

#include <algorithm>

#include "backend/cpu/gemm/kernels.h"

namespace metal_candle::cpu {

/// Strides in elements; `outer` runs over m (left operand) or n (right operand).
struct GemmOperand {
  const char* data;
  std::int64_t outer, k, batch;
  bool packed, squeezed;
};

struct GemmView {
  std::int64_t m, n, batch;
  GemmType type;  // of the left operand and the right one
  GemmOperand left[2], right[2];
  std::int64_t k[2];
};

inline GemmView view_gemm(const GemmArgs& args, bool swapped) {
  GemmView v{args.m, args.n, args.batch, args.type, {}, {}, {}};
  for (int s = 0; s < 2; ++s) {
    const GemmSegment& g = args.segments[s];
    v.k[s] = std::max<std::int64_t>(g.k, 0);
    v.left[s] = {static_cast<const char*>(g.a.data), g.a.row_stride, g.a.col_stride, g.a_batch, false, false};
    v.right[s] = {
        static_cast<const char*>(g.b.data), g.b.col_stride, g.b.row_stride, g.b_batch, g.b_packed, g.b_squeezed};
    if (swapped) std::swap(v.left[s], v.right[s]);
  }
  if (swapped) {
    std::swap(v.m, v.n);
    if (v.type == GemmType::i8_u8) v.type = GemmType::u8_i8;
    else if (v.type == GemmType::u8_i8) v.type = GemmType::i8_u8;
  }
  return v;
}

inline std::int64_t ceil_div(std::int64_t a, std::int64_t b) { return (a + b - 1) / b; }
inline std::int64_t round_up(std::int64_t a, std::int64_t b) { return ceil_div(a, b) * b; }

/// Columns of B come in panels of two vectors; a rest of at most one vector makes a narrow last panel.
inline std::int64_t panel_width(const MicroFamily& f, std::int64_t n, std::int64_t panel) {
  return n - panel * f.panel_cols() <= f.lanes ? f.lanes : f.panel_cols();
}

/// Where a block of columns begins. Over a packed B that is read once, blocks differ by a panel at most.
inline std::int64_t first_col(const GemmTiling& t, const GemmView& v, const MicroFamily& f, std::int64_t block) {
  if (!t.streams_b) return block * t.block_cols;
  return block * ceil_div(v.n, f.panel_cols()) / t.col_blocks * f.panel_cols();
}

/// 16-bit floats without a kernel of their own stay 16 bits wide when packed and are widened block by block.
inline bool is_widened(PackKind kind) { return kind == PackKind::bf16_widen || kind == PackKind::f16_widen; }
inline std::int64_t packed_unit(PackKind kind, const MicroFamily& f) { return is_widened(kind) ? 2 : f.unit_bytes; }

}  // namespace metal_candle::cpu
