// Cross entropy of x·w without the logits: they exist for a tile of rows and up to 192 classes at a time.
//
// It is attention with the rows as queries and the classes as keys and values: a task takes a tile of rows over all
// classes, keeps a running maximum and sum, and gathers Σ exp(logit)·w[:, j] on the way if u is wanted; w is read once
// a tile. Logits lie class by class: so both products read an embedding's rows as they are, nothing is transposed but
// the tile once, and a vector is as many rows. Rows are taken in compacted order, so ignored ones (a prompt, padding)
// cost nothing.
#pragma once

#include "metal_candle/op_def.hpp"

namespace metal_candle::cpu {
extern const CpuKernel linear_cross_entropy_kernel, linear_cross_entropy_grad_kernel;
}
