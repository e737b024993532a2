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
/// Copies go a few steps at a time over all tiles or panels, so that long rows are read in order: as many as L1 holds. Of
/// rows a power of two apart it holds few.
constexpr std::int64_t kTogetherBytes = 16 << 10;
std::int64_t steps_together(std::int64_t step_bytes, std::int64_t row_bytes) {
  if (row_bytes % 2048 == 0) return 8;
  return std::clamp<std::int64_t>(kTogetherBytes / std::max<std::int64_t>(1, step_bytes) / 4 * 4, 8, 256);
}

/// Rows of A that are copied as one panel for all tiles.
constexpr std::int64_t kOnePanel = 16;

class TileRun {
 public:
  TileRun(const GemmArgs& args, const GemmTiling& tiling, char* scratch)
      : args_(args),
        t_(tiling),
        view_(view_gemm(args, tiling.swapped)),
        set_(*tiling.kernels),
        f_(family_of(set_, view_.type)),
        left_kind_(pack_kind(set_, view_.type, Operand::left)),
        kind_(pack_kind(set_, view_.type, Operand::right)),
        scratch_(scratch) {}

  /// `before`: the tile whose copies are in the scratch, or -1.
  void run(std::int64_t tile, std::int64_t before) {
    const Place at = place(tile), last = before < 0 ? Place{-1, -1, -1} : place(before);
    batch_ = at.batch;
    has_a_ = t_.holds_a && last.row_block == at.row_block && last.batch == batch_;
    has_b_ = t_.holds_b && last.col_block == at.col_block && last.batch == batch_;
    row0_ = at.row_block * view_.m / t_.row_blocks;
    rows_ = (at.row_block + 1) * view_.m / t_.row_blocks - row0_;
    col0_ = first_col(t_, view_, f_, at.col_block);
    col_end_ = std::min(view_.n, first_col(t_, view_, f_, at.col_block + 1));
    tiles_ = ceil_div(rows_, t_.row_tile);
    short_rows_ = rows_ / tiles_;
    long_tiles_ = rows_ % tiles_;
    if (t_.joined) return run_joined();
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
  struct Place {
    std::int64_t row_block, col_block, batch;
  };
  Place place(std::int64_t tile) const {
    const std::int64_t inner = t_.gathers_a ? t_.col_blocks : t_.row_blocks;
    const std::int64_t outer = t_.gathers_a ? t_.row_blocks : t_.col_blocks;
    const std::int64_t first = tile % inner, second = tile / inner % outer, batch = tile / inner / outer;
    return t_.gathers_a ? Place{second, first, batch} : Place{first, second, batch};
  }

  struct Left {
    const char* data;
    std::int64_t row, step;  // bytes
    bool panels = false;     // k-major by row tiles instead
  };
  struct Right {
    const char* data;
    std::int64_t step, panel;
    std::int64_t first = -1;  // step of a squeezed panel
  };

  void run_block(int s, std::int64_t step, std::int64_t count, bool first, bool last) {
    const Left left = left_block(s, step, count);
    if (t_.offset_b) sum_left(left, count);
    if (t_.whole_b && !has_b_ && !view_.right[s].packed && t_.b_side[s] == Side::panels)
      pack_right_block(s, step, count);
    for_groups([&](const Group& group) {
      run_group(group, {left, right_block(s, step, count, group), count, last}, nullptr, !first);
      if (last && !t_.direct_c) finish(group);
    });
  }

  /// Both segments in one pass: C stays in registers between them.
  void run_joined() {
    const std::int64_t count[2] = {ceil_div(view_.k[0], f_.k_per_step), ceil_div(view_.k[1], f_.k_per_step)};
    const Left left[2] = {left_block(0, 0, count[0]), left_block(1, 0, count[1])};
    for_groups([&](const Group& group) {
      const Part second{left[1], right_block(1, 0, count[1], group), count[1]};
      run_group(group, {left[0], right_block(0, 0, count[0], group), count[0]}, &second, false);
      if (!t_.direct_c) finish(group);
    });
  }

  /// Columns that one kernel call computes, for a range of row tiles.
  struct Group {
    std::int64_t col, cols;
    int width;
    std::int64_t tile_begin, tile_end;
  };
  /// Where a row tile begins. No two differ by more than a row; a division here took as long as short kernels.
  std::int64_t tile_row(std::int64_t tile) const { return tile * short_rows_ + std::min(tile, long_tiles_); }

  template <class F>
  void for_groups(const F& f) {
    const std::int64_t at_once = t_.rows_outer ? 1 : tiles_;
    for (std::int64_t tile = 0; tile < tiles_; tile += at_once)
      for (std::int64_t col = col0_; col < col_end_;) {
        // The widest kernel that fits the whole panels left; a partial panel goes alone.
        const std::int64_t panels = (col_end_ - col) / f_.panel_cols();
        int width = t_.width;
        while (width > 1 && panels < (1 << width) / 2) --width;
        const std::int64_t cols = std::min<std::int64_t>(f_.lanes << width, col_end_ - col);
        if (panels == 0) width = std::min(width, cols <= f_.lanes ? 0 : 1);
        f(Group{col, cols, width, tile, tile + at_once});
        col += cols;
      }
  }

  /// A stretch of the chain: so many steps of A's block and of a group's columns of B.
  struct Part {
    Left left;
    Right right;
    std::int64_t count;
    bool last = true;  // of the chain
  };
  /// Field by field, in place: what is copied as a whole right after it was written has to wait until all stores before
  /// it are done, the kernel's to C among them.
  __attribute__((always_inline)) void set_operands(MicroArgs& m, const Part& p, std::int64_t row,
                                                   std::int64_t rows) const {
    const std::int64_t unit = f_.unit_bytes;
    m.steps = p.count;
    m.a = p.left.data + row * (p.left.panels ? p.count * unit : p.left.row);
    m.a_row = p.left.panels ? unit : p.left.row;
    m.a_step = p.left.panels ? rows * unit : p.left.step;
    m.b = p.right.data;
    m.b_step = p.right.step;
    m.b_panel = p.right.panel;
    m.b_odd = p.right.step / 2;
    m.first = p.right.first;
    m.ahead = t_.steps_ahead * p.right.step;
  }

  void run_group(const Group& g, const Part& part, const Part* second, bool accumulate) {
    const bool narrow = t_.direct_c && args_.c_type == GemmType::bf16;
    const std::int64_t unit = narrow ? 2 : f_.unit_bytes, padded = f_.lanes << g.width;
    char* c;
    std::int64_t c_row;
    if (t_.direct_c) {
      c_row = args_.c_row_stride * unit;
      c = static_cast<char*>(args_.c) + (batch_ * args_.c_batch + row0_ * args_.c_row_stride + g.col) * unit;
    } else {
      c = group_scratch(g, c_row);
    }
    for (std::int64_t i = g.tile_begin; i < g.tile_end; ++i) {
      const std::int64_t r0 = tile_row(i), rows = tile_row(i + 1) - r0;
      MicroArgs m, next;
      set_operands(m, part, r0, rows);
      m.c = c + r0 * c_row;
      m.c_row = c_row;
      m.accumulate = accumulate;
      if (t_.offset_b) m.less = less() + r0;
      m.narrow = narrow;
      if (second != nullptr) {
        set_operands(next, *second, r0, rows);
        m.next = &next;
      }
      // The first columns bring the rows of A in, which others find in L2.
      if (g.col == col0_ && !part.left.panels && i + 1 < tiles_)
        m.next_a = part.left.data + tile_row(i + 1) * part.left.row;
      if (!accumulate) fetch_c(r0, rows, g);
      // A line a step: each of two tiles asks for half of what the next block reads.
      if (t_.in_rows && !part.last && i < 2) m.next_b = part.right.data + (2 + i) * part.count * m.b_odd;
      const MicroKernel kernel = part.right.first >= 0 ? f_.squeezed.kernels[rows - 1]
                                                       : (t_.in_rows ? f_.in_rows : f_.by_width)[g.width][rows - 1];
      if (t_.direct_c && g.cols < padded) run_edge(kernel, m, rows, g.cols * unit, padded * unit);
      else kernel(m);
    }
  }

  /// Lines of C that will be written, or what the sink will touch: a store would wait for each.
  void fetch_c(std::int64_t row, std::int64_t rows, const Group& g) const {
    if (args_.fetch != nullptr) {
      GemmTile tile{batch_, row0_ + row, rows, g.col, g.cols, nullptr, 0};
      if (t_.swapped) tile = {batch_, g.col, g.cols, row0_ + row, rows, nullptr, 0};
      return args_.fetch(args_.user, tile);
    }
    if (args_.c == nullptr || t_.swapped) return;
    const std::int64_t bytes = element_bytes(args_.c_type), row_bytes = args_.c_row_stride * bytes;
    const char* c = static_cast<const char*>(args_.c) + batch_ * args_.c_batch * bytes;
    c += (row0_ + row) * row_bytes + g.col * bytes;
    for (std::int64_t r = 0; r < rows; ++r, c += row_bytes)
      for (std::int64_t at = 0; at < g.cols * bytes; at += 64) __builtin_prefetch(c + at, 1);
  }

  /// C may not be written beyond its columns.
  static void run_edge(MicroKernel kernel, MicroArgs m, std::int64_t rows, std::int64_t bytes, std::int64_t padded) {
    alignas(64) char tile[24 * 2 * 64];
    char* const c = m.c;
    if (m.accumulate)
      for (std::int64_t r = 0; r < rows; ++r)
        std::memcpy(tile + r * padded, c + r * m.c_row, static_cast<std::size_t>(bytes));
    const std::int64_t c_row = m.c_row;
    m.c = tile;
    m.c_row = padded;
    kernel(m);
    for (std::int64_t r = 0; r < rows; ++r)
      std::memcpy(c + r * c_row, tile + r * padded, static_cast<std::size_t>(bytes));
  }

  Left left_block(int s, std::int64_t step, std::int64_t count) {
    const GemmOperand& a = view_.left[s];
    const std::int64_t bytes = element_bytes(args_.type), unit = f_.unit_bytes, k0 = step * f_.k_per_step;
    const std::int64_t k = std::min(count * f_.k_per_step, view_.k[s] - k0);
    const char* source = a.data + (batch_ * a.batch + row0_ * a.outer + k0 * a.k) * bytes;
    char* target = scratch_ + (s == 1 ? t_.a_second : 0);
    if (t_.holds_a) target += rows_ * (step * unit + (t_.a_side[s] == Side::rows ? step / t_.block_steps * 64 : 0));
    if (t_.a_side[s] == Side::direct) return {source, a.outer * bytes, a.k * bytes * f_.k_per_step};
    if (t_.a_side[s] == Side::rows) {
      const std::int64_t stride = count * unit + 64;
      if (!has_a_)
        set_.pack_rows(left_kind_, {source, a.outer, a.k, rows_, k, rows_, count * f_.k_per_step, target}, stride);
      return {target, stride, unit};
    }
    if (rows_ <= kOnePanel) {
      if (!has_a_) set_.pack_panel(left_kind_, {source, a.outer, a.k, rows_, k, rows_, count * f_.k_per_step, target});
      return {target, unit, rows_ * unit};
    }
    if (has_a_) return {target, 0, 0, true};
    // A few steps at a time over all row tiles, so that lines of A are read once.
    const std::int64_t some = steps_together(rows_ * unit, a.k * bytes) * f_.k_per_step;
    for (std::int64_t done = 0; done < count * f_.k_per_step; done += some)
      for (std::int64_t i = 0; i < tiles_; ++i) {
        const std::int64_t r0 = tile_row(i), rows = tile_row(i + 1) - r0;
        const std::int64_t padded = std::min(some, count * f_.k_per_step - done);
        set_.pack_panel(left_kind_,
                        {source + (r0 * a.outer + done * a.k) * bytes, a.outer, a.k, rows, std::min(padded, k - done),
                         rows, padded, target + (r0 * count + done / f_.k_per_step * rows) * unit});
      }
    return {target, 0, 0, true};
  }

  std::int32_t* less() const { return reinterpret_cast<std::int32_t*>(scratch_ + t_.less_scratch); }
  /// What B's offset adds to each row of this block.
  void sum_left(const Left& a, std::int64_t count) const {
    const auto sum = set_.sum_quads[is_signed(view_.type, Operand::left)];
    if (!a.panels) return sum({a.data, a.row, a.step, rows_, count}, less());
    for (std::int64_t i = 0; i < tiles_; ++i) {
      const std::int64_t r0 = tile_row(i), rows = tile_row(i + 1) - r0;
      sum({a.data + r0 * count * 4, 4, rows * 4, rows, count}, less() + r0);
    }
  }

  Right right_block(int s, std::int64_t step, std::int64_t count, const Group& g) {
    const std::int64_t col = g.col, cols = g.cols;
    const GemmOperand& b = view_.right[s];
    const std::int64_t bytes = element_bytes(args_.type), unit = f_.unit_bytes, k0 = step * f_.k_per_step;
    const std::int64_t panel_cols = f_.panel_cols();
    // All panels of a group have the same width.
    const std::int64_t panel = std::min<std::int64_t>(panel_cols, f_.lanes << g.width);
    char* target = scratch_ + t_.b_scratch + (s == 1 ? t_.b_second : 0);
    if (t_.spread_b) target += (col - col0_) * count * unit;
    if (b.squeezed) {
      const std::int64_t panel_bytes = f_.squeezed.bytes(ceil_div(view_.k[s], f_.k_per_step));
      return {b.data + batch_ * b.batch + col / panel_cols * panel_bytes, panel_cols * unit * 3 / 4, panel_bytes, step};
    }
    if (b.packed) {
      // Width 0 may be half of a whole panel only if the plan says so, and then col steps by lanes.
      const std::int64_t index = col / panel_cols, stored = panel_width(f_, view_.n, index);
      const std::int64_t held = packed_unit(kind_, f_);
      const std::int64_t panel_bytes = ceil_div(view_.k[s], f_.k_per_step) * panel_cols * held;
      const char* source = b.data + batch_ * b.batch + index * panel_bytes + step * stored * held;
      if (!is_widened(kind_)) return {source + col % panel_cols * unit, stored * unit, panel_bytes};
      for (std::int64_t i = 0; !has_b_ && i * panel < round_up(cols, panel); ++i)
        set_.widen(kind_, source + i * panel_bytes, count * stored,
                   reinterpret_cast<float*>(target + i * count * stored * unit));
      return {target, stored * unit, count * stored * unit};
    }
    if (t_.whole_b && t_.b_side[s] == Side::panels) {
      const std::int64_t stored = panel_width(f_, view_.n, col / panel_cols), first = (col - col0_) / panel_cols;
      return {target + (first * panel_cols * count + col % panel_cols) * unit, stored * unit,
              count * panel_cols * unit};
    }
    const std::int64_t k = std::min(count * f_.k_per_step, view_.k[s] - k0);
    const char* source = b.data + (batch_ * b.batch + k0 * b.k + col * b.outer) * bytes;
    if (t_.in_rows) return {source, 2 * b.k * bytes, 0};
    if (t_.b_side[s] == Side::direct && cols % f_.lanes == 0) return {source, b.k * bytes, panel_cols * unit};
    for (std::int64_t i = 0; !has_b_ && i * panel < cols; ++i)
      set_.pack_panel(kind_, {source + i * panel * b.outer * bytes, b.outer, b.k, std::min(panel, cols - i * panel), k,
                              panel, count * f_.k_per_step, target + i * count * panel * unit});
    return {target, panel * unit, count * panel * unit};
  }

  /// A few steps at a time over all panels: rows of B are read a long stretch each.
  void pack_right_block(int s, std::int64_t step, std::int64_t count) {
    const GemmOperand& b = view_.right[s];
    const std::int64_t bytes = element_bytes(args_.type), unit = f_.unit_bytes, cols = f_.panel_cols();
    const std::int64_t all = count * f_.k_per_step, k0 = step * f_.k_per_step, k = std::min(all, view_.k[s] - k0);
    const std::int64_t some =
        b.outer == 1 ? steps_together((col_end_ - col0_) * unit, b.k * bytes) * f_.k_per_step : all;
    const char* source = b.data + (batch_ * b.batch + k0 * b.k) * bytes;
    for (std::int64_t done = 0; done < all; done += some)
      for (std::int64_t col = col0_; col < col_end_; col += cols) {
        const std::int64_t width = panel_width(f_, view_.n, col / cols), padded = std::min(some, all - done);
        set_.pack_panel(kind_,
                        {source + (done * b.k + col * b.outer) * bytes, b.outer, b.k, std::min(width, view_.n - col),
                         std::min(padded, k - done), width, padded,
                         scratch_ + t_.b_scratch + ((col - col0_) * count + done / f_.k_per_step * width) * unit});
      }
  }

  char* group_scratch(const Group& g, std::int64_t& row_bytes) const {
    const std::int64_t all = std::min(t_.block_cols, round_up(view_.n, f_.lanes));
    row_bytes = (t_.whole_c ? all : f_.lanes << g.width) * f_.unit_bytes;
    return scratch_ + t_.c_scratch + (t_.whole_c ? (g.col - col0_) * f_.unit_bytes : 0);
  }

  void finish(const Group& g) {
    std::int64_t row_bytes;
    const char* data = group_scratch(g, row_bytes);
    const std::int64_t r0 = tile_row(g.tile_begin), rows = tile_row(g.tile_end) - r0;
    GemmTile tile{batch_, row0_ + r0, rows, g.col, g.cols, data + r0 * row_bytes, row_bytes / f_.unit_bytes};
    if (t_.swapped) tile = transposed(tile);
    if (args_.sink != nullptr) return args_.sink(args_.user, tile);
    store(tile);
  }

  GemmTile transposed(const GemmTile& tile) {
    const std::int64_t unit = f_.unit_bytes;
    char* target = scratch_ + t_.t_scratch;
    set_.pack_panel(
        unit == 8 ? PackKind::copy64 : PackKind::copy32,
        {static_cast<const char*>(tile.data), tile.ld, 1, tile.rows, tile.cols, tile.rows, tile.cols, target});
    return {tile.batch, tile.col0, tile.cols, tile.row0, tile.rows, target, tile.rows};
  }

  void store(const GemmTile& tile) const {
    const std::int64_t first = tile.batch * args_.c_batch + tile.row0 * args_.c_row_stride + tile.col0;
    const std::int64_t bytes = element_bytes(args_.c_type);
    char* target = static_cast<char*>(args_.c) + first * bytes;
    const char* source = static_cast<const char*>(tile.data);
    if (args_.type != GemmType::f64 && bytes == 2)
      return set_.narrow(args_.c_type, reinterpret_cast<const float*>(source), tile.ld, tile.rows, tile.cols, target,
                         args_.c_row_stride);
    const bool same = (args_.c_type == GemmType::f64) == (args_.type == GemmType::f64) && bytes >= 4;
    for (std::int64_t r = 0; r < tile.rows; ++r) {
      if (same) std::memcpy(target, source, static_cast<std::size_t>(tile.cols * bytes));
      else store_converted(source, tile.cols, target);
      target += args_.c_row_stride * bytes;
      source += tile.ld * f_.unit_bytes;
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
      else set_.narrow(args_.c_type, &value, 1, 1, 1, target + i * 2, 1);
    }
  }

  const GemmArgs& args_;
  const GemmTiling& t_;
  const GemmView view_;
  const KernelSet& set_;
  const MicroFamily& f_;
  const PackKind left_kind_, kind_;
  char* const scratch_;
  std::int64_t batch_ = 0, row0_ = 0, rows_ = 0, col0_ = 0, col_end_ = 0;
  std::int64_t tiles_ = 0, short_rows_ = 0, long_tiles_ = 0;  // of the rows
  bool has_a_ = false, has_b_ = false;                        // the copies are there already
};

}  // namespace

void run_gemm_job(const GemmArgs& args, const GemmTiling& tiling, std::int64_t job, void* scratch,
                  std::int64_t before) {
  const auto address = reinterpret_cast<std::uintptr_t>(scratch);
  TileRun run(args, tiling, static_cast<char*>(scratch) + ((address + 63) / 64 * 64 - address));
  const std::int64_t all = tiling.row_blocks * tiling.col_blocks * std::max<std::int64_t>(args.batch, 0);
  const std::int64_t end = std::min(all, (job + 1) * tiling.tiles_per_job);
  std::int64_t last = before < 0 ? -1 : std::min(all, (before + 1) * tiling.tiles_per_job) - 1;
  for (std::int64_t tile = job * tiling.tiles_per_job; tile < end; last = tile++) run.run(tile, last);
}

}  // namespace metal_candle::cpu
