// Packing of constant B operands.
#include "backend/cpu/gemm/gemm_view.h"

namespace metal_candle::cpu {
namespace {

struct Layout {
  const KernelSet& set;
  const MicroFamily& family;
  PackKind kind;
  std::int64_t steps, unit;

  explicit Layout(const GemmShape& s)
      : set(current_kernels()),
        family(family_of(set, s.type)),
        kind(pack_kind(set, s.type, Operand::right)),
        steps(ceil_div(s.k, family.k_per_step)),
        unit(packed_unit(kind, family)) {}
  std::int64_t panel_bytes() const { return steps * family.panel_cols() * unit; }
};

}  // namespace

std::int64_t packed_b_panels(const GemmShape& shape) { return ceil_div(shape.n, Layout(shape).family.panel_cols()); }

std::size_t packed_b_bytes(const GemmShape& shape) {
  return static_cast<std::size_t>(packed_b_panels(shape) * Layout(shape).panel_bytes());
}

void pack_b(const GemmShape& shape, MatrixRef b, void* packed, std::int64_t panel_begin, std::int64_t panel_end) {
  const Layout layout(shape);
  const std::int64_t cols = layout.family.panel_cols();
  for (std::int64_t p = panel_begin; p < panel_end; ++p) {
    const std::int64_t width = panel_width(layout.family, shape.n, p);
    const char* source = static_cast<const char*>(b.data) + p * cols * b.col_stride * element_bytes(shape.type);
    layout.set.pack_panel(
        is_widened(layout.kind) ? PackKind::copy16 : layout.kind,
        {source, b.col_stride, b.row_stride, std::min(width, shape.n - p * cols), shape.k, width,
         layout.steps * layout.family.k_per_step, static_cast<char*>(packed) + p * layout.panel_bytes()});
  }
}

}  // namespace metal_candle::cpu
