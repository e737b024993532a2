// Checks between passes, in debug builds (METAL_CANDLE_VERIFY): a pass that breaks the graph is named at once.
#pragma once

#include "compiler/plan.h"

namespace metal_candle {

#ifdef METAL_CANDLE_VERIFY
void verify(const ComputationGraph& graph, const char* after);
void verify(const Plan& plan);
#else
inline void verify(const ComputationGraph&, const char*) {}
inline void verify(const Plan&) {}
#endif

}  // namespace metal_candle
