// Builds a KernelProgram: values in any order first, then stages, recomputation and the common iteration space.
#pragma once

#include <cstdint>
#include <vector>

#include "compiler/kernel_program.h"
#include "metal_candle/shape.hpp"

namespace metal_candle {

class ProgramBuilder {
 public:
  /// A load or store before the iteration space is settled: strides over a logical shape whose elements are either all
  /// (row, column) places or all rows.
  struct Access {
    KAccess access;
    Shape shape, strides;
    bool full = true;
    std::int64_t cols = 1;  // columns of its space
  };

  ProgramBuilder(std::int64_t rows, std::size_t keep_row_bytes) : rows_(rows), keep_bytes_(keep_row_bytes) {}

  /// Adds a value; `cols` counts for full values and for reductions of them. Returns its number.
  int add(KValue value, std::int64_t cols = 1);
  int add_access(Access access);
  /// An index along an axis, Σ strides·index over `shape`, as i64.
  int index(const Shape& shape, const Shape& strides, bool full, std::int64_t cols);
  const KValue& value(int id) const { return items_[static_cast<std::size_t>(id)].value; }
  const KAccess& access(const KValue& v) const { return accesses_[static_cast<std::size_t>(v.access)].access; }
  /// The same value, one per element.
  int widen(int id, std::int64_t cols);

  /// Settles everything. `rows` 0 at construction: columns are the innermost run common to all accesses.
  KernelProgram finish(std::int64_t batch, std::int64_t col_chunks);

 private:
  struct Item {
    KValue value;
    std::int64_t cols = 1;
    int level = 0;
    bool live = false;  // something stored depends on it
  };
  struct PendingIndex {
    int item;
    std::size_t access;
  };
  void settle_space();
  void choose_rows();
  std::vector<std::int64_t> row_cuts() const;
  void fill(Access& a, const std::vector<std::int64_t>& dims);
  void write_index(const PendingIndex& pending);
  void mark_live();
  void assign_levels();
  void sink();
  void mark_kept();
  struct Part;
  void emit(KernelProgram& out);
  void emit_level(KernelProgram& out, const std::vector<int>& members);
  void emit_value(KernelProgram& out, int first, const Part& part);
  void renumber(KernelProgram& out) const;
  int gather_of(const KValue& v) const;  // the value whose number says where it reads, or -1

  std::int64_t rows_;
  std::size_t keep_bytes_;
  std::vector<Item> items_;
  std::vector<Access> accesses_;
  std::vector<PendingIndex> indices_;
  std::vector<std::int64_t> dims_;
  std::vector<int> number_;  // per item: its value in the program
};

bool is_reduction(KOp op);
bool is_column_op(KOp op);

}  // namespace metal_candle
