// scatter_add(base, indices, updates). A task owns a range of output rows: it chains the updates of each of its rows in
// order, then writes each row once. 16-bit floats add up in f32 and are rounded at the end.
#pragma once

#include "metal_candle/op_def.hpp"

namespace metal_candle::cpu {
extern const CpuKernel scatter_add_kernel;
}
