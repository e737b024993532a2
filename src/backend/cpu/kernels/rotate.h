// rotate{sign}(x, cosine, sine): the rotation of rotary embedding, a token of all heads at a time. In f32 the same
// operations as its decomposition, hence the same bits; 16-bit floats are rounded once.
#pragma once

#include "metal_candle/op_def.hpp"

namespace metal_candle::cpu {
extern const CpuKernel rotate_kernel;
}
