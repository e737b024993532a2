// Common subexpressions: of nodes with the same op, attributes and inputs one is computed, over everything that is
// evaluated together. Slots are equal only if they are the same slot; barriers (checkpoint) are equal to nothing.
#include <bit>
#include <unordered_map>

#include "compiler/rewrite.h"
#include "ops/identity.h"
#include "ops/table.h"

namespace metal_candle {
namespace {

std::uint64_t hash_of(const GraphNode& n) {
  std::uint64_t h = std::bit_cast<std::uintptr_t>(n.op);
  auto mix = [&](std::uint64_t v) { h = (h ^ v) * 0x9e3779b97f4a7c15ull, h ^= h >> 31; };
  mix(static_cast<std::uint64_t>(n.dtype));
  for (const auto d : n.shape) mix(static_cast<std::uint64_t>(d));
  for (const auto v : n.attrs.values()) mix(static_cast<std::uint64_t>(v));
  for (const int i : n.inputs) mix(static_cast<std::uint64_t>(i));
  mix(static_cast<std::uint64_t>(n.leaf + 1));
  mix(static_cast<std::uint64_t>(n.slot + 1));
  mix(std::bit_cast<std::uint64_t>(n.literal));
  return h;
}

bool same(const GraphNode& a, const GraphNode& b) {
  auto equal_attrs = [&] {
    if (a.attrs.size() != b.attrs.size()) return false;
    for (int i = 0; i < a.attrs.size(); ++i)
      if (a.attrs[i] != b.attrs[i]) return false;
    return true;
  };
  return a.op == b.op && a.dtype == b.dtype && a.shape == b.shape && a.inputs == b.inputs && a.leaf == b.leaf && a.slot == b.slot &&
         a.integral == b.integral && std::bit_cast<std::uint64_t>(a.literal) == std::bit_cast<std::uint64_t>(b.literal) &&
         a.literal_int == b.literal_int && equal_attrs();
}

}  // namespace

void share_common(ComputationGraph& graph) {
  Rewriter rewriter(graph);
  std::unordered_multimap<std::uint64_t, int> seen;
  seen.reserve(graph.nodes.size());
  rewriter.run([&](GraphNode n) {
    const bool barrier = n.op->kind == OpKind::elementwise && n.op->code == ops::kIdentity;
    const std::uint64_t h = hash_of(n);
    if (!barrier) {
      auto [begin, end] = seen.equal_range(h);
      for (auto it = begin; it != end; ++it)
        if (same(rewriter.node(it->second), n)) return it->second;
    }
    const int id = rewriter.add(std::move(n));
    if (!barrier) seen.emplace(h, id);
    return id;
  });
  remove_dead(graph);
}

}  // namespace metal_candle
