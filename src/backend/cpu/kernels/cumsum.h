// cumsum{axis, reverse}(x): floats add up in a wider type and are rounded where they are stored.
#pragma once

#include "metal_candle/op_def.hpp"

namespace metal_candle::cpu {
extern const CpuKernel cumsum_kernel;
}
