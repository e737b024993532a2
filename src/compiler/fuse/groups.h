// Fusion: which nodes become one kernel.
//
// Kernels are row programs: an iteration space of rows × columns in which every value is one per element (full), one
// per row (row), or accumulated over the rows (column). Two groups merge when their spaces agree, when every edge
// between them connects the same place of both (an element with itself, a row with its elements), and when no path
// leaves the group and comes back. Nothing here knows the name of an op; kinds are enough.
#pragma once

#include <cstdint>
#include <vector>

#include "compiler/compile.h"
#include "compiler/fuse/layout.h"

namespace metal_candle {

enum class Role : std::uint8_t { none, full, row, column };

/// A step to be: a fused group, or one product or kernel op, with the group fused behind a product as its epilogue.
struct Unit {
  std::vector<int> members;  // nodes of the row program, ascending
  int single = -1;           // the matmul or kernel node, if there is one
  std::vector<int> outputs;  // nodes that pick one of several outputs of `single`
  std::int64_t rows = 0;     // 0: any split of `numel` will do (elementwise only)
  std::int64_t numel = 0;
  std::vector<int> needs;  // other units whose results it reads
  std::vector<int> after;  // values that must be there first, although it does not read them
  bool alive = true;
};

struct Fusion {
  std::vector<Unit> units;
  std::vector<int> unit_of;   // per node, -1: leaves, numbers, views
  std::vector<Role> role;     // per node, in its unit's space
  std::vector<bool> stored;   // per node: needed outside its unit
  std::vector<bool> inlined;  // per node: readers make it for themselves (indices, and what is the same everywhere)
};

Fusion fuse(const ComputationGraph& graph, const std::vector<View>& views, const Caps& caps, bool merge);

}  // namespace metal_candle
