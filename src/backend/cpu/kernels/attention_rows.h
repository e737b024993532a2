// The part of attention between its products, over vectors: scores to probabilities and back, rows rescaled, tiles
// transposed. Compiled once per instruction set; sums run over 16 interleaved partial sums on every one of them.
#pragma once

#include <cstdint>

#include "backend/cpu/kernels/attention_problem.h"

namespace metal_candle::cpu::attention {

inline constexpr std::int64_t kSums = 16;  // partial sums of a row; padded widths are multiples of it

/// Up to six rows of scores against a block of keys. Everything is to the base 2.
struct ScoreBlock {
  float* scores;  // [rows][kKeyBlock]: products in
  int rows = 0;
  int begin = 0, end = 0;                       // columns, multiples of kSums
  bool masked = false;                          // otherwise every row sees all of them
  const std::int32_t* key_positions = nullptr;  // [kKeyBlock], kNever where there is no key
  Sight sight[kRowBlock];
  const float* bias[kRowBlock] = {};  // [kKeyBlock] each, or null
  float scale = 1;                    // score = product·scale, or cap·tanh(product·scale) where there is a cap
  float cap = 0;
  std::uint16_t* halves = nullptr;  // [rows][kKeyBlock]: where softmax writes bf16 instead
};

struct RowKernels {
  /// Scores become exp2(score - maximum), or these go to `halves`; the rows' running maximum and sums [rows][kSums] go
  /// on. `factor` [rows] is what earlier results must be scaled by; true if one of them is not 1.
  bool (*softmax)(const ScoreBlock& block, float* maximum, float* sums, float* factor);
  /// Scores become p = exp2(score - lse), gradients [rows][kKeyBlock] of p become those of the products (without
  /// `scale`). What would be the bias's gradient goes to `raw`, where given.
  void (*softmax_grad)(const ScoreBlock& block, float* gradients, const float* lse, const float* delta, float* raw);
  /// Sums of the rows' partial sums [rows][kSums].
  void (*totals)(const float* sums, std::int64_t rows, float* totals);
  /// Row r of [rows][width] times factor[r].
  void (*scale_rows)(float* data, std::int64_t width, std::int64_t rows, const float* factor);
  /// [n][width] with rows `stride` apart to [width][n], rows `target_stride` apart; width is a multiple of 4. Columns
  /// n .. padded - 1 become zero.
  void (*transpose)(const float* source, std::int64_t stride, std::int64_t n, std::int64_t width, float* target,
                    std::int64_t target_stride, std::int64_t padded);
  /// n rows of d elements (f32, bf16 or f16), `stride` elements apart, widened to [n][width] with zeros behind d.
  void (*load)(const void* source, DType dtype, std::int64_t stride, std::int64_t n, std::int64_t d, float* target,
               std::int64_t width);
  /// n rows of bf16 [n][width] to pairs of rows [⌈n/2⌉][width], zeros where the last one has no partner.
  void (*pair_rows)(const std::uint16_t* source, std::int64_t stride, std::int64_t n, std::int64_t width,
                    float* target);
  /// Rows [n][kKeyBlock] rounded to bf16: row by row, and as pairs of rows; either may be null.
  void (*halve)(const float* source, std::int64_t n, std::uint16_t* rows, float* pairs);
  /// Σ a·b over n elements, a multiple of kSums.
  float (*dot)(const float* a, const float* b, std::int64_t n);
};
const RowKernels& row_kernels();

}  // namespace metal_candle::cpu::attention
