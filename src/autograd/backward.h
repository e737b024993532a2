// The backward pass over one graph.
#pragma once

#include <span>
#include <vector>

#include "graph/node.h"
#include "metal_candle/op_def.hpp"

namespace metal_candle::autograd {

struct BackwardRequest {
  std::span<const LazyTensor> outputs, cotangents;  // an undefined cotangent is zero
  std::span<const LazyTensor> wanted;
  /// Where the graph ends, for the gradient of a part of it; `wanted` does not end it by itself.
  std::span<const LazyTensor> boundary = {};
};

struct BackwardResult {
  /// For each wanted tensor; undefined: zero. A tensor that is wanted twice has its gradient in the first place only.
  std::vector<LazyTensor> grads;
  std::vector<char> reached;  // there is a way from an output to it
  std::vector<Origins> lost;  // of evaluated tensors that the walk met, whose inputs are gone
};

BackwardResult backward(const BackwardRequest& request);

}  // namespace metal_candle::autograd
