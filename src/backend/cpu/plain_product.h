// Products of i64: plain loops, sums modulo 2^64.
#pragma once

#include "backend/cpu/matmul_shape.h"

namespace metal_candle::cpu {

/// Rows of one batch entry that make a task.
std::int64_t plain_rows(const MatmulShape& shape);
/// Rows [row, row_end) of batch entry `entry`; c is dense [batch, m, n]. bases: the buffers of a, b, a2, b2.
void plain_product(const MatmulShape& shape, const char* const bases[4], std::int64_t entry, std::int64_t row,
                   std::int64_t row_end, char* c);

}  // namespace metal_candle::cpu
