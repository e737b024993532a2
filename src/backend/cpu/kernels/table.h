// The library's own CPU kernels by op. Ops from outside bring theirs in OpDef::cpu.
#pragma once

#include "metal_candle/op_def.hpp"

namespace metal_candle::cpu {

/// Null when the op has none.
const CpuKernel* builtin_kernel(const OpDef* op);

}  // namespace metal_candle::cpu
