// How a product is cut: which side fills the vectors, which operands are copied, the tiles of C and the blocks of K.
// Everything here is a function of shapes, strides and the instruction set; nothing looks at threads or addresses.
#include "backend/cpu/gemm/gemm_view.h"

namespace metal_candle::cpu {
namespace {

using Side = GemmTiling::Side;

// K is blocked only as far as copies and L2 ask for it: a panel of B (128 bytes a step) and a row tile of A in L2 keep
// the kernel at its peak, while taking up C again costs: with 256 steps a block the same products ran 10 % slower. A's
// rows are read where they are, power-of-two strides included; copying them cost 3 to 10 %.
constexpr std::int64_t kBlockSteps = 4096, kCopiedSteps = 1024, kThinSteps = 256;
// What one job copied, the thread's next one finds in scratch; this much is spent on keeping it there.
constexpr std::int64_t kHeldBytes = 64 << 10;
// Rows that a kernel pairs itself: in blocks of 128 steps over three panels they are visited twice soon. In slow memory
// 1024 rows in one block a panel took 29 us where this takes 25, in fast memory both 24.
constexpr std::int64_t kPairedSteps = 128, kPairedPanels = 3, kPairedAhead = 4;
constexpr std::int64_t kThin = 32;        // rows or columns of a product that is bound by reading its other operand
constexpr std::int64_t kShortChain = 12;  // steps; below it, writing C is the work
// Rows of A a large power of two apart share few sets of L1 (64 of 12 ways on Zen 5): where all of them share one, 10
// rows ran twice as fast as 16.
constexpr std::int64_t kScatteredRows = 10, kSetBytes = 64 * 64;
// See gathers_rows: copying pays over so many rows and columns, and a thread keeps no more than so much.
constexpr std::int64_t kLongRow = 1024, kGatheredRows = 64, kGatheredCols = 256, kGatheredBytes = 8 << 20;
// Of one vector of columns 16 rows are as fast as more where A is near and faster where it is not: loads of fewer rows
// wait at once. The narrow products of a LoRA step in bf16, in order, took 60 ms with 24 rows and 58 with 16.
constexpr std::int64_t kThinTile = 16;
// A packed weight that is read once comes from memory: asked for 12 KiB ahead it arrives at the rate of the best read
// loop, at 2 KiB a fifth slower. One panel goes after the other, so that what is asked for beyond a panel's end is the
// next one; a job is long against the wait for its first lines.
constexpr std::int64_t kStreamAhead = 12 << 10, kStreamJob = 256 << 10, kStreamJobs = 8;
// Many rows read a panel again from L2, the first of them from memory: 32 steps are too close for that. A panel that was
// copied is in L2 already.
constexpr std::int64_t kStepsAhead = 64, kCopiedAhead = 32;
// Rows of B in place that one vector of columns reads are 32 steps, 70 ns, ahead too late when they come from memory:
// 16 x 576 over K 1024 took 103 us with 32, 81 with 64, 78 with 128; from L3 all took 63.
constexpr std::int64_t kInPlaceAhead = 96;
// Below kSmallJob multiply-adds a job is not worth handing out alone. Above kGoodJob, jobs are cut until there are
// enough for 16 threads; copies, which every job makes for itself, ask for fewer and larger ones.
constexpr std::int64_t kSmallJob = 1 << 16, kGoodJob = 1 << 19, kGoodJobs = 32, kGoodCopyingJobs = 16;

/// A tall thin product whose A is stored transposed (x·A's gradient, xᵀ·dy) reads A by whole vectors if the lanes run
/// over m; the price is transposing the thin C.
bool swap_pays(const GemmArgs& args) {
  for (const GemmSegment& g : args.segments)
    if (g.k > 0 && (g.b_packed || g.a.row_stride != 1 || g.a.col_stride == 1)) return false;
  return args.n <= kThin && args.m >= 2 * args.n;
}

int choose_width(const GemmView& v, const MicroFamily& f, bool in_place) {
  if (v.n <= f.lanes) return 0;
  if (v.right[0].packed && v.m <= f.max_rows[1]) return 1;
  if (v.m <= f.max_rows[3] && v.n >= 8 * f.lanes) return 3;
  if (v.m <= f.max_rows[2] && v.n >= 4 * f.lanes) return 2;
  // One vector with many rows reads B once where two would read it twice, from memory each time.
  if (in_place && v.left[0].k != 1 && v.m > f.max_rows[1] && v.m <= f.max_rows[0]) return 0;
  return 1;
}

bool reads_in_place(const GemmOperand& b, PackKind kind) {
  return !b.packed && b.outer == 1 && (kind == PackKind::copy32 || kind == PackKind::copy64);
}

/// Few rows of A over rows of bf16: the kernel has room for the shuffles that make pairs, while a copy waited for memory
/// before the kernel could begin (K 1024, 16 x 576: 33 and 24 us). Where B's rows share few sets of L1, the copy is faster.
bool pairs_in_place(const GemmView& v, const MicroFamily& f, PackKind kind, int width) {
  const GemmOperand& b = v.right[0];
  return f.in_rows[0] != nullptr && kind == PackKind::bf16_pairs && !b.packed && b.outer == 1 && v.k[1] == 0 &&
         v.k[0] % 2 == 0 && v.n % f.lanes == 0 && v.m <= kThin && width <= 1 && b.k * 2 % (kSetBytes / 2) != 0;
}

/// Rows a large power of two apart share so few sets of L2, too, that a block of them does not stay there, whatever its
/// size; of pages that are not huge, the sets depend on where they lie. Copied a line apart 512 rows of 2048 ran at 400
/// GFLOP/s in every process where in place they did at 270 to 350, 128 rows at 410 to 460 instead of 280 to 460, and 1024
/// rows over a B that is copied, too, at 335 to 370 instead of 220 to 300.
bool gathers_rows(const GemmArgs& args, const GemmView& v, PackKind kind) {
  const GemmOperand& a = v.left[0];
  return a.k == 1 && a.outer * element_bytes(args.type) % kSetBytes == 0 && !is_widened(kind) && v.k[0] >= kLongRow &&
         v.m >= kGatheredRows && v.n >= kGatheredCols;
}

Side left_side(const GemmOperand& a, std::int64_t k, PackKind kind, const GemmTiling& t, const GemmView& v) {
  const bool in_place_units = kind == PackKind::copy32 || kind == PackKind::copy64 ||
                              (kind == PackKind::bf16_pairs && a.k == 1 && k % 2 == 0) ||
                              (kind == PackKind::quads && a.k == 1 && k % 4 == 0);
  if (!in_place_units) return a.k == 1 ? Side::rows : Side::panels;
  if (a.k == 1) return t.gathers_a && k >= kLongRow ? Side::rows : Side::direct;
  return v.m > 1 && t.block_cols >= 64 ? Side::panels : Side::direct;
}

Side right_side(const GemmOperand& b, PackKind kind, const GemmTiling& t, const GemmView& v, const MicroFamily& f) {
  if (t.in_rows) return Side::direct;
  if (!reads_in_place(b, kind)) return Side::panels;
  const bool is_panel = v.n == b.k && (v.n == f.lanes || v.n == f.panel_cols());
  return v.m <= t.row_tile || is_panel ? Side::direct : Side::panels;
}

/// Tiles of C, in row tiles × panels, before they are cut further. What is copied is amortised over the other extent.
struct Cut {
  std::int64_t row_tiles, col_panels;
};
Cut first_cut(const GemmTiling& t, std::int64_t tiles, std::int64_t row_tile_bytes, bool copies_left,
              bool copies_right) {
  if (t.rows_outer) return {16, 64};
  if (t.gathers_a) return {std::clamp<std::int64_t>(kGatheredBytes / row_tile_bytes, 4, copies_right ? 48 : 16), 4};
  if (copies_left) return {16, copies_right ? 16 : 32};
  if (copies_right) return {48, 4};
  // A large B comes from memory, which one job for all rows asks for once: 128 rows of 4096 -> 4096 ran 3 to 5 % faster.
  return tiles <= 16 ? Cut{16, 4} : Cut{8, 8};
}

/// Jobs over a packed B that every one of them reads a part of. Threads take equal numbers of equal jobs, so that none
/// reads alone at the end: nine jobs of two panels took two threads a tenth longer than eight.
std::int64_t streamed_jobs(std::int64_t panels, std::int64_t panel_bytes) {
  const std::int64_t wanted = panels * panel_bytes / kStreamJob;
  return std::min(panels, std::max(wanted, kStreamJobs) / kStreamJobs * kStreamJobs);
}

void cut_c(GemmTiling& t, const GemmView& v, const MicroFamily& f, PackKind kind) {
  const std::int64_t k = std::max<std::int64_t>(v.k[0] + v.k[1], 1);
  const std::int64_t panels = ceil_div(v.n, f.panel_cols()), tiles = ceil_div(v.m, t.row_tile);
  const bool copies_left = v.left[0].k != 1 || is_widened(kind);
  const bool copies_right = !v.right[0].packed || is_widened(kind);
  std::int64_t row_tiles = tiles, col_panels = std::max<std::int64_t>(1, (std::int64_t{1} << t.width) / 2);
  if (t.whole_b) col_panels = std::max<std::int64_t>(col_panels, 3);
  if (t.streams_b) {
    t.col_blocks = streamed_jobs(panels, k / f.k_per_step * f.panel_cols() * f.unit_bytes);
    col_panels = ceil_div(panels, t.col_blocks);
  }
  if (tiles > 1) {
    const Cut cut = first_cut(t, tiles, t.row_tile * k / f.k_per_step * f.unit_bytes, copies_left, copies_right);
    row_tiles = ceil_div(tiles, ceil_div(tiles, cut.row_tiles));
    if (!t.whole_b || t.rows_outer) col_panels = std::min(panels, cut.col_panels);
    const bool few = copies_right && (copies_left || t.width == 0);
    const std::int64_t wanted = few ? kGoodCopyingJobs : kGoodJobs;
    const auto jobs = [&] { return ceil_div(panels, col_panels) * ceil_div(tiles, row_tiles) * v.batch; };
    const auto work = [&] { return col_panels * f.panel_cols() * row_tiles * t.row_tile * k; };
    while (!t.whole_b && jobs() < wanted && work() > kGoodJob && col_panels * row_tiles > 1) {
      const bool columns = copies_right && !copies_left ? true : col_panels * 2 >= row_tiles;
      if (col_panels > 1 && (columns || row_tiles == 1)) col_panels = ceil_div(col_panels, 2);
      else row_tiles = ceil_div(row_tiles, 2);
    }
  }
  if (t.in_rows) col_panels = kPairedPanels;
  t.row_blocks = ceil_div(tiles, row_tiles);
  // Equal shares for 2 to 16 threads: with 15 and 22 jobs of a few microseconds two of them took 3 % longer.
  if (t.width == 0 && !t.rows_outer && tiles >= kGoodCopyingJobs && t.row_blocks < 2 * kGoodCopyingJobs)
    t.row_blocks = kGoodCopyingJobs;
  t.block_rows = t.row_blocks > 0 ? ceil_div(v.m, t.row_blocks) : 0;
  t.block_cols = std::min(col_panels, panels) * f.panel_cols();
  if (!t.streams_b) t.col_blocks = ceil_div(panels, col_panels);
  const std::int64_t all = t.row_blocks * t.col_blocks * v.batch;
  const std::int64_t work = std::max<std::int64_t>(1, t.block_rows * t.block_cols * k);
  t.tiles_per_job = std::clamp<std::int64_t>(kSmallJob / work, 1, std::max<std::int64_t>(1, all));
  t.jobs = ceil_div(all, t.tiles_per_job);
}

/// What of a tile's copies is whole when it is done, so that the next tile on the same scratch need not make them again.
void hold_copies(GemmTiling& t, const GemmView& v, const MicroFamily& f, std::int64_t blocks, bool widened) {
  const bool one_pass = blocks <= 1 || t.joined;
  std::int64_t of_a = 0, of_b = 0;
  for (int s = 0; s < 2; ++s) {
    const std::int64_t lane_bytes = round_up(ceil_div(v.k[s], f.k_per_step), 4) * f.unit_bytes;
    if (t.a_side[s] != Side::direct) of_a += t.block_rows * lane_bytes;
    if (!v.right[s].packed || widened) of_b += t.block_cols * lane_bytes;
  }
  t.holds_a = of_a > 0 && (one_pass || of_a <= kHeldBytes || t.gathers_a);
  const bool one_group = t.width <= 1 && std::min(v.n, t.block_cols) <= std::int64_t{f.lanes} << t.width;
  t.spread_b = one_pass && !one_group && !t.whole_b && of_b <= kHeldBytes;
  t.holds_b = one_pass && (one_group || t.whole_b || t.spread_b);
}

void lay_out_scratch(GemmTiling& t, const GemmView& v, const MicroFamily& f, bool widened) {
  const std::int64_t unit = f.unit_bytes;
  const std::int64_t group_cols = std::max<std::int64_t>(2, std::int64_t{1} << t.width) * f.lanes;
  std::int64_t a = 0, b = 0;
  for (int s = 0; s < 2; ++s) {
    if (v.k[s] == 0) continue;
    if (s == 1 && (t.joined || t.holds_a)) t.a_second = static_cast<std::size_t>(a = round_up(a, 64));
    if (s == 1 && t.joined) t.b_second = static_cast<std::size_t>(b = round_up(b, 64));
    const std::int64_t steps = std::min(t.block_steps, round_up(ceil_div(v.k[s], f.k_per_step), 4));
    const std::int64_t cols = t.whole_b || t.spread_b ? std::max(t.block_cols, group_cols) : group_cols;
    const std::int64_t blocks = t.holds_a ? ceil_div(ceil_div(v.k[s], f.k_per_step), t.block_steps) : 1;
    const std::int64_t rows_bytes = t.a_side[s] != Side::direct ? blocks * t.block_rows * (steps * unit + 64) : 0;
    const std::int64_t panel_bytes = !v.right[s].packed || widened ? steps * cols * unit : 0;
    a = t.joined || t.holds_a ? a + rows_bytes : std::max(a, rows_bytes);
    b = t.joined ? b + panel_bytes : std::max(b, panel_bytes);
  }
  const std::int64_t c = t.direct_c ? 0 : t.block_rows * (t.whole_c ? t.block_cols : group_cols) * unit;
  const std::int64_t transposed = t.swapped ? t.block_rows * group_cols * unit : 0;
  t.b_scratch = static_cast<std::size_t>(round_up(a, 64));
  t.c_scratch = t.b_scratch + static_cast<std::size_t>(round_up(b, 64));
  t.t_scratch = t.c_scratch + static_cast<std::size_t>(round_up(c, 64));
  t.less_scratch = t.t_scratch + static_cast<std::size_t>(round_up(transposed, 64));
  t.scratch_bytes = t.less_scratch + static_cast<std::size_t>(t.offset_b ? round_up(4 * t.block_rows, 64) : 0) + 64;
}

}  // namespace

GemmTiling plan_gemm(const GemmArgs& args) {
  GemmTiling t;
  t.kernels = &current_kernels();
  t.swapped = swap_pays(args);
  const GemmView v = view_gemm(args, t.swapped);
  const MicroFamily& f = family_of(*t.kernels, v.type);
  const PackKind kind = pack_kind(*t.kernels, v.type, Operand::left);
  t.offset_b = pack_kind(*t.kernels, v.type, Operand::right) == PackKind::quads_off;
  if (v.m <= 0 || v.n <= 0 || v.batch <= 0) return t;

  t.width = choose_width(v, f, reads_in_place(v.right[0], kind));
  t.in_rows = pairs_in_place(v, f, kind, t.width);
  t.row_tile = f.max_rows[t.width];
  t.gathers_a = gathers_rows(args, v, kind);
  if (t.width == 0 && v.left[0].k == 1 && v.left[0].outer * element_bytes(args.type) % (kSetBytes / 2) == 0)
    t.row_tile = std::min<std::int64_t>(t.row_tile, kScatteredRows);
  if (t.width == 0 && v.left[0].k == 1 && v.m > t.row_tile) t.row_tile = std::min<std::int64_t>(t.row_tile, kThinTile);
  const bool streams = v.m <= t.row_tile;
  t.streams_b = streams && v.right[0].packed;
  t.steps_ahead = t.streams_b         ? kStreamAhead / (f.panel_cols() * f.unit_bytes)
                  : t.in_rows         ? kPairedAhead
                  : v.right[0].packed ? kStepsAhead
                  : t.width == 0 && reads_in_place(v.right[0], kind) && v.left[0].k != 1 ? kInPlaceAhead
                                                                                         : kCopiedAhead;
  const bool copies_right = !v.right[0].packed && !t.in_rows && !(streams && reads_in_place(v.right[0], kind));
  const std::int64_t longest = ceil_div(std::max(v.k[0], v.k[1]), f.k_per_step);
  t.rows_outer = !streams && longest <= kShortChain && !is_widened(kind);
  t.whole_b = copies_right && ((t.width <= 1 && v.m <= kThin) || t.rows_outer);
  cut_c(t, v, f, kind);
  for (int s = 0; s < 2; ++s) {
    if (v.k[s] == 0) continue;
    t.a_side[s] = left_side(v.left[s], v.k[s], kind, t, v);
    t.b_side[s] = right_side(v.right[s], kind, t, v, f);
  }
  // With one row of tiles nothing is visited twice, so only copies ask for blocks.
  const bool copies = is_widened(kind) || (t.a_side[0] != Side::direct && !t.gathers_a) ||
                      t.a_side[1] != Side::direct || !v.right[0].packed || (v.k[1] > 0 && !v.right[1].packed);
  const std::int64_t most = t.in_rows   ? kPairedSteps
                            : t.whole_b ? kThinSteps
                            : copies    ? kCopiedSteps >> std::max(0, t.width - 1)
                            : streams   ? longest
                                        : kBlockSteps;
  const std::int64_t count = std::max<std::int64_t>(1, ceil_div(longest, std::max<std::int64_t>(most, 1)));
  t.block_steps = round_up(std::max<std::int64_t>(1, ceil_div(longest, count)), 4);
  std::int64_t blocks = 0;
  for (int s = 0; s < 2; ++s) blocks += ceil_div(ceil_div(v.k[s], f.k_per_step), t.block_steps);

  // Kernels on squeezed panels know no second segment.
  const bool squeezed = v.right[0].squeezed || v.right[1].squeezed;
  t.joined = blocks == 2 && v.k[0] > 0 && v.k[1] > 0 && !t.whole_b && !t.offset_b && !squeezed;
  const bool narrowed = args.c_type == GemmType::bf16 && f.narrows && (blocks <= 1 || t.joined);
  t.direct_c = args.sink == nullptr && (args.c_type == sum_type(args.type) || narrowed) && !t.swapped;
  t.whole_c = !t.direct_c && blocks > 1 && !t.joined;
  hold_copies(t, v, f, blocks, is_widened(kind));
  lay_out_scratch(t, v, f, is_widened(kind));
  return t;
}

}  // namespace metal_candle::cpu
