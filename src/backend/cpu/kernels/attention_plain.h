// Attention in f64, one score after the other: for gradient checks and whoever asks for f64, not for speed.
#pragma once

#include "backend/cpu/kernels/attention_problem.h"

namespace metal_candle::cpu::attention {

/// The queries of a tile, for the heads of one key head.
void plain_forward(const KernelCall& call, const Problem& p, const Tile& tile, std::int64_t key_head);
/// All of a sequence, for one key head: dq, dk, dv and the bias's gradient.
void plain_backward(const KernelCall& call, const Problem& p, const Sequence& s, std::int64_t key_head);

}  // namespace metal_candle::cpu::attention
