// Large graphs are fused a part at a time. The parts should hold what could become one kernel.
#pragma once

#include <cstddef>
#include <vector>

#include "compiler/fuse/layout.h"

namespace metal_candle {

/// The nodes in a topological order, and where in it each window ends.
struct Windows {
  std::vector<int> order;
  std::vector<std::size_t> ends;
};

/// Windows of at most `most` nodes. A graph that fits in one keeps its order.
Windows cut_in_windows(const ComputationGraph& graph, const std::vector<View>& views, std::size_t most);

}  // namespace metal_candle
