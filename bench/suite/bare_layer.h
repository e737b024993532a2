// The work of the section `lora` with nothing of the engine around.
#pragma once

#include <functional>
#include <vector>

#include "suite/ours.h"

namespace bench {

/// A frozen linear layer with a LoRA adapter: y = x·wᵀ + s·(x·a)·b, and the gradients of x, a and b for dy.
struct LoraLayer {
  static constexpr std::int64_t kRank = 16;
  static constexpr float kScale = 2;
  mc::Tensor w, x, dy, a, b;

  /// Forward and backward by the library, with the adapter or without it: the gradients, then y.
  std::vector<mc::LazyTensor> step(bool adapted) const;
};

/// The same products bare: the library's GEMM on its threads, in the fewest rounds, nothing recorded, looked up or
/// allocated, the weight packed beforehand for both directions. Its results have been compared with the library's, whose
/// bits they are; it throws if they differ.
std::function<void(bool adapted)> bare_layer(const LoraLayer& layer);

}  // namespace bench
