// A depth-first walk over nodes with its own stack: chains of any length. Inputs are read once and kept, because
// another thread may evaluate a node, and so let go of its inputs, at any moment; a GraphReader must live as long as
// the walk.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "graph/node.h"

namespace metal_candle::autograd {

/// Node pointer -> number, for many nodes: open addressing, linear probing.
class NodeNumbers {
 public:
  static constexpr std::uint32_t kNone = ~std::uint32_t{0};
  std::uint32_t find(const Node* node) const;
  /// The number of `node`, which becomes `fresh` when it had none.
  std::uint32_t find_or_add(const Node* node, std::uint32_t fresh);

 private:
  struct Slot {
    const Node* node = nullptr;
    std::uint32_t number = kNone;
  };
  std::size_t place(const Node* node) const;
  void grow();
  std::vector<Slot> slots_;
  std::size_t used_ = 0;
};

/// Nodes numbered as they are met, each with its inputs' numbers, and an order in which inputs come first.
class GraphWalk {
 public:
  static constexpr std::uint32_t kNone = NodeNumbers::kNone;

  /// Adds what hangs below `root`. `expand(node, children)` appends the nodes to go on with; null stands for an operand
  /// that is a number.
  template <class Expand>
  void add(Node* root, Expand&& expand) {
    std::vector<Node*> children;
    if (Visit& v = visits_[visit(root)]; !v.open) open(v, children, expand);
    while (!path_.empty()) {
      Step& step = path_.back();
      const Visit& v = visits_[step.visit];
      if (step.next == v.count) {
        order_.push_back(step.visit);
        path_.pop_back();
        continue;
      }
      const std::uint32_t child = edges_[v.first + step.next++];
      if (child != kNone && !visits_[child].open) open(visits_[child], children, expand);
    }
  }

  std::uint32_t find(const Node* node) const { return numbers_.find(node); }
  std::uint32_t size() const { return static_cast<std::uint32_t>(visits_.size()); }
  Node* node(std::uint32_t i) const { return visits_[i].node; }
  std::span<const std::uint32_t> inputs(std::uint32_t i) const {
    return std::span(edges_).subspan(visits_[i].first, visits_[i].count);
  }
  const std::vector<std::uint32_t>& order() const { return order_; }

 private:
  struct Visit {
    Node* node;
    std::uint32_t first, count;
    bool open;
  };
  struct Step {
    std::uint32_t visit, next;
  };
  std::uint32_t visit(Node* node) {
    const std::uint32_t number = numbers_.find_or_add(node, size());
    if (number == size()) visits_.push_back({node, 0, 0, false});
    return number;
  }
  template <class Expand>
  void open(Visit& v, std::vector<Node*>& children, Expand&& expand) {
    const auto number = static_cast<std::uint32_t>(&v - visits_.data());
    children.clear();
    expand(v.node, children);
    v.open = true;
    v.first = static_cast<std::uint32_t>(edges_.size());
    v.count = static_cast<std::uint32_t>(children.size());
    for (Node* child : children) edges_.push_back(child ? visit(child) : kNone);  // v may have moved
    path_.push_back({number, 0});
  }

  NodeNumbers numbers_;
  std::vector<Visit> visits_;
  std::vector<std::uint32_t> edges_, order_;
  std::vector<Step> path_;
};

/// Appends the inputs of `node`; false when they are gone because it was evaluated.
bool append_inputs(Node* node, std::vector<Node*>& children);

}  // namespace metal_candle::autograd
