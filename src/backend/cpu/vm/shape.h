// What lowering has to know of a program before it emits code: which values are the same along a row or everywhere,
// how far the row dimensions and the columns collapse, and the size of blocks.
#pragma once

#include <memory>
#include <vector>

#include "backend/cpu/vm/body.h"

namespace metal_candle::cpu::vm {

/// How a value varies, whatever the program calls it: literals, slots and loads without strides are uniform, loads
/// without a column stride are row values.
enum class Kind : std::uint8_t { uniform, row, full };

bool is_row_reduce(KOp op);
bool is_column_reduce(KOp op);
bool is_store(KOp op);
bool has_result(KOp op);
Reduce reduce_of(KOp op);

struct ProgramShape {
  std::vector<Kind> kinds;
  std::vector<Access> accesses;
  std::vector<std::int64_t> stage_cols;
  std::int64_t rows = 0;
  int dims = 0;
  std::int64_t extents[kMaxDims];
  bool row_reduces = false, column_reduces = false, flat = false;
};
ProgramShape analyze(const KernelProgram& program, const TileUse& tile);

/// Rows, columns and pitch of a block of about `elements`, into the body.
void choose_block(const KernelProgram& program, const ProgramShape& shape, int elements, const TileUse& tile,
                  Body& body);
/// Cuts the work in tasks of some ten microseconds each.
void choose_tasks(const KernelProgram& program, const ProgramShape& shape, Body& body);

}  // namespace metal_candle::cpu::vm
