// From logits to probabilities where classes are rows and the rows of x columns: neither the largest logit nor the sum
// needs anything across the lanes of a vector. Compiled once per instruction set; a column's bits are its own.
#pragma once

#include <cstdint>

namespace metal_candle::cpu::cross_entropy {

/// Logits [classes][columns], in lines a little longer; columns is a multiple of 16.
struct Logits {
  float* data;
  std::int64_t classes, columns, line;
};

struct ColumnKernels {
  /// Logits become exp(logit - maximum); each column's running maximum (times log2 e) and sum go on. `factor` is what
  /// earlier results of a column must be scaled by.
  void (*softmax)(const Logits& logits, float* maximum, float* sums, float* factor);
  /// Rounded to bf16, as pairs of classes [⌈classes/2⌉][line]; the last one's partner is zero where there is none.
  void (*pair)(const Logits& logits, float* pairs);
};
const ColumnKernels& column_kernels();

}  // namespace metal_candle::cpu::cross_entropy
