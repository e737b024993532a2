// Plan: steps and memory. What a graph compiles to, before a backend lowers it.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "compiler/kernel_program.h"
#include "metal_candle/graph.hpp"

namespace metal_candle {

/// Something a step reads or writes. The index of a PlanBuffer is what KAccess::buffer and operands name.
struct PlanBuffer {
  enum class Where : std::uint8_t {
    leaf,      // binding `index`
    output,    // result `index`, from the pool
    arena,     // a temporary at `offset`
    slot,      // the slot block's entry `index`, as a 0-d array
    constant,  // `bits`, as a 0-d array
    tile,      // a matmul's tile inside its epilogue; no memory
  } where = Where::arena;
  int index = -1;
  std::size_t bytes = 0, offset = 0;
  std::uint64_t bits = 0;
  int node = -1;              // the value it holds, for explain
  int same_as = -1;           // written in place over this buffer
  int first = -1, last = -1;  // phases
};

/// One side of a product: an address and strides, in elements.
struct MatmulOperand {
  int buffer = -1;
  std::int64_t offset = 0, row_stride = 0, col_stride = 0;
  std::vector<std::int64_t> batch_strides;
  bool constant = false;  // a frozen leaf: worth packing once
};

struct MatmulStep {
  DType dtype = DType::f32;
  struct Bytes {
    bool a_signed, b_signed;
  };
  std::optional<Bytes> bytes;  // a and b are i8 or u8, dtype is i32
  std::int64_t m = 0, n = 0, k = 0;
  std::vector<std::int64_t> batch;  // extents
  MatmulOperand a, b;
  std::int64_t k2 = 0;  // a second product added to the first: the LoRA term
  MatmulOperand a2, b2;
  int out = -1;           // dense [batch, m, n]; -1 with an epilogue, which stores the product too where it is wanted
  bool epilogue = false;  // PlanStep::program runs on each tile; buffer `tile` in it is the product
  int tile = -1;
};

struct KernelStep {
  const OpDef* op = nullptr;
  const CpuKernel* cpu = nullptr;
  Attrs attrs;
  struct Operand {
    int buffer = -1;  // -1: an output that nobody reads
    DType dtype = DType::f32;
    Shape shape, strides;
    std::int64_t offset = 0;
  };
  std::vector<Operand> inputs, outputs;
};

struct PlanStep {
  enum class Kind : std::uint8_t { fused, matmul, kernel } kind = Kind::fused;
  std::string label;
  const std::string* scope = nullptr;
  KernelProgram program;
  MatmulStep matmul;
  KernelStep kernel;
  std::vector<int> reads, writes;  // buffers
  std::vector<int> after;          // until phases are given: steps that come first for another reason
  double bytes = 0, flops = 0;     // what it must move and compute
  int phase = 0;
};

/// A result: a dense or strided look at a buffer (of kind output or leaf).
struct PlanOutput {
  int buffer = -1;
  DType dtype = DType::f32;
  Shape shape, strides;
  std::int64_t offset = 0;
  bool dense = true;
};

struct PassTime {
  std::string name;
  double microseconds;
};

struct Plan {
  std::vector<PlanBuffer> buffers;
  std::vector<PlanStep> steps;            // in order
  int phases = 0;                         // steps of one phase are independent of each other
  std::vector<PlanOutput> outputs;        // one per root
  std::vector<std::size_t> output_bytes;  // of the buffers of kind output
  std::vector<int> output_donor;          // the donated leaf whose memory an output takes over, or -1
  int leaves = 0, slots = 0;
  std::size_t arena_bytes = 0;
  std::size_t most_live_bytes = 0;  // of temporaries, in any phase: what no arena can be smaller than
  std::vector<PassTime> times;
  /// Readable: steps, phases, memory. `scopes`, where given, are those of the steps in another graph of this structure.
  std::string str(std::span<const std::string* const> scopes = {}) const;
};

}  // namespace metal_candle
