// How a recorded linear_cross_entropy is laid out, for the op's definition and for the kernels that compute it.
//
//   linear_cross_entropy{ignore_index, label_smoothing}(x [n, d], w [d, v], targets [n]) -> loss [n], lse [n], u [n, d]
//   linear_cross_entropy_grad{the same}(x, w, targets, lse, g [n]) -> dw, transposed: [v, d]
//
// loss and lse are f32 (f64 for f64); an ignored row's loss is 0, its lse is +inf, so that its probabilities are 0.
// u is d loss / d x of each row, in x's type.
#pragma once

#include "metal_candle/op_def.hpp"

namespace metal_candle::ops {

struct LinearCrossEntropyRule {
  std::int64_t ignore_index;
  double smoothing;
  explicit LinearCrossEntropyRule(const Attrs& a) : ignore_index(a[0]), smoothing(a.real(1)) {}
};

}  // namespace metal_candle::ops
