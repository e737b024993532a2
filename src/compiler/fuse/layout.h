// Layouts: views resolved to (base value, strides, offset), with copies inserted where that is not possible.
#pragma once

#include "metal_candle/graph.hpp"

namespace metal_candle {

/// How a value's elements lie in its base's buffer. The base of anything but a view is itself.
struct View {
  int base = -1;
  Shape strides;
  std::int64_t offset = 0;
  bool dense = true;  // row-major without gaps, offset 0
};

/// Inserts copies (casts to the same type) for reshapes that are no views and for operands that must lie dense or have
/// a unit stride; then returns the view of every node.
std::vector<View> resolve_views(ComputationGraph& graph, const CpuKernel* (*kernel)(const OpDef*));

/// Strides of a value when it is broadcast to `to` (0 where it repeats).
Shape broadcast_strides(const Shape& shape, const Shape& strides, const Shape& to);

}  // namespace metal_candle
