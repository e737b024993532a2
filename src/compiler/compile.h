// The compiler: ComputationGraph → Plan.
#pragma once

#include "compiler/plan.h"

namespace metal_candle {

/// What the compiler may know of a backend; plain data.
struct Caps {
  /// The kernel for an op of kind `kernel`, or null: then the op is decomposed.
  const CpuKernel* (*kernel)(const OpDef*) = nullptr;
  std::size_t keep_row_bytes = 256 << 10;  // rows up to this are worth keeping between stages
  std::size_t stream_bytes = 8 << 20;      // outputs from this on bypass the caches
  bool epilogues = true;
};

/// One bit a pass, by position in `pass_names()`. All on by default.
using PassMask = std::uint64_t;
inline constexpr PassMask kAllPasses = ~PassMask{0};
const std::vector<std::string>& pass_names();
/// The bit of a pass; throws UserError listing the names when there is none of that name.
PassMask pass_bit(const std::string& name);

Plan compile(ComputationGraph graph, const Caps& caps, PassMask passes = kAllPasses);

}  // namespace metal_candle
