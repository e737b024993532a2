// The work of the section `block` with nothing of the engine around: what the library's block could reach at most.
#pragma once

#include <functional>
#include <string>

#include "suite/transformer.h"

namespace bench {

struct BareWork {
  std::function<void()> run;           // once, on all threads
  std::function<std::string()> parts;  // what the last run's time went into
};

/// One forward and backward pass of the block, by hand: bare products on weights packed beforehand, both ways, the bare
/// attention kernels, and a fused AVX-512 loop for whatever lies between, in an order of its own. Its results have been
/// compared with the library's; it throws if they differ by more than rounding. Without `run` on other processors.
BareWork bare_block(BlockStep& step, const BlockShape& shape, mc::DType dtype);

}  // namespace bench
