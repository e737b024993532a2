// The bytecode: an instruction is a kernel and where its operands lie; a frame is the block it is applied to.
//
// An operand's address is resolved by the kernel as bases[base].ptr + offset, so an instruction is written once at
// `lower` and never patched. Base 0 is the scratch memory with the registers; every other base is an array that moves
// with the block (a buffer read or written in place, a kept row, column sums). Rows are `stride` bytes apart.
//
// Kernels come in forms by operand: V walks along the columns, S is one value a row (a row value, a literal, a slot).
// Registers have rows padded to kLanes elements, so kernels may compute past the end of a row in them (kPad), or run
// over the padding of all rows at once (kFlat). Arrays of the caller are never touched outside their elements.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "compiler/kernel_program.h"
#include "metal_candle/elementwise.hpp"

namespace metal_candle::cpu {
struct BadIndex;
}

namespace metal_candle::cpu::vm {

inline constexpr int kLanes = 16;          // registers are padded to this many elements
inline constexpr int kBlock = 4096;        // elements of a block, at most
inline constexpr int kReduceChunk = 1024;  // columns whose reduction is combined before it joins the group's
inline constexpr int kReduceGroup = 256 * kReduceChunk;  // columns whose reduction is made before it joins the row's
inline constexpr int kMaxDims = 16;

struct Base {
  char* ptr;
  std::int64_t stride;  // bytes between rows
};

// kStream: results go past the caches. kFetch: asks for the frame's lines while it works. kRest: does the frame's rest of
// another row meanwhile. kHalf: of an operand, not of the instruction: it is bf16 in memory, for kernels that are some
// other's `reading_halves`.
enum InstrFlags : std::uint16_t { kPad = 1, kFlat = 2, kStream = 4, kFetch = 8, kHalf = 16, kRest = 32 };

struct Operand {
  std::uint16_t base = 0;
  std::uint16_t flags = 0;  // of the instruction, in `out`; kHalf in others
  std::int32_t stride = 0;  // bytes between rows, on top of the base's
  std::uint32_t offset = 0;
};

/// A KAccess with collapsed row dimensions.
struct Access {
  int buffer = 0;
  DType dtype = DType::f32;
  int size = 4;
  std::int64_t offset = 0, col_stride = 0;  // elements
  int dims = 0;
  std::int64_t extents[kMaxDims], strides[kMaxDims];
  enum Gather : std::uint8_t { kNone, kByRow, kByElement } gather = kNone;
  bool gather64 = false, stream = false;
  std::int64_t gather_stride = 0, gather_extent = 0;
};

/// What is left to do of the row before the one at hand: one op with a value of that row, stored past the caches.
struct Rest {
  const float* from = nullptr;  // null: nothing is left
  float* to = nullptr;
  float by = 0;
  std::int64_t begin = 0;                // column of it that belongs to column 0 of the stage at hand
  Elementwise op = Elementwise::kCount;  // sub, mul or div
  int shift = 0;                         // one column of it to 1, 2 or 4 of the stage's
};

struct Frame {
  Base* bases;
  int rows, cols;           // of the block; for row values rows = 1 and the rows lie along cols
  int row_pitch;            // elements between rows of a register
  std::int64_t row0, col0;  // of the block's first element
  std::int64_t stage_cols;
  void* const* buffers;
  BadIndex* bad_index;
  bool fetch_next;  // kFetch asks for what lies from here on, four bytes a column of the block
  const char* fetch;
  Rest rest;  // kRest stores what belongs to the block's columns
};

struct Instr;
using Kernel = void (*)(const Instr&, const Frame&);

/// Extra arguments that few instructions have.
struct Extra {
  Access access;
  std::int64_t imm0 = 1, imm1 = 1;
  std::int8_t step_a = 1, step_b = 1;  // random: 0 where the operand is one value a row
  // A map's reduction: its running state; where the values go, if anywhere. A twin: its last operand; the second result.
  Operand state, kept;
};

struct alignas(64) Instr {
  Kernel fn = nullptr;
  Operand out, a, b, c;
  const Extra* extra = nullptr;
};

enum Form : std::uint8_t { kVV, kVS, kSV, kSS, kForms };  // which of two operands walk along the columns

enum class Reduce : std::uint8_t { sum, max, min, prod, argmax, argmin, kCount };

/// What becomes of the result t of a pair's first op: t ∘ c, c ∘ t with c of either form, or f(t).
enum class PairForm : std::uint8_t { then_v, then_s, from_v, from_s, alone };
struct Pair {
  Elementwise first;
  Form first_form;
  Elementwise second;
  PairForm form;
  Kernel kernel;
};

/// An instruction whose result is reduced at once: without keeping its values, and keeping them.
struct MapReduce {
  Kernel map;
  Reduce op;
  Kernel alone, keeping;
};

/// A kernel of f32 operands, and the same one for operands of which any may be bf16 in memory: no load before it.
struct Halves {
  Kernel plain, reading_halves;
};

inline constexpr int kMostPairs = 96, kMostMapReduces = 32, kMostHalves = 96;

// Kernels of one instruction set; null where there is none (an op outside its domain).
struct VectorKernels {
  Kernel map[static_cast<int>(Elementwise::kCount)][3];  // f32: unary (VV only), binary, compare; i32 logic
  Pair pairs[kMostPairs];                                // f32: two ops in one pass; operands a, b of the first, c
  int pair_count;
  MapReduce map_reduces[kMostMapReduces];
  int map_reduce_count;
  Halves halves[kMostHalves];
  int halves_count;
  Kernel silu_twin;          // f32: silu(a) · c, and its slope times (b · d) beside it
  Kernel sum_of_squares[2];  // f32: of a + b, which is kept; and stored at c, too
  Kernel compare_column[6];  // i64 column index ∘ row value b, in the order of the table
  Kernel pick_column;        // 4-byte: row value b where the column is row value a (i64), row value c elsewhere
  Kernel i32_to_f32;
  Kernel select[kForms];                              // 4-byte values
  Kernel fill;                                        // 4-byte: a row value along the columns
  Kernel reduce[static_cast<int>(Reduce::kCount)];    // f32
  Kernel accumulate[4];                               // f32 column reductions: sum, max, min, prod
  Kernel load_bf16, load_f16, store_bf16, store_f16;  // unit stride, no gather; in.a / in.out are memory
  Kernel round_bf16, round_f16;                       // f32 to the type's nearest value
  Kernel copy, stream;                                // f32, unit stride; `stream` goes past the caches
  Kernel stream_bf16;
  Kernel uniform, normal;
  const char* name;
};
const VectorKernels& vector_kernels();

// Kernels of plain C++ for the other types, and for loads and stores of any kind.
Kernel scalar_map(Elementwise op, RegType type, Form form);
Kernel scalar_select(RegType type, Form form);
Kernel scalar_fill(RegType type);
Kernel scalar_cast(RegType from, DType to, RegType type);
Kernel scalar_reduce(Reduce op, RegType type);
Kernel scalar_accumulate(Reduce op, RegType type);
Kernel logical_not(RegType type);
Kernel any_load(DType dtype, RegType type, bool row_value);
Kernel any_store(RegType type, DType dtype, bool row_value);
/// f64; `uniform` and `normal` above are f32.
Kernel scalar_random(bool normal);
Kernel row_index();
Kernel col_index();
/// Writes n registers of a type densely (column reductions).
void store_dense(RegType type, const void* from, DType dtype, void* to, std::int64_t n);

constexpr int reg_size(RegType type) { return type == RegType::f32 || type == RegType::i32 ? 4 : 8; }
constexpr int dtype_size(DType dtype) {
  switch (dtype) {
    case DType::f64:
    case DType::i64: return 8;
    case DType::f32:
    case DType::i32: return 4;
    case DType::f16:
    case DType::bf16: return 2;
    default: return 1;
  }
}
/// Bytes of running state a reduction needs for every row of a block: six vectors of the widest instruction set.
inline constexpr int kReduceState = 6 * 64;

// What kernels resolve operands with.
template <class T>
inline T* at(const Operand& o, const Frame& f) {
  return reinterpret_cast<T*>(f.bases[o.base].ptr + o.offset);
}
inline std::int64_t pitch(const Operand& o, const Frame& f) { return f.bases[o.base].stride + o.stride; }
template <class T>
inline T* step(T* p, std::int64_t bytes) {
  using Byte = std::conditional_t<std::is_const_v<T>, const char, char>;
  return reinterpret_cast<T*>(reinterpret_cast<Byte*>(p) + bytes);
}

}  // namespace metal_candle::cpu::vm
