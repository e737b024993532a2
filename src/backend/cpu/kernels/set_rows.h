// set_rows(base, indices, rows). A task owns a range of the result's rows and writes them in the order of the indices.
#pragma once

#include "metal_candle/op_def.hpp"

namespace metal_candle::cpu {
extern const CpuKernel set_rows_kernel;
}
