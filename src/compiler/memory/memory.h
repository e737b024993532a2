// Memory: lifetimes by phase, in-place results, donations, and offsets in one arena.
#pragma once

#include "compiler/plan.h"

namespace metal_candle {

/// With `reuse` off every temporary has memory of its own and nothing is written in place.
void plan_memory(Plan& plan, const ComputationGraph& graph, bool reuse);

}  // namespace metal_candle
