// Lowering: a fused unit as a KernelProgram, a product or kernel op as its step.
#pragma once

#include <functional>

#include "compiler/fuse/groups.h"
#include "compiler/plan.h"

namespace metal_candle {

/// The steps of one unit, in order: copies it needs first, then itself, then the end of column reductions.
/// `buffer_of(node)` names the plan buffer of a value (leaves, numbers, stored values); `new_buffer(bytes)` makes a
/// temporary.
struct LowerContext {
  const ComputationGraph& graph;
  const std::vector<View>& views;
  const Fusion& fusion;
  const Caps& caps;
  std::function<int(int node)> buffer_of;
  std::function<int(std::size_t bytes)> new_buffer;
  std::function<int()> new_tile;
  std::function<bool(int node)> streams;  // a stored value that will not be read soon
};
std::vector<PlanStep> lower_unit(const LowerContext& context, const Unit& unit);

/// Last stage in which a value is evaluated, for every value (values that are not kept are evaluated again).
std::vector<int> last_stages(const KernelProgram& program);

}  // namespace metal_candle
