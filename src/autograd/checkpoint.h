// Checkpoints as autograd sees them: which nodes to compute again, and a copy of those.
#pragma once

#include <vector>

#include "autograd/graph_walk.h"

namespace metal_candle::autograd {

bool is_checkpoint(const Node* node);

/// The nodes between a checkpoint's inputs and its value.
class Region {
 public:
  explicit Region(Node* checkpoint);
  /// Where the region begins: the checkpoint's inputs, then other nodes that are used but do not depend on them.
  const std::vector<Node*>& frontier() const { return frontier_; }
  /// The value computed again, not before `after` is there. `begins` receives the copy's own frontier.
  LazyTensor replay(const LazyTensor& after, std::vector<LazyTensor>& begins) const;

 private:
  GraphWalk walk_;
  std::uint32_t value_ = GraphWalk::kNone;
  std::size_t marked_ = 0;  // so many of the frontier are the checkpoint's inputs
  // By visit: computed from those inputs; and the node of an op with several outputs, which is no tensor itself.
  std::vector<char> depends_, has_outputs_;
  std::vector<Node*> frontier_;
};

}  // namespace metal_candle::autograd
