// Common subexpressions: of nodes with the same op, attributes and inputs one is computed, over everything that is
// evaluated together. Slots are equal only if they are the same slot; barriers (checkpoint) are equal to nothing.
#include <bit>
#include <vector>

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
  return a.op == b.op && a.dtype == b.dtype && a.shape == b.shape && a.inputs == b.inputs && a.leaf == b.leaf &&
         a.slot == b.slot && a.integral == b.integral &&
         std::bit_cast<std::uint64_t>(a.literal) == std::bit_cast<std::uint64_t>(b.literal) &&
         a.literal_int == b.literal_int && equal_attrs();
}

/// Nodes by what they are: an open hash table, at most half full.
class Seen {
 public:
  explicit Seen(std::size_t nodes) : entries_(std::bit_ceil(2 * nodes + 1)) {}
  /// The number of the node that `n` is equal to, or -1; `n` is then expected to be remembered.
  int find(std::uint64_t hash, const GraphNode& n, Rewriter& rewriter) {
    for (at_ = hash & mask(); entries_[at_].id >= 0; at_ = (at_ + 1) & mask())
      if (entries_[at_].hash == hash && same(rewriter.node(entries_[at_].id), n)) return entries_[at_].id;
    return -1;
  }
  /// Of the node that was not found just now.
  void remember(std::uint64_t hash, int id) { entries_[at_] = {hash, id}; }

 private:
  struct Entry {
    std::uint64_t hash = 0;
    int id = -1;
  };
  std::size_t mask() const { return entries_.size() - 1; }
  std::vector<Entry> entries_;
  std::size_t at_ = 0;
};

}  // namespace

void share_common(ComputationGraph& graph) {
  Rewriter rewriter(graph);
  Seen seen(graph.nodes.size());
  rewriter.run([&](GraphNode n) {
    const bool barrier = n.op->kind == OpKind::elementwise && n.op->code == ops::kIdentity;
    if (barrier) return rewriter.add(std::move(n));
    const std::uint64_t h = hash_of(n);
    const int known = seen.find(h, n, rewriter);
    if (known >= 0) return known;
    const int id = rewriter.add(std::move(n));
    seen.remember(h, id);
    return id;
  });
  remove_dead(graph);
}

}  // namespace metal_candle
