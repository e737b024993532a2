// What the run-time chosen instruction set provides to the GEMM: micro kernels, packing, conversion.
//
// A *step* is one link of the chain: one k (f32, f64, i32), a pair (bf16 with vdpbf16ps, bytes widened to 16 bits) or four
// (bytes with vpdpbusd). A *unit* is what one lane reads of an operand in a step: 4 bytes, or 8 (f64). All strides below are in bytes, so that one
// kernel serves operands in place, copied by rows and copied k-major.
#pragma once

#include <cstdint>

#include "backend/cpu/gemm/gemm.h"

namespace metal_candle::cpu {

struct MicroArgs {
  std::int64_t steps;
  const char* a;
  std::int64_t a_row, a_step;
  const char* b;
  std::int64_t b_step, b_panel;  // b_panel: from one pair of vectors to the next
  std::int64_t b_odd = 0;        // where B's rows are paired on the way: from a step's first row to its second
  char* c;
  std::int64_t c_row;
  bool accumulate;                     // the chain goes on from what C holds; otherwise from zero
  const std::int32_t* less = nullptr;  // to be taken from all of a row, one a row; only where the family takes it
  bool narrow = false;                 // C is bf16; only where the family narrows, and not with `accumulate`
  std::int64_t ahead = 0;              // bytes from what is read of B to what is asked for
  std::int64_t first = 0;              // of a squeezed panel: the step of it that the call begins with
  const char* next_b = nullptr;        // a line of each row of B that the next calls read, b_odd apart, one a step
  const char* next_a = nullptr;        // rows that the next call reads, if they should be asked for now
  const MicroArgs* next = nullptr;     // the chain goes on with the A and B of these
};
using MicroKernel = void (*)(const MicroArgs&);

inline constexpr int kWidths = 4;  // kernels of 1, 2, 4 and 8 vectors of columns

/// Panels in fewer bytes (kernels_squeezed.cpp); null where there are none.
struct SqueezedForm {
  const MicroKernel* kernels = nullptr;  // [rows - 1], of width 1 and as many rows; `b` is a panel's begin
  std::int64_t (*bytes)(std::int64_t steps) = nullptr;
  /// A packed panel of an even number of steps; false: too many of its weights are unlike the others.
  bool (*squeeze)(const char* panel, std::int64_t steps, char* target) = nullptr;
};

struct MicroFamily {
  int lanes = 0;
  int unit_bytes = 0;
  int k_per_step = 1;
  bool narrows = false;  // kernels round to bf16 themselves, if asked to
  int max_rows[kWidths] = {};
  const MicroKernel* by_width[kWidths] = {};  // [width][rows - 1]
  const MicroKernel* in_rows[2] = {};         // widths 0 and 1 on rows of B in place, two a step; null where none are
  SqueezedForm squeezed;

  std::int64_t panel_cols() const { return 2 * lanes; }
};

/// From elements in memory to units.
enum class PackKind : std::uint8_t {
  copy16,
  copy32,
  copy64,
  bf16_pairs,
  bf16_widen,
  f16_widen,
  i8_pairs,  // widened to 16 bits
  u8_pairs,
  quads,
  quads_off  // quads with the highest bit of each byte turned over: an i8 plus 128 as u8, or a u8 less 128 as i8
};

/// Units of bytes: of each row and step the four bytes at data + r·row + s·step.
struct QuadRows {
  const char* data;
  std::int64_t row, step;
  std::int64_t rows, steps;
};

struct PackArgs {
  const char* source;
  std::int64_t lane_stride, k_stride;  // elements
  std::int64_t lanes, k;               // what exists
  std::int64_t width, k_padded;        // what is written; the rest is zero. k_padded: elements, whole steps
  char* target;
};

struct KernelSet {
  const char* name;
  MicroFamily f32, f64, bf16;  // bf16.lanes == 0: no dot instruction, widen instead
  MicroFamily i32, pairs;      // pairs: of 16-bit integers
  // vpdpbusd takes one operand unsigned and the other signed: by whether the left one is signed. lanes == 0: pairs.
  // Where both operands have the same sign the right one is packed `quads_off`. What that adds is 128 times the sums of
  // the left one's rows, which sum_quads gives as the kernels want it (MicroArgs::less).
  MicroFamily quads[2];
  void (*sum_quads[2])(const QuadRows&, std::int32_t* sums);
  void (*pack_panel)(PackKind, const PackArgs&);                             // target[step][lane]
  void (*pack_rows)(PackKind, const PackArgs&, std::int64_t target_stride);  // target[lane][step]; k_stride is 1
  void (*widen)(PackKind, const char* source, std::int64_t count, float* target);
  void (*narrow)(GemmType, const float* source, std::int64_t source_row, std::int64_t rows, std::int64_t cols,
                 void* target,
                 std::int64_t target_row);  // rows in elements
};

const KernelSet& current_kernels();

/// The family that computes products of `type`, and how operands get to its units.
const MicroFamily& family_of(const KernelSet& set, GemmType type);
enum class Operand : std::uint8_t { left, right };
PackKind pack_kind(const KernelSet& set, GemmType type, Operand operand);

inline bool is_byte(GemmType type) { return type >= GemmType::i8; }
inline bool is_signed(GemmType type, Operand operand) {
  return type == GemmType::i8 || type == (operand == Operand::left ? GemmType::i8_u8 : GemmType::u8_i8);
}
inline std::int64_t element_bytes(GemmType type) {
  if (is_byte(type)) return 1;
  return type == GemmType::f64 ? 8 : type == GemmType::f32 || type == GemmType::i32 ? 4 : 2;
}

/// kernels_bf16.cpp: micro kernels on vdpbf16ps; lanes == 0 where this machine has none.
const MicroFamily& bf16_dot_family();
/// kernels_squeezed.cpp: for that family, where this machine has it.
SqueezedForm squeezed_form();

/// kernels_vnni.cpp: puts in `quads` and `sum_quads` what this machine has for vectors of so many lanes; false: nothing.
bool add_vnni(KernelSet& set);

}  // namespace metal_candle::cpu
