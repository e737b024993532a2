// Attention and its gradient, in tiles: scores exist for a block of queries and 64 keys at a time.
//
// Forward: a task is a tile of queries of one key head (the heads that share it are rows side by side). It walks over
// the keys in blocks of 64, counted from the sequence's first key, and keeps a running maximum and sum. Everything a
// query's result is made of depends on its own keys and on their places in those blocks: prefilling in pieces, decoding
// one by one, other batch neighbours and other thread counts give the same bits.
//
// Backward: scores are computed again from lse. dq gathers over key blocks, dk and dv over query tiles, each in
// ascending order by a single task, so the sums are the same whichever way the work is cut.
#pragma once

#include "metal_candle/op_def.hpp"

namespace metal_candle::cpu {
extern const CpuKernel attention_kernel, attention_grad_kernel;
}
