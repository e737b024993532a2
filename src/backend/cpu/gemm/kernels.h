// What the run-time chosen instruction set provides to the GEMM: micro kernels, packing, conversion.
//
// A *step* is one link of the chain: one k (f32, f64) or a pair (bf16 with vdpbf16ps). A *unit* is what one lane reads
// of an operand in a step: 4 bytes (an f32 or a bf16 pair) or 8 (f64). All strides below are in bytes, so that one
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
  bool accumulate;                  // the chain goes on from what C holds; otherwise from zero
  bool narrow = false;              // C is bf16; only where the family narrows, and not with `accumulate`
  std::int64_t ahead = 0;           // bytes from what is read of B to what is asked for
  const char* next_b = nullptr;     // a line of each row of B that the next calls read, b_odd apart, one a step
  const char* next_a = nullptr;     // rows that the next call reads, if they should be asked for now
  const MicroArgs* next = nullptr;  // the chain goes on with the A and B of these
};
using MicroKernel = void (*)(const MicroArgs&);

inline constexpr int kWidths = 4;  // kernels of 1, 2, 4 and 8 vectors of columns

struct MicroFamily {
  int lanes = 0;
  int unit_bytes = 0;
  int k_per_step = 1;
  bool narrows = false;  // kernels round to bf16 themselves, if asked to
  int max_rows[kWidths] = {};
  const MicroKernel* by_width[kWidths] = {};  // [width][rows - 1]
  const MicroKernel* in_rows[2] = {};         // widths 0 and 1 on rows of B in place, two a step; null where none are

  std::int64_t panel_cols() const { return 2 * lanes; }
};

/// From elements in memory to units.
enum class PackKind : std::uint8_t { copy16, copy32, copy64, bf16_pairs, bf16_widen, f16_widen };

struct PackArgs {
  const char* source;
  std::int64_t lane_stride, k_stride;  // elements
  std::int64_t lanes, k;               // what exists
  std::int64_t width, k_padded;        // what is written; the rest is zero. k_padded: elements, whole steps
  char* target;
};

struct KernelSet {
  const char* name;
  MicroFamily f32, f64, bf16;                     // bf16.lanes == 0: no dot instruction, widen instead
  void (*pack_panel)(PackKind, const PackArgs&);  // target[step][lane]
  void (*pack_rows)(PackKind, const PackArgs&, std::int64_t target_stride);  // target[lane][step]; k_stride is 1
  void (*widen)(PackKind, const char* source, std::int64_t count, float* target);
  void (*narrow)(GemmType, const float* source, std::int64_t source_row, std::int64_t rows, std::int64_t cols,
                 void* target,
                 std::int64_t target_row);  // rows in elements
};

const KernelSet& current_kernels();

/// The family that computes products of `type`, and how operands get to its units.
const MicroFamily& family_of(const KernelSet& set, GemmType type);
PackKind pack_kind(const KernelSet& set, GemmType type);
inline std::int64_t element_bytes(GemmType type) { return type == GemmType::f64 ? 8 : type == GemmType::f32 ? 4 : 2; }

/// kernels_bf16.cpp: micro kernels on vdpbf16ps; lanes == 0 where this machine has none.
const MicroFamily& bf16_dot_family();

}  // namespace metal_candle::cpu
