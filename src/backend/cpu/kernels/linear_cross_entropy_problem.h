// A call of linear_cross_entropy as its kernels see it.
#pragma once

#include "backend/cpu/kernels/attention_tile.h"
#include "ops/linear_cross_entropy.h"

namespace metal_candle::cpu::cross_entropy {

using attention::Carve;
using attention::kKeyBlock;
using attention::kRowBlock;
using attention::kSums;
using attention::round_up;

inline constexpr std::int64_t kFewTileRows = 96, kMostTileRows = 192;
inline constexpr std::int64_t kClasses = kKeyBlock;  // of a block

/// A matrix with any strides, in elements.
struct Matrix {
  const char* data;
  DType dtype;
  std::int64_t row, column;
  const char* at(std::int64_t r, std::int64_t c) const {
    return data + (r * row + c * column) * static_cast<std::int64_t>(size_of(dtype));
  }
};

struct Problem {
  ops::LinearCrossEntropyRule rule;
  std::int64_t n, d, v, width;  // width: d as tiles in f32 have it
  Matrix x, w;
  const KernelTensor& targets;
  double floor;  // what smoothing expects of every class
  bool pairs;    // all in bf16, on a machine that multiplies pairs of them, as in attention

  explicit Problem(const KernelCall& call)
      : rule(call.attrs),
        n(call.inputs[0].shape[0]),
        d(call.inputs[0].shape[1]),
        v(call.inputs[1].shape[1]),
        width(round_up(std::max<std::int64_t>(d, 1), kSums)),  // without components, a zero that is multiplied
        x(matrix(call.inputs[0])),
        w(matrix(call.inputs[1])),
        targets(call.inputs[2]),
        floor(rule.smoothing / static_cast<double>(v)),
        pairs(x.dtype == DType::bf16 && w.dtype == DType::bf16 && attention::multiplies_pairs()) {}
  static Matrix matrix(const KernelTensor& t) {
    return {static_cast<const char*>(t.data), t.dtype, t.strides[0], t.strides[1]};
  }
  /// What products step over, of a row of `elements`.
  std::int64_t steps(std::int64_t elements) const { return pairs ? elements / 2 : elements; }
  bool is_f64() const { return x.dtype == DType::f64; }
  std::int64_t target(std::int64_t row) const {
    return read_index(targets.data, targets.dtype, row * targets.strides[0]);
  }
  /// Rows of a tile. Each tile reads all of w, so they are many, but x and its gradient stay in a core's cache.
  std::int64_t tile_rows() const {
    constexpr std::int64_t kBytes = 768 << 10;
    const std::int64_t fit = kBytes / std::max<std::int64_t>(1, (width + steps(width)) * 4);
    return std::clamp(fit / kRowBlock * kRowBlock, kFewTileRows, kMostTileRows);
  }
  /// Tiles for `rows` rows: a multiple of four so that a few threads get equal shares.
  std::int64_t tiles(std::int64_t rows) const { return round_up((rows + tile_rows() - 1) / tile_rows(), 4); }
};

/// The rows that count, in order; made by the first task.
struct ActiveRows {
  std::int32_t* count;
  std::int32_t* rows;
  ActiveRows(const Problem& p, Carve& shared)
      : count(shared.take<std::int32_t>(1)), rows(shared.take<std::int32_t>(p.n)) {}

  /// Calls ignored(row) for the others, and reports targets that are no class; those count as ignored.
  template <class F>
  void find(const Problem& p, const KernelCall& call, F ignored) const {
    *count = 0;
    for (std::int64_t row = 0; row < p.n; ++row) {
      const std::int64_t t = p.target(row);
      if (t != p.rule.ignore_index && t >= 0 && t < p.v) {
        rows[(*count)++] = static_cast<std::int32_t>(row);
        continue;
      }
      if (t != p.rule.ignore_index) call.fail("a target is not a class");
      ignored(row);
    }
  }
};

struct Tile {
  const std::int32_t* rows;
  std::int64_t n = 0;
};
inline Tile tile(const Problem& p, const ActiveRows& active, std::int64_t index) {
  const std::int64_t tiles = std::max<std::int64_t>(1, p.tiles(*active.count));
  const std::int64_t size = round_up((*active.count + tiles - 1) / tiles, kRowBlock), begin = index * size;
  if (begin >= *active.count) return {active.rows, 0};
  return {active.rows + begin, std::min<std::int64_t>(size, *active.count - begin)};
}

/// Rows of x in f32 [n][width], or bf16.
inline void load_rows(const Problem& p, const Tile& t, float* target) {
  const auto load = p.pairs ? attention::load_halves : attention::load;
  for (std::int64_t i = 0; i < t.n; ++i)
    load({p.x.at(t.rows[i], 0), p.x.dtype, 0, p.x.column, 1, p.d}, target + i * p.steps(p.width), p.width);
}

/// A block of classes, both ways round: in f32, or in pairs of components [width / 2][kClasses] and of classes
/// [kClasses / 2][width].
struct ClassBlock {
  float *by_class, *by_component;  // scratch: [kClasses][width], [width][kClasses]
  float* staged;                   // w on its way to pairs
  const float* rows = nullptr;     // what to read as [class][width]: by_class, or w itself
  std::int64_t row_step = 0;
  std::int64_t first = 0;
  int n = 0;
  std::int32_t* columns;  // [kClasses]: 0, 1 .. and kNever behind n, for the mask

  ClassBlock(const Problem& p, Carve& scratch)
      : by_class(scratch.take<float>(kClasses * p.width)),
        by_component(scratch.take<float>(kClasses * p.width)),
        staged(scratch.take<float>(p.pairs ? kClasses * p.width / 2 : 0)),
        columns(scratch.take<std::int32_t>(kClasses)) {}

  void load(const Problem& p, std::int64_t first_class, bool both) {
    first = first_class;
    n = static_cast<int>(std::min(kClasses, p.v - first));
    for (int j = 0; j < kClasses; ++j) columns[j] = j < n ? j : static_cast<std::int32_t>(attention::kNever);
    rows = by_class;
    row_step = p.width;
    if (p.pairs) return load_pairs(p, both);
    const auto transpose = attention::row_kernels().transpose;
    if (p.w.column == 1 && p.w.row != 1) {  // [d, v]: classes side by side
      attention::load({p.w.at(0, first), p.w.dtype, p.w.row, 1, p.d, n}, by_component, kClasses);
      std::fill(by_component + p.d * kClasses, by_component + p.width * kClasses, 0.0f);
      for (std::int64_t c = 0; both && c < p.width; c += kSums)
        transpose(by_component + c * kClasses, kClasses, kSums, kClasses, by_class + c, p.width, kSums);
      return;
    }
    if (p.w.dtype == DType::f32 && p.w.row == 1 && p.d == p.width) {  // rows of an embedding as they are
      rows = reinterpret_cast<const float*>(p.w.at(0, first));
      row_step = p.w.column;
    } else {
      attention::load({p.w.at(0, first), p.w.dtype, p.w.column, p.w.row, n, p.d}, by_class, p.width);
    }
    transpose(rows, row_step, n, p.width, by_component, kClasses, kClasses);
  }

  void load_pairs(const Problem& p, bool both) {
    if (p.w.column == 1 && p.w.row != 1) {
      const attention::Rows components{p.w.at(0, first), p.w.dtype, p.w.row, 1, p.d, n};
      attention::load_row_pairs(components, kClasses, staged, by_component);
      const std::int64_t written = (p.d + 1) / 2 * kClasses;
      std::fill(by_component + written, by_component + p.width / 2 * kClasses, 0.0f);
      if (both) {
        attention::load_halves(components, staged, kClasses);
        attention::row_kernels().transpose(staged, kClasses / 2, p.d, kClasses / 2, by_class, p.width, p.width);
      }
      return;
    }
    const attention::Rows classes{p.w.at(0, first), p.w.dtype, p.w.column, p.w.row, n, p.d};
    attention::load_transposed_pairs(classes, p.width, staged, by_component);
    if (both) attention::load_row_pairs(classes, p.width, staged, by_class);
  }

  attention::ScoreBlock scores(float* at, int rows_of) const {
    attention::ScoreBlock b{.scores = at,
                            .rows = rows_of,
                            .begin = 0,
                            .end = static_cast<int>(round_up(n, kSums)),
                            .masked = n % kSums != 0,
                            .key_positions = columns,
                            .sight = {}};
    for (auto& s : b.sight) s = {0, static_cast<std::int32_t>(attention::kNever - 1)};
    b.scale = static_cast<float>(attention::kLog2e);
    return b;
  }
};

/// logits [n][kClasses] of a tile. The components go in pieces whose part of w stays in the nearest cache.
inline void logits(const Problem& p, const float* x, std::int64_t n, const ClassBlock& w, float* out) {
  constexpr std::int64_t kPiece = 128;
  const std::int64_t steps = p.steps(p.width);
  for (std::int64_t c = 0; c < steps; c += kPiece)
    attention::multiply({.a = x + c,
                         .a_row = steps,
                         .a_step = 1,
                         .b = w.by_component + c * kClasses,
                         .b_step = kClasses,
                         .c = out,
                         .c_row = kClasses,
                         .m = n,
                         .n = round_up(w.n, kSums),
                         .k = std::min(kPiece, steps - c),
                         .accumulate = c > 0,
                         .pairs = p.pairs});
}

/// The same in f64, row by row.
void plain_forward(const KernelCall& call, const Problem& p, std::int64_t row);
void plain_grad(const KernelCall& call, const Problem& p, const ActiveRows& active, std::int64_t class_index);

}  // namespace metal_candle::cpu::cross_entropy
