// Rounding to bf16 where the processor has an instruction for it: the same bits as everywhere else, in fewer steps.
#pragma once

#include <cstdint>

namespace metal_candle::cpu::vm {

struct VectorKernels;

/// Replaces kernels of a table for AVX-512, if this processor can.
void fill_native_bf16(VectorKernels& table);

/// Rows [n][cols] (cols a multiple of 16) as bf16: row by row, and as pairs of rows, zeros where the last one has no
/// partner; either may be null. Only where the GEMM multiplies pairs of bf16.
void halve_native(const float* source, std::int64_t n, std::int64_t cols, std::uint16_t* rows, float* pairs);

}  // namespace metal_candle::cpu::vm
