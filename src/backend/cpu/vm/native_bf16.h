// Rounding to bf16 where the processor has an instruction for it: the same bits as everywhere else, in fewer steps.
#pragma once

#include <cstdint>

namespace metal_candle::cpu::vm {

struct VectorKernels;

/// Replaces kernels of a table for AVX-512, if this processor can.
void fill_native_bf16(VectorKernels& table);

/// Rows [n][cols] (cols a multiple of 16), `line` apart, as bf16: row by row, and as pairs of rows, zeros where the last
/// one has no partner; either may be null. Only where the GEMM multiplies pairs of bf16, as the next one.
void halve_native(const float* source, std::int64_t n, std::int64_t cols, std::int64_t line, std::uint16_t* rows,
                  float* pairs);
/// n rows of bf16 [n][cols], `stride` apart, as such pairs [⌈n/2⌉][cols].
void pair_native(const std::uint16_t* source, std::int64_t stride, std::int64_t n, std::int64_t cols, float* pairs);

}  // namespace metal_candle::cpu::vm
