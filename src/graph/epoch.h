// Epochs protect readers of the graph (capture, autograd) from the submit that lets go of an evaluated node's inputs.
//
// A reader announces the epoch in which it started. Whoever takes inputs out of nodes retires them instead of releasing
// them: they are released when every reader that was active at that moment has finished. Nobody ever waits.
#pragma once

#include <span>

namespace metal_candle {

class Node;

/// While it lives, node pointers read from `Node::input` on this thread stay valid. Nests.
class GraphReader {
 public:
  GraphReader();
  ~GraphReader();
  GraphReader(const GraphReader&) = delete;
  GraphReader& operator=(const GraphReader&) = delete;
};

/// Takes over one reference to each node and drops it when no reader can still see it.
void retire(std::span<Node* const> nodes);

}  // namespace metal_candle
