// sort{axis, descending}(x) -> values, indices.
#pragma once

#include "metal_candle/op_def.hpp"

namespace metal_candle::cpu {
extern const CpuKernel sort_kernel;
}
