// dynamic_slice{axis, extent}(x, start) and dynamic_update_slice{axis}(x, update, start). When the updated tensor takes
// x's place, only the window is written.
#pragma once

#include "metal_candle/op_def.hpp"

namespace metal_candle::cpu {
extern const CpuKernel dynamic_slice_kernel, dynamic_update_slice_kernel;
}
