// Capture: from handles to a numbered structure, in a form made for looking up plans.
//
// The structure is written as words: two graphs are the same exactly if their words are. A hit in the plan cache needs
// nothing but these words, the leaves and the slots; the ComputationGraph is built only when a plan must be compiled.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "graph/node.h"
#include "graph/pointer_table.h"
#include "metal_candle/graph.hpp"

namespace metal_candle {

/// Reused between captures; call `capture` inside a GraphReader that lives as long as `nodes` is looked at.
struct Capture {
  std::vector<std::uint64_t> words;  // the structure
  std::vector<Node*> nodes;          // numbered; inputs before users
  std::vector<Node*> leaves;         // evaluated nodes, in order of first use
  std::vector<Storage*> storages;    // the leaves' buffers
  std::vector<std::uint64_t> slots;  // values, f64 or i64 bits
  std::vector<int> roots;
  std::uint64_t hash = 0;

  void run(std::span<const LazyTensor> wanted, std::span<const LazyTensor> donated = {});
  /// `scopes`, where given, has one for each of `nodes` that stands for the node's own.
  ComputationGraph graph(const std::string* scopes = nullptr) const;

 private:
  struct Frame {
    Node* node;
    int next_input;
  };
  void reset();
  void visit(Node* root);
  bool emit(Node* node);  // false: evaluated meanwhile
  void emit_leaf(Node* node, Storage* storage);
  int number_of(const Node* node) { return *numbers_.find(node); }

  PointerTable numbers_;  // of nodes; -1 until their inputs are numbered
  PointerTable buffers_;  // the first leaf on each
  PointerTable donated_;
  std::vector<Frame> stack_;
};

/// A readable difference of two captures' structures: the first node and field that differ.
std::string first_difference(std::span<const std::uint64_t> before, std::span<const std::uint64_t> now);

}  // namespace metal_candle
