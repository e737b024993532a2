// What fusing a short chain can gain at most: its arithmetic bare, no graph, no plan, no allocation. The section `seeds`
// asks for twice our own eager mode, which on such chains is bounded by this as soon as both sides' overheads are small.
#pragma once

#include <functional>

namespace bench {

struct BareChain {
  std::function<void()> apart;     // operation by operation, with a result in memory for each
  std::function<void()> together;  // in one pass
};

/// (a + b)·2 of n numbers.
BareChain bare_add_mul(int n);
/// (x·a)·b·2 for one row x of d numbers; as our products define it, one chain of fma over the inner extent a sum.
BareChain bare_lora(int d, int r);
/// rms_norm(softmax(2(ab + c))) of 3x4.
BareChain bare_five();

}  // namespace bench
