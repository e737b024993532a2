// concat{axis}(parts...): each part is a box of the output.
#pragma once

#include "metal_candle/op_def.hpp"

namespace metal_candle::cpu {
extern const CpuKernel concat_kernel;
}
