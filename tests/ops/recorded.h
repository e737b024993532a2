// Inputs of which only type and shape count, and what a node holds.
#pragma once

#include "graph/node.h"
#include "metal_candle/tensor.hpp"

namespace metal_candle::test {

inline LazyTensor f32(const Shape& shape) { return Tensor::zeros(shape, DType::f32); }
inline LazyTensor of(DType dtype, const Shape& shape = {2}) { return Tensor::zeros(shape, dtype); }

// The number that a node holds in place of an operand.
inline bool has_number(const LazyTensor& t) { return t.node()->scalar_flags & Node::kScalarOperand; }
inline bool is_literal(const LazyTensor& t) { return t.node()->scalar_flags & Node::kScalarLiteral; }

}  // namespace metal_candle::test
