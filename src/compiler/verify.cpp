#include "compiler/verify.h"

#ifdef METAL_CANDLE_VERIFY
#include <fmt/format.h>

#include "metal_candle/error.hpp"

namespace metal_candle {

void verify(const ComputationGraph& g, const char* after) {
  auto fail = [&](std::size_t i, const char* what) {
    throw InternalError(fmt::format("after {}: node {} {}", after, i, what));
  };
  for (std::size_t i = 0; i < g.nodes.size(); ++i) {
    const GraphNode& n = g.nodes[i];
    if (!n.op) fail(i, "has no op");
    for (const int in : n.inputs)
      if (in < 0 || static_cast<std::size_t>(in) >= g.nodes.size()) fail(i, "has an input out of range");
    for (const int in : n.inputs)
      if (static_cast<std::size_t>(in) >= i) fail(i, "comes before its input");
    if (n.op->kind == OpKind::leaf && (n.leaf < 0 || static_cast<std::size_t>(n.leaf) >= g.leaves.size()))
      fail(i, "is no leaf of this graph");
    if (n.op->kind == OpKind::scalar && n.slot >= g.slots) fail(i, "has a slot out of range");
    if (n.op->kind == OpKind::view && n.op->name != "expand" && n.op->name != "late" && n.inputs.size() != 1)
      fail(i, "is a view of several");
  }
  for (const int r : g.roots)
    if (r < 0 || static_cast<std::size_t>(r) >= g.nodes.size())
      throw InternalError(fmt::format("after {}: a root is out of range", after));
}

// No two buffers that live at the same time may share arena bytes, unless one is written in place over the other.
void verify(const Plan& p) {
  auto root = [&](std::size_t i) {
    while (p.buffers[i].same_as >= 0) i = static_cast<std::size_t>(p.buffers[i].same_as);
    return i;
  };
  for (std::size_t i = 0; i < p.buffers.size(); ++i)
    for (std::size_t j = 0; j < i; ++j) {
      const PlanBuffer &a = p.buffers[root(i)], &b = p.buffers[root(j)];
      if (root(i) == root(j) || a.where != PlanBuffer::Where::arena || b.where != PlanBuffer::Where::arena) continue;
      if (a.first < 0 || b.first < 0 || a.last < b.first || b.last < a.first) continue;
      if (a.offset < b.offset + b.bytes && b.offset < a.offset + a.bytes)
        throw InternalError(fmt::format("plan: buffers {} and {} overlap", i, j));
    }
}

}  // namespace metal_candle
#endif
