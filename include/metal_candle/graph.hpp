// ComputationGraph: a captured, numbered graph as a plain value that one can print, draw and hash.
//
//   mc::ComputationGraph g = mc::ComputationGraph::capture({loss});
//   std::cout << g.str();                   // one line a node
//   std::ofstream("graph.dot") << g.dot();
//
// Numbering is canonical: the same structure recorded in any order on any thread gives the same graph.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "metal_candle/op_def.hpp"

namespace metal_candle {

/// One operation of a captured graph. Inputs are indices of earlier nodes.
struct GraphNode {
  const OpDef* op = nullptr;
  DType dtype = DType::f32;
  Shape shape;
  std::vector<int> inputs;
  Attrs attrs;
  const std::string* scope = nullptr;
  std::string_view origin;  // the composite op whose decomposition it belongs to
  int leaf = -1;            // leaf: which binding
  int slot = -1;            // scalar: which slot, or -1 for a literal
  bool integral = false;    // scalar: an integer
  double literal = 0;       // scalar literal
  std::int64_t literal_int = 0;
};

/// What the plan may know of a leaf.
struct GraphLeaf {
  DType dtype = DType::f32;
  Shape shape, strides;
  bool frozen = false, donated = false;
  int alias = -1;  // the first leaf that shares its buffer (itself if it is the first)
};

class ComputationGraph {
 public:
  std::vector<GraphNode> nodes;  // inputs before users
  std::vector<GraphLeaf> leaves;
  std::vector<int> roots;
  int slots = 0;

  static ComputationGraph capture(const std::vector<LazyTensor>& roots);
  /// Depends on structure only: not on addresses, names or slot values.
  std::uint64_t hash() const;
  std::string str() const;
  /// Graphviz source.
  std::string dot() const;
};

}  // namespace metal_candle
