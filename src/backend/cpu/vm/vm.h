// RowProgram: a KernelProgram lowered to a bytecode of vector operations.
//
// A block of rows × columns, small enough that its registers stay in L1, runs through the whole instruction list of a
// stage before the next block: one dispatch a block and op. Which vector instructions the kernels use is decided once a
// process (Highway's dynamic dispatch) and looked up in `lower`; `run` only walks a list of function pointers.
//
// What a result depends on: f32 elementwise results depend on the element alone, reductions over a row on its number of
// columns alone, column reductions on rows, batch and col_chunks. Never on tasks, threads or the block size.
//
// In place: a store may overwrite what a load of the same stage reads at the same position. It must not overwrite what
// a later stage loads or evaluates again.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>

#include "compiler/kernel_program.h"

namespace metal_candle::cpu {

struct BadIndex;

namespace vm {
struct Body;
}

/// The tiles a program is to run on, as the epilogue of a matmul.
struct TileUse {
  int buffer = -1;  // loads of it read the tile; f32 or i32. -1: no tiles
  int cols = 32;    // of most tiles; others are right, if slower
  /// Most tiles are whole rows, one behind the other: they may run as one row. Others are right, if slower.
  bool whole_rows = false;
};

/// Immutable after `lower`; any number of threads may run tasks of one program at the same time.
class RowProgram {
 public:
  /// With a tile, for run_tile only: the program must be `tileable`.
  static std::unique_ptr<RowProgram> lower(const KernelProgram& program, TileUse tile = {});
  ~RowProgram();
  RowProgram(const RowProgram&) = delete;
  RowProgram& operator=(const RowProgram&) = delete;

  /// How many independent tasks a call consists of, from shapes only. Take the next one when done: they may differ in
  /// length. Zero when there is nothing to write.
  std::int64_t tasks() const;
  /// What a running thread needs, any alignment; contents do not matter and do not carry over.
  std::size_t scratch_bytes() const;
  /// buffers[i] is the base of KAccess::buffer i. slots are 8-byte entries: a double where the slot value's type is a
  /// float, an int64 where it is an integer. bad_index (may be null) becomes the first gather index out of range, unless
  /// it is one already.
  void run(void* const* buffers, const std::uint64_t* slots, std::int64_t task, void* scratch,
           BadIndex* bad_index) const;

  /// One stage, no reductions.
  static bool tileable(const KernelProgram& program);
  /// Evaluates rows [row0, row0+rows) × columns [col0, col0+cols) only. Loads of the tile's buffer read `tile` (its
  /// first element is the one of row0, col0; ld elements a row), wherever their access points. Values of one element a
  /// row are stored by the call whose col0 is 0.
  void run_tile(void* const* buffers, const std::uint64_t* slots, std::int64_t row0, std::int64_t rows,
                std::int64_t col0, std::int64_t cols, const void* tile, std::int64_t ld, void* scratch) const;

 private:
  RowProgram();
  std::unique_ptr<const vm::Body> body_;
};

/// For tests: lets only the `index`-th instruction set (0 = best) of those this machine can run be used by later calls
/// of `lower`, and gives its name; null when there are no more. -1 restores the choice of the machine.
const char* set_isa_for_test(int index);

}  // namespace metal_candle::cpu
