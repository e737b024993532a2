// What runs report while somebody traces.
#pragma once

#include "backend/backend.h"
#include "runtime/plan_cache.h"

namespace metal_candle {

/// Whether a Trace lives anywhere in the process.
bool tracing();
/// Runs the entry and tells all traces what ran when.
void run_traced(const PlanEntry& entry, const Bindings& bindings);

}  // namespace metal_candle
