// What `lower` makes and `run` walks: code by stage, the geometry of blocks and tasks, the layout of the scratch
// memory.
#pragma once

#include <deque>
#include <memory>
#include <vector>

#include "backend/cpu/vm/instr.h"
#include "backend/cpu/vm/vm.h"

namespace metal_candle::cpu::vm {

struct Range {
  int begin = 0, end = 0;
};

/// An operand that moves with the block: bases[1 + index].
struct Moving {
  const Access* access = nullptr;       // null: scratch memory at `offset`
  std::int64_t offset = 0, stride = 0;  // bytes between rows; on a tile it has its own
  std::int64_t step = 0;                // bytes a column
};

struct StageCode {
  std::int64_t cols = 0;
  Range pre, loop, post;  // row values before the columns are walked; a block of columns; row values after
  Range moving;
  int piece = kBlock;    // columns at a time
  bool fetches = false;  // in passing, the next row
  bool idle = false;     // nothing to do: its values are constants
};

struct ColumnSum {
  Reduce op;
  RegType type;
  std::int64_t offset;  // accumulator in scratch memory
  std::int64_t cols;
  const Access* to;
};

struct SlotUse {
  int slot;
  RegType type;
  std::uint32_t offset;
};

struct Body {
  std::vector<Instr> code;
  std::deque<Extra> extras;  // stable addresses
  std::vector<Moving> moving;
  Range init;  // values that are the same for all rows
  std::vector<StageCode> stages;
  std::vector<ColumnSum> column_sums;
  std::vector<SlotUse> slots;
  std::vector<unsigned char> constants;  // copied to scratch memory at constants_offset
  std::int64_t constants_offset = 0, scratch = 0;

  // Blocks: block_rows × block_cols, never across a multiple of `inner` rows.
  std::int64_t rows = 0, inner = 1;
  int block_rows = 1, block_cols = kBlock, pitch = kLanes;
  int dims = 0;
  std::int64_t extents[kMaxDims];
  bool streams = false;
  int tile_buffer = -1;
  std::int64_t flat_cols = 0;  // of a row, where all rows run as one
  // Arrays worth fetching ahead, those of the first stage that reads any: the next rows, in one stage or a share in
  // every stage, or the next columns. None on tiles.
  std::vector<int> ahead;
  int ahead_from = 0;  // the stage that reads them
  enum Ahead : std::uint8_t { kColumns, kRows } ahead_of = kColumns;
  int ahead_stage = -1;     // of kRows: where the next rows are fetched; -1: a share in every stage
  bool in_passing = false;  // instead an instruction of that stage, or of the only one, fetches line by line
  bool overlaps = false;    // a row's last stage, one op, runs while the reductions of the next row do
  Elementwise rest_op = Elementwise::kCount;  // that op
  int rest_shift = 0;                         // and the share of it that each of those reductions takes: 1 / 2^shift
  bool even = false;  // a block is one row, whole, and all that changes from row to row are addresses

  // Tasks: (batch × chunks of its rows, or ranges of task_rows) × ranges of task_cols.
  std::int64_t batch = 1, chunks = 1;
  std::int64_t tasks = 0, row_tasks = 0, col_tasks = 1, task_rows = 0, task_cols = 0;
};

std::unique_ptr<const Body> lower_body(const KernelProgram& program, TileUse tile);

}  // namespace metal_candle::cpu::vm
