// topk{k}(x) -> values, indices. Long rows are cut in ranges: a first pass keeps the k best of each range, a second one
// the k best of those. Keys are distinct, so the cut does not show in the result.
#pragma once

#include "metal_candle/op_def.hpp"

namespace metal_candle::cpu {
extern const CpuKernel topk_kernel;
}
