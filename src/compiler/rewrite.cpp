#include "compiler/rewrite.h"

namespace metal_candle {

Rewriter::Rewriter(ComputationGraph& graph) : in_(graph), map_(graph.nodes.size(), -1) {
  out_.leaves = graph.leaves;
  out_.slots = graph.slots;
  out_.nodes.reserve(graph.nodes.size());
}

int Rewriter::add(GraphNode node) {
  out_.nodes.push_back(std::move(node));
  return static_cast<int>(out_.nodes.size()) - 1;
}

void Rewriter::finish() {
  for (const int r : in_.roots) out_.roots.push_back(map_[static_cast<std::size_t>(r)]);
  in_ = std::move(out_);
}

void remove_dead(ComputationGraph& graph) {
  std::vector<bool> live(graph.nodes.size(), false);
  for (const int r : graph.roots) live[static_cast<std::size_t>(r)] = true;
  for (std::size_t i = graph.nodes.size(); i-- > 0;)
    if (live[i])
      for (const int in : graph.nodes[i].inputs) live[static_cast<std::size_t>(in)] = true;
  std::vector<int> map(graph.nodes.size(), -1);
  std::size_t kept = 0;
  for (std::size_t i = 0; i < graph.nodes.size(); ++i) {
    if (!live[i]) continue;
    for (int& in : graph.nodes[i].inputs) in = map[static_cast<std::size_t>(in)];
    map[i] = static_cast<int>(kept);
    if (kept != i) graph.nodes[kept] = std::move(graph.nodes[i]);
    ++kept;
  }
  graph.nodes.resize(kept);
  for (int& r : graph.roots) r = map[static_cast<std::size_t>(r)];
}

std::vector<int> use_counts(const ComputationGraph& graph) {
  std::vector<int> uses(graph.nodes.size(), 0);
  for (const GraphNode& n : graph.nodes)
    for (const int in : n.inputs) ++uses[static_cast<std::size_t>(in)];
  for (const int r : graph.roots) ++uses[static_cast<std::size_t>(r)];
  return uses;
}

GraphNode make_like(const GraphNode& like, const OpDef& op, DType dtype, const Shape& shape, std::vector<int> inputs,
                    Attrs attrs) {
  GraphNode n;
  n.op = &op;
  n.dtype = dtype;
  n.shape = shape;
  n.inputs = std::move(inputs);
  n.attrs = std::move(attrs);
  n.scope = like.scope;
  n.origin = like.origin;
  return n;
}

}  // namespace metal_candle
