// The parts of the kernel table, one a translation unit; each picks the instruction set on its own.
#pragma once

namespace metal_candle::cpu::vm {

struct VectorKernels;
void fill_map_f32(VectorKernels& table);
void fill_pair_f32(VectorKernels& table);
void fill_row_f32(VectorKernels& table);
void fill_map_reduce_f32(VectorKernels& table);  // after maps and pairs
void fill_twin_f32(VectorKernels& table);
void fill_memory(VectorKernels& table);
/// Which list of the table has too few places (instr.h).
[[noreturn]] void table_is_full(const char* list);

}  // namespace metal_candle::cpu::vm
