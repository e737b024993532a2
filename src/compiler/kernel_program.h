// KernelProgram: what a fused step computes, as loops and scalar expressions, for a backend to lower.
//
// The iteration space is rows × columns. A program is a list of values in SSA form, cut in stages. For every row, the
// stages run in order; a stage evaluates its `full` values at each of its columns, then its reductions, then its `row`
// values. So a softmax is three stages: {load x, reduce max}, {x - max, exp, reduce sum}, {divide, store}. A stage may
// have another number of columns than its neighbours (an arg-max over a vocabulary, then a gather of an embedding row);
// full values do not cross between stages of different width.
//
//   full values   one per (row, column)        row values   one per row
//
// A full value used in a later stage than its own is kept in a row buffer if `keep` is set, otherwise the backend
// evaluates it again there (its operands are then available again by the same rule).
//
// Column reductions (`col_reduce`) accumulate a full value over the rows instead: result [batch, columns] where rows are
// batch × rows-per-batch. The rows of a batch entry are cut in `col_chunks` ranges (row i of n goes to chunk
// i·chunks/n), each accumulated from zero, and the access is written densely as [batch, col_chunks, columns]. With more
// than one chunk that is a buffer of partials, and the plan's next step reduces it over its chunks, in order.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "metal_candle/dtype.hpp"

namespace metal_candle {

/// What registers hold: f16 and bf16 are f32 in registers; bool (0 or 1), i8 and u8 are i32.
enum class RegType : std::uint8_t { f32, f64, i32, i64 };
RegType reg_type(DType dtype);

enum class KOp : std::uint8_t {
  // clang-format off
  load,         // access
  literal,      // `literal` (f64) or `literal_int` by type
  slot,         // slot block entry `slot`, converted to `type`. Always a row value
  map,          // elementwise op `code` (see Elementwise) of a, b
  select,       // a (i32, non-zero = true) ? b : c
  logical_not,  // a == 0
  cast,         // a to `type`; float to integer truncates; `to` narrows (i8 wraps, bool is != 0, bf16/f16 round)
  row_index,    // i64: the row's index / imm0 % imm1 (row value)
  col_index,    // i64: the column (full)
  random_uniform,  // f32 or f64 in [0,1) from key a (i64) and counter b (i64)
  random_normal,   // f32 or f64, standard normal, from key a and counter b
  reduce_sum, reduce_max, reduce_min, reduce_prod,  // full a -> row value, NaN propagates
  reduce_argmax, reduce_argmin,                     // full a -> row value i32; the first of equals; a NaN wins
  store,        // a to access; full a: one element a column, row a: one element a row
  col_sum, col_max, col_min, col_prod,              // full a accumulated over rows into access (partials)
  // clang-format on
};

/// Where a load reads or a store writes. Address of (row, column), in elements:
///   offset + Σ row_index[d]·row_strides[d] + column·col_stride  [+ gathered]
/// where row_index is the row number split over KernelProgram::row_dims.
struct KAccess {
  int buffer = -1;  // index into the bindings of the call
  DType dtype = DType::f32;
  std::int64_t offset = 0;
  std::vector<std::int64_t> row_strides;  // one per row_dims entry
  std::int64_t col_stride = 0;
  /// Gather: value `gather` (a row or full integer value, negative counts from the end) times `gather_stride` is added;
  /// it must be below `gather_extent`, else the program reports an index error and reads element 0.
  int gather = -1;
  std::int64_t gather_stride = 0, gather_extent = 0;
  bool stream = false;  // a store that will not be read soon: keep it out of the caches
};

struct KValue {
  KOp op;
  std::uint16_t code = 0;  // map: which elementwise op
  RegType type = RegType::f32;
  bool full = false;  // full or row value
  bool keep = false;  // see above
  std::int16_t stage = 0;
  int a = -1, b = -1, c = -1;  // operands: indices of earlier values
  int access = -1;
  int slot = -1;
  DType to = DType::f32;  // cast
  double literal = 0;
  std::int64_t literal_int = 0;
  std::int64_t imm0 = 1, imm1 = 1;
};

struct KStage {
  std::int64_t cols = 1;
  int begin = 0, end = 0;  // its values, [begin, end): full ones first, then reductions, then row values and row stores
};

struct KernelProgram {
  std::vector<std::int64_t> row_dims;  // outermost first; rows = their product
  std::int64_t rows = 1;
  std::int64_t batch = 1;  // col_*: rows are batch × (rows / batch)
  std::int64_t col_chunks = 1;
  std::vector<KStage> stages;
  std::vector<KValue> values;  // stage after stage
  std::vector<KAccess> accesses;
  int buffers = 0, slots = 0;
  std::string str() const;  // readable, for explain
};

}  // namespace metal_candle
