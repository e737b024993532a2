// Scheduling: an order for units, and phases of steps that may run at the same time.
#pragma once

#include "compiler/fuse/groups.h"
#include "compiler/plan.h"

namespace metal_candle {

/// Units in an order in which each comes after those it needs; among those that are ready, one that frees memory
/// or turns much into little, else the one recorded first.
std::vector<int> order_units(const ComputationGraph& graph, const std::vector<View>& views, const Fusion& fusion);

/// Gives every step its phase. With `overlap`, small steps move up into an earlier phase whose steps they do not need,
/// so that independent branches run at the same time; without, one phase a step. Steps are put in phase order.
void assign_phases(Plan& plan, bool overlap);

}  // namespace metal_candle
