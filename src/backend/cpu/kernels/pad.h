// pad{before..., after...}(x, value): rows of the output are the value, or the value around a row of x.
#pragma once

#include "metal_candle/op_def.hpp"

namespace metal_candle::cpu {
extern const CpuKernel pad_kernel;
}
