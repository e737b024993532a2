// Nodes are numbered from one root after the other, so that a part of a gradient that only a later root reads (a
// weight's) lies far from what it could be fused with. Here what can be computed follows soon after what it is computed
// from, and what is made of leaves alone comes when it is asked for.
#include "compiler/fuse/windows.h"

#include <algorithm>

namespace metal_candle {
namespace {

bool light(const GraphNode& n) { return n.op->kind == OpKind::elementwise || n.op->kind == OpKind::view; }
bool fusable(const GraphNode& n) {
  return n.op->kind == OpKind::elementwise || n.op->kind == OpKind::reduce || n.op->kind == OpKind::gather;
}

class Order {
 public:
  explicit Order(const ComputationGraph& graph)
      : g_(graph),
        readers_(graph.nodes.size()),
        missing_(graph.nodes.size(), 0),
        of_leaves_(graph.nodes.size()),
        there_(graph.nodes.size(), false) {
    for (std::size_t i = 0; i < g_.nodes.size(); ++i) {
      const GraphNode& n = g_.nodes[i];
      for (const int in : n.inputs) {
        if (of_leaves_[static_cast<std::size_t>(in)]) continue;
        readers_[static_cast<std::size_t>(in)].push_back(static_cast<int>(i));
        ++missing_[i];
      }
      of_leaves_[i] = missing_[i] == 0 && (light(n) || n.inputs.empty());
    }
  }

  std::vector<int> run() {
    std::size_t next = 0;  // first in, first out
    for (std::size_t i = 0; i < g_.nodes.size(); ++i) {
      if (!there_[i] && !of_leaves_[i]) take(static_cast<int>(i));
      for (; next < order_.size(); ++next)
        for (const int reader : readers_[static_cast<std::size_t>(order_[next])])
          if (--missing_[static_cast<std::size_t>(reader)] == 0) take(reader);
    }
    for (std::size_t i = 0; i < g_.nodes.size(); ++i) take(static_cast<int>(i));
    return std::move(order_);
  }

 private:
  /// A node, after those of its inputs that nobody has asked for yet.
  void take(int i) {
    for (asked_.push_back(i); !asked_.empty();) {
      const int top = asked_.back();
      const std::size_t before = asked_.size();
      if (!there_[static_cast<std::size_t>(top)])
        for (const int in : g_.nodes[static_cast<std::size_t>(top)].inputs)
          if (!there_[static_cast<std::size_t>(in)]) asked_.push_back(in);
      if (asked_.size() > before) continue;
      asked_.pop_back();
      if (!there_[static_cast<std::size_t>(top)]) order_.push_back(top);
      there_[static_cast<std::size_t>(top)] = true;
    }
  }

  const ComputationGraph& g_;
  std::vector<std::vector<int>> readers_;  // per node that is not made of leaves
  std::vector<int> missing_;               // inputs of that kind that are not there
  std::vector<bool> of_leaves_, there_;
  std::vector<int> asked_, order_;
};

/// Before each place in the order: values that could have stayed in a kernel with a reader behind it.
std::vector<int> cut_edges(const ComputationGraph& g, const std::vector<View>& views, const std::vector<int>& order) {
  std::vector<int> place(order.size()), cut(order.size() + 1, 0);
  for (std::size_t at = 0; at < order.size(); ++at) place[static_cast<std::size_t>(order[at])] = static_cast<int>(at);
  for (std::size_t i = 0; i < g.nodes.size(); ++i)
    for (const int in : g.nodes[i].inputs) {
      const auto base = static_cast<std::size_t>(views[static_cast<std::size_t>(in)].base);
      if (!fusable(g.nodes[i]) || !fusable(g.nodes[base])) continue;
      ++cut[static_cast<std::size_t>(place[base]) + 1];
      --cut[static_cast<std::size_t>(place[i]) + 1];
    }
  for (std::size_t at = 1; at < cut.size(); ++at) cut[at] += cut[at - 1];
  return cut;
}

}  // namespace

Windows cut_in_windows(const ComputationGraph& graph, const std::vector<View>& views, std::size_t most) {
  const std::size_t n = graph.nodes.size();
  Windows w;
  if (n <= most) {
    for (std::size_t i = 0; i < n; ++i) w.order.push_back(static_cast<int>(i));
    w.ends = {n};
    return w;
  }
  w.order = Order(graph).run();
  const std::vector<int> cut = cut_edges(graph, views, w.order);
  for (std::size_t begin = 0; begin < n; begin = w.ends.back()) {
    std::size_t end = std::min(begin + most, n);
    if (end < n)  // of the last quarter, where least is cut
      end = static_cast<std::size_t>(std::min_element(cut.begin() + static_cast<std::ptrdiff_t>(end - most / 4),
                                                      cut.begin() + static_cast<std::ptrdiff_t>(end + 1)) -
                                     cut.begin());
    w.ends.push_back(end);
  }
  return w;
}

}  // namespace metal_candle
