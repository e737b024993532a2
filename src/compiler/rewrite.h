// What graph passes share: copying a graph node by node into a new one, replacing some on the way.
#pragma once

#include <algorithm>

#include "metal_candle/graph.hpp"

namespace metal_candle {

/// Drops nodes that no root needs. Leaves and slots keep their numbers.
void remove_dead(ComputationGraph& graph);

/// Rebuilds `graph`: `visit(node)` gets each node with its inputs renumbered and returns its number in the new graph,
/// usually `add(std::move(node))`.
class Rewriter {
 public:
  explicit Rewriter(ComputationGraph& graph);
  int add(GraphNode node);
  GraphNode& node(int id) { return out_.nodes[static_cast<std::size_t>(id)]; }
  const std::vector<GraphNode>& nodes() const { return out_.nodes; }
  template <class Visit>
  void run(Visit visit) {
    for (std::size_t i = 0; i < in_.nodes.size(); ++i) {
      GraphNode n = std::move(in_.nodes[i]);
      for (int& input : n.inputs) input = map_[static_cast<std::size_t>(input)];
      map_[i] = visit(std::move(n));
    }
    finish();
  }

 private:
  void finish();
  ComputationGraph& in_;
  ComputationGraph out_;
  std::vector<int> map_;
};

/// Whether any node is one that `matches`: a pass with nothing to do need not copy the graph.
template <class Matches>
bool any_node(const ComputationGraph& graph, Matches matches) {
  return std::any_of(graph.nodes.begin(), graph.nodes.end(), matches);
}

/// Uses of each node, roots counted.
std::vector<int> use_counts(const ComputationGraph& graph);

// The passes over graphs, in the order of passes.cpp.
void decompose(ComputationGraph& graph, const CpuKernel* (*kernel)(const OpDef*));
void simplify(ComputationGraph& graph);
void share_common(ComputationGraph& graph);
/// Identities go; what a barrier holds back becomes a late_view_def.
void drop_barriers(ComputationGraph& graph);
void normalize_reductions(ComputationGraph& graph);
void fold_lora(ComputationGraph& graph);

/// x·w + t·b as one product with two K segments; made by fold_lora, seen by nobody outside the compiler.
extern const OpDef matmul_lora_def;

/// (x, after...): x as it is. What reads x through this view runs after the other inputs are there, so that what a
/// checkpoint computes again does not lie around for longer than it must.
extern const OpDef late_view_def;

/// A node of one op with given inputs, scope and origin taken from `like`.
GraphNode make_like(const GraphNode& like, const OpDef& op, DType dtype, const Shape& shape, std::vector<int> inputs,
                    Attrs attrs = {});

}  // namespace metal_candle
