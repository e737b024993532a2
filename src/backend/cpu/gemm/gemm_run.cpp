// Runs a job: a few tiles of C. For each K block, A's block is brought in shape, then groups of panels of B pass over it:
//
//   for each segment, K block:          (the chain; C is the f32 value it goes on from)
//     A block in place or copied
//     for each group of panels:         (B panel in L1)
//       for each row tile:              (micro kernel)
//       after the last block: hand the group to the sink
#include <cstring>

#include "backend/cpu/gemm/gemm_view.h"

namespace metal_candle::cpu {
namespace {

using Side = GemmTiling::Side;
constexpr std::int64_t kStepsTogether = 8;

class TileRun {
 public:
  TileRun(const GemmArgs& args, const GemmTiling& tiling, char* scratch)
      : args_(args),
        t_(tiling),
        view_(view_gemm(args, tiling.swapped)),
        set_(*tiling.kernels),
        f_(family_of(set_, args.type)),
        kind_(pack_kind(set_, args.type)),
        scratch_(scratch) {}

  void run(std::int64_t tile) {
    const std::int64_t row_block = tile % t_.row_blocks, rest = tile / t_.row_blocks;
    const std::int64_t col_block = rest % t_.col_blocks;
    batch_ = rest / t_.col_blocks;
    row0_ = row_block * view_.m / t_.row_blocks;
    rows_ = (row_block + 1) * view_.m / t_.row_blocks - row0_;
    col0_ = col_block * t_.block_cols;
    col_end_ = std::min(view_.n, col0_ + t_.block_cols);
    bool first = true;
    for (int s = 0; s < 2; ++s) {
      const std::int64_t steps = ceil_div(view_.k[s], f_.k_per_step);
      // Without any k, one block of no steps writes the zeros.
      for (std::int64_t step = 0; step < steps || (s == 0 && steps == 0 && view_.k[1] == 0 && step == 0);) {
        const std::int64_t count = std::min(t_.block_steps, steps - step);
        const bool last = step + count >= steps && (s == 1 || view_.k[1] == 0);
        run_block(s, step, count, first, last);
        first = false;
        step += std::max<std::int64_t>(count, 1);
      }
    }
  }

 private:
  struct Left {
    const char* data;
    std::int64_t row, step;  // bytes; row == 0: k-major by row tiles
  };
  struct Right {
    const char* data;
    std::int64_t step, panel;
  };

  void run_block(int s, std::int64_t step, std::int64_t count, bool first, bool last) {
    const Left left = left_block(s, step, count);
    for (std::int64_t col = col0_; col < col_end_;) {
      // The widest kernel that fits the whole panels left; a partial panel goes alone.
      const std::int64_t panels = (col_end_ - col) / f_.panel_cols();
      int width = t_.width;
      while (width > 1 && panels < (1 << width) / 2) --width;
      std::int64_t cols = std::min<std::int64_t>(f_.lanes << width, col_end_ - col);
      if (panels == 0) width = std::min(width, cols <= f_.lanes ? 0 : 1);
      run_group(s, step, count, left, col, cols, width, !first);
      if (last && !t_.direct_c) finish(col, cols, width);
      col += cols;
    }
  }

  void run_group(int s, std::int64_t step, std::int64_t count, const Left& left, std::int64_t col, std::int64_t cols,
                 int width, bool accumulate) {
    const Right right = right_block(s, step, count, col, cols, width);
    const std::int64_t unit = f_.unit_bytes, padded = f_.lanes << width;
    char* c;
    std::int64_t c_row;
    if (t_.direct_c) {
      c_row = args_.c_row_stride * unit;
      c = static_cast<char*>(args_.c) + (batch_ * args_.c_batch + row0_ * args_.c_row_stride + col) * unit;
    } else {
      c = group_scratch(col, width, c_row);
    }
    const bool edge = t_.direct_c && cols < padded;
    const std::int64_t tiles = ceil_div(rows_, t_.row_tile);
    for (std::int64_t i = 0; i < tiles; ++i) {
      const std::int64_t r0 = i * rows_ / tiles, rows = (i + 1) * rows_ / tiles - r0;
      MicroArgs m{count, left.data + r0 * left.row, left.row, left.step, right.data, right.step, right.panel,
                  c + r0 * c_row, c_row, accumulate};
      if (left.row == 0) {
        m.a = left.data + r0 * count * unit;
        m.a_row = unit;
        m.a_step = rows * unit;
      }
      const MicroKernel kernel = f_.by_width[width][rows - 1];
      if (edge) run_edge(kernel, m, rows, cols * unit, padded * unit);
      else kernel(m);
    }
  }

  /// C may not be written beyond its columns.
  static void run_edge(MicroKernel kernel, MicroArgs m, std::int64_t rows, std::int64_t bytes, std::int64_t padded) {
    alignas(64) char tile[24 * 2 * 64];
    char* const c = m.c;
    if (m.accumulate)
      for (std::int64_t r = 0; r < rows; ++r) std::memcpy(tile + r * padded, c + r * m.c_row, static_cast<std::size_t>(bytes));
    const std::int64_t c_row = m.c_row;
    m.c = tile;
    m.c_row = padded;
    kernel(m);
    for (std::int64_t r = 0; r < rows; ++r) std::memcpy(c + r * c_row, tile + r * padded, static_cast<std::size_t>(bytes));
  }

  Left left_block(int s, std::int64_t step, std::int64_t count) {
    const GemmOperand& a = view_.left[s];
    const std::int64_t bytes = element_bytes(args_.type), unit = f_.unit_bytes, k0 = step * f_.k_per_step;
    const std::int64_t k = std::min(count * f_.k_per_step, view_.k[s] - k0);
    const char* source = a.data + (batch_ * a.batch + row0_ * a.outer + k0 * a.k) * bytes;
    if (t_.a_side[s] == Side::direct) return {source, a.outer * bytes, a.k * bytes * f_.k_per_step};
    if (t_.a_side[s] == Side::rows) {
      const std::int64_t stride = count * unit + 64;
      set_.pack_rows(kind_, {source, a.outer, a.k, rows_, k, rows_, count * f_.k_per_step, scratch_}, stride);
      return {scratch_, stride, unit};
    }
    // A few steps at a time over all row tiles, so that lines of A are read once.
    const std::int64_t tiles = ceil_div(rows_, t_.row_tile), some = kStepsTogether * f_.k_per_step;
    for (std::int64_t done = 0; done < count * f_.k_per_step; done += some)
      for (std::int64_t i = 0; i < tiles; ++i) {
        const std::int64_t r0 = i * rows_ / tiles, rows = (i + 1) * rows_ / tiles - r0;
        const std::int64_t padded = std::min(some, count * f_.k_per_step - done);
        set_.pack_panel(kind_, {source + (r0 * a.outer + done * a.k) * bytes, a.outer, a.k, rows, std::min(padded, k - done),
                                rows, padded, scratch_ + (r0 * count + done / f_.k_per_step * rows) * unit});
      }
    return {scratch_, 0, 0};
  }

  Right right_block(int s, std::int64_t step, std::int64_t count, std::int64_t col, std::int64_t cols, int width) {
    const GemmOperand& b = view_.right[s];
    const std::int64_t bytes = element_bytes(args_.type), unit = f_.unit_bytes, k0 = step * f_.k_per_step;
    const std::int64_t panel_cols = f_.panel_cols();
    // All panels of a group have the same width.
    const std::int64_t panel = std::min<std::int64_t>(panel_cols, f_.lanes << width);
    char* target = scratch_ + t_.b_scratch;
    if (b.packed) {
      // Width 0 may be half of a whole panel only if the plan says so, and then col steps by lanes.
      const std::int64_t index = col / panel_cols, stored = panel_width(f_, view_.n, index);
      const std::int64_t held = packed_unit(kind_, f_);
      const std::int64_t panel_bytes = ceil_div(view_.k[s], f_.k_per_step) * panel_cols * held;
      const char* source = b.data + batch_ * b.batch + index * panel_bytes + step * stored * held;
      if (!is_widened(kind_)) return {source + col % panel_cols * unit, stored * unit, panel_bytes};
      for (std::int64_t i = 0; i * panel < round_up(cols, panel); ++i)
        set_.widen(kind_, source + i * panel_bytes, count * stored,
                   reinterpret_cast<float*>(target + i * count * stored * unit));
      return {target, stored * unit, count * stored * unit};
    }
    const std::int64_t k = std::min(count * f_.k_per_step, view_.k[s] - k0);
    const char* source = b.data + (batch_ * b.batch + k0 * b.k + col * b.outer) * bytes;
    if (t_.b_side[s] == Side::direct && cols % f_.lanes == 0) return {source, b.k * bytes, panel_cols * unit};
    for (std::int64_t i = 0; i * panel < cols; ++i)
      set_.pack_panel(kind_, {source + i * panel * b.outer * bytes, b.outer, b.k, std::min(panel, cols - i * panel), k,
                              panel, count * f_.k_per_step, target + i * count * panel * unit});
    return {target, panel * unit, count * panel * unit};
  }

  char* group_scratch(std::int64_t col, int width, std::int64_t& row_bytes) const {
    row_bytes = (t_.whole_c ? t_.block_cols : f_.lanes << width) * f_.unit_bytes;
    return scratch_ + t_.c_scratch + (t_.whole_c ? (col - col0_) * f_.unit_bytes : 0);
  }

  void finish(std::int64_t col, std::int64_t cols, int width) {
    std::int64_t row_bytes;
    const char* data = group_scratch(col, width, row_bytes);
    GemmTile tile{batch_, row0_, rows_, col, cols, data, row_bytes / f_.unit_bytes};
    if (t_.swapped) tile = transposed(tile);
    if (args_.sink != nullptr) return args_.sink(args_.user, tile);
    for (std::int64_t r = 0; r < tile.rows; ++r) store_row(tile, r);
  }

  GemmTile transposed(const GemmTile& tile) {
    const std::int64_t unit = f_.unit_bytes;
    char* target = scratch_ + t_.t_scratch;
    set_.pack_panel(unit == 8 ? PackKind::copy64 : PackKind::copy32,
                    {static_cast<const char*>(tile.data), tile.ld, 1, tile.rows, tile.cols, tile.rows, tile.cols, target});
    return {tile.batch, tile.col0, tile.cols, tile.row0, tile.rows, target, tile.rows};
  }

  void store_row(const GemmTile& tile, std::int64_t r) const {
    const std::int64_t first = tile.batch * args_.c_batch + (tile.row0 + r) * args_.c_row_stride + tile.col0;
    char* target = static_cast<char*>(args_.c) + first * element_bytes(args_.c_type);
    const char* source = static_cast<const char*>(tile.data) + r * tile.ld * f_.unit_bytes;
    const bool is_double = args_.type == GemmType::f64;
    if ((args_.c_type == GemmType::f64) == is_double && element_bytes(args_.c_type) >= 4) {
      std::memcpy(target, source, static_cast<std::size_t>(tile.cols * f_.unit_bytes));
    } else if (!is_double && args_.c_type != GemmType::f64) {
      set_.narrow(args_.c_type, reinterpret_cast<const float*>(source), tile.cols, target);
    } else {
      store_converted(source, tile.cols, target);
    }
  }

  /// f64 sums to narrower types (through f32), f32 sums to f64: rare.
  void store_converted(const char* source, std::int64_t cols, char* target) const {
    for (std::int64_t i = 0; i < cols; ++i) {
      if (args_.type != GemmType::f64) {
        const double wide = reinterpret_cast<const float*>(source)[i];
        std::memcpy(target + i * 8, &wide, 8);
        continue;
      }
      const float value = static_cast<float>(reinterpret_cast<const double*>(source)[i]);
      if (args_.c_type == GemmType::f32) std::memcpy(target + i * 4, &value, 4);
      else set_.narrow(args_.c_type, &value, 1, target + i * 2);
    }
  }

  const GemmArgs& args_;
  const GemmTiling& t_;
  const GemmView view_;
  const KernelSet& set_;
  const MicroFamily& f_;
  const PackKind kind_;
  char* const scratch_;
  std::int64_t batch_ = 0, row0_ = 0, rows_ = 0, col0_ = 0, col_end_ = 0;
};

}  // namespace

void run_gemm_job(const GemmArgs& args, const GemmTiling& tiling, std::int64_t job, void* scratch) {
  const auto address = reinterpret_cast<std::uintptr_t>(scratch);
  TileRun run(args, tiling, static_cast<char*>(scratch) + ((address + 63) / 64 * 64 - address));
  const std::int64_t all = tiling.row_blocks * tiling.col_blocks * std::max<std::int64_t>(args.batch, 0);
  const std::int64_t end = std::min(all, (job + 1) * tiling.tiles_per_job);
  for (std::int64_t tile = job * tiling.tiles_per_job; tile < end; ++tile) run.run(tile);
}

}  // namespace metal_candle::cpu
