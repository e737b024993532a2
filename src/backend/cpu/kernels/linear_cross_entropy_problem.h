// A call of linear_cross_entropy as its kernels see it.
#pragma once

#include <string>

#include "backend/cpu/kernels/attention_tile.h"
#include "ops/linear_cross_entropy.h"

namespace metal_candle::cpu::cross_entropy {

using attention::Carve;
using attention::kSums;
using attention::round_up;

inline constexpr std::int64_t kFewTileRows = 128, kMostTileRows = 256, kTileStep = 64;

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
    return std::clamp(fit / kTileStep * kTileStep, kFewTileRows, kMostTileRows);
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
      if (t != p.rule.ignore_index)
        call.fail(("target " + std::to_string(t) + " is not a class: there are " + std::to_string(p.v)).c_str());
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
  const std::int64_t size = round_up((*active.count + tiles - 1) / tiles, kSums), begin = index * size;
  if (begin >= *active.count) return {active.rows, 0};
  return {active.rows + begin, std::min<std::int64_t>(size, *active.count - begin)};
}

/// Rows of x in f32 [n][width], or bf16.
inline void load_rows(const Problem& p, const Tile& t, float* target) {
  const auto load = p.pairs ? attention::load_halves : attention::load;
  for (std::int64_t i = 0; i < t.n; ++i)
    load({p.x.at(t.rows[i], 0), p.x.dtype, 0, p.x.column, 1, p.d}, target + i * p.steps(p.width), p.width);
}

/// The same in f64, row by row.
void plain_forward(const KernelCall& call, const Problem& p, std::int64_t row);
void plain_grad(const KernelCall& call, const Problem& p, const ActiveRows& active, std::int64_t class_index);

}  // namespace metal_candle::cpu::cross_entropy
