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

  void pack(const GemmShape& shape, MatrixRef b, std::int64_t panel, char* target) const {
    const std::int64_t cols = family.panel_cols(), width = panel_width(family, shape.n, panel);
    const char* source = static_cast<const char*>(b.data) + panel * cols * b.col_stride * element_bytes(shape.type);
    set.pack_panel(is_widened(kind) ? PackKind::copy16 : kind,
                   {source, b.col_stride, b.row_stride, std::min(width, shape.n - panel * cols), shape.k, width,
                    steps * family.k_per_step, target});
  }
};

}  // namespace

std::int64_t packed_b_panels(const GemmShape& shape) { return ceil_div(shape.n, Layout(shape).family.panel_cols()); }

std::size_t packed_b_bytes(const GemmShape& shape) {
  return static_cast<std::size_t>(packed_b_panels(shape) * Layout(shape).panel_bytes());
}

void pack_b(const GemmShape& shape, MatrixRef b, void* packed, std::int64_t panel_begin, std::int64_t panel_end) {
  const Layout layout(shape);
  for (std::int64_t p = panel_begin; p < panel_end; ++p)
    layout.pack(shape, b, p, static_cast<char*>(packed) + p * layout.panel_bytes());
}

bool squeezes_b(const GemmShape& shape) {
  if (shape.type != GemmType::bf16) return false;
  const MicroFamily& f = family_of(current_kernels(), shape.type);
  return f.squeezed.kernels != nullptr && shape.n > 0 && shape.n % f.panel_cols() == 0 && shape.k > 0 &&
         shape.k % (2 * f.k_per_step) == 0;
}

std::size_t squeezed_b_bytes(const GemmShape& shape) {
  const Layout layout(shape);
  return static_cast<std::size_t>(packed_b_panels(shape) * layout.family.squeezed.bytes(layout.steps));
}

bool squeeze_b(const GemmShape& shape, MatrixRef b, void* squeezed, std::int64_t panel_begin, std::int64_t panel_end,
               void* scratch) {
  const Layout layout(shape);
  const SqueezedForm& form = layout.family.squeezed;
  const std::int64_t bytes = form.bytes(layout.steps);
  for (std::int64_t p = panel_begin; p < panel_end; ++p) {
    layout.pack(shape, b, p, static_cast<char*>(scratch));
    if (!form.squeeze(static_cast<char*>(scratch), layout.steps, static_cast<char*>(squeezed) + p * bytes))
      return false;
  }
  return true;
}

}  // namespace metal_candle::cpu
