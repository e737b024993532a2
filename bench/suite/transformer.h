// A transformer block over the public API, every projection a frozen weight with a LoRA adapter; SmolLM2-135M's shape
// unless told otherwise.
#pragma once

#include "suite/ours.h"

namespace bench {

struct BlockShape {
  std::int64_t hidden = 576, heads = 9, kv_heads = 3, head = 64, inner = 1536, rank = 16;
  std::int64_t sequences = 2, tokens = 512;
  std::int64_t kv() const { return kv_heads * head; }
};

struct LoraWeights {
  mc::Tensor w;         // [out, in], frozen
  mc::LazyTensor a, b;  // [in, rank], [rank, out]
};

class Block {
 public:
  Block(const BlockShape& shape, mc::DType dtype);
  /// x [sequences, tokens, hidden].
  mc::LazyTensor forward(const mc::LazyTensor& x) const;
  /// The adapters, in a fixed order; assign them to train.
  std::vector<mc::LazyTensor*> parameters();
  /// q, k, v, o, gate, up, down.
  std::vector<const LoraWeights*> projections() const { return {&q_, &k_, &v_, &o_, &gate_, &up_, &down_}; }

 private:
  mc::LazyTensor project(const LoraWeights& l, const mc::LazyTensor& x) const;

  BlockShape shape_;
  LoraWeights q_, k_, v_, o_, gate_, up_, down_;
  mc::Tensor norm_before_, norm_after_, positions_;
};

/// Forward and backward of one block as the benchmarks run it: y, the gradient of x and of each adapter.
class BlockStep {
 public:
  BlockStep(const BlockShape& shape, mc::DType dtype);
  std::vector<mc::LazyTensor> record();
  void run() { mc::eval(record()); }

  const Block& block() const { return block_; }
  const mc::Tensor& x() const { return x_; }
  const mc::Tensor& dy() const { return dy_; }

 private:
  Block block_;
  mc::Tensor x_, dy_;
};

}  // namespace bench
