// Lowering of a fused unit: its members as one row program, value by value.
#pragma once

#include <map>
#include <tuple>
#include <vector>

#include "compiler/fuse/lower.h"
#include "compiler/fuse/program_builder.h"

namespace metal_candle {

std::size_t bytes_of(const Shape& shape, DType dtype);
/// What registers of type `t` are in memory.
DType memory_dtype(RegType t);

/// Lowers one unit; used once. The parts are in row_operands.cpp (how a member's inputs are got), row_values.cpp (what
/// a member computes) and row_lowering.cpp (results, the step).
class RowLowering {
 public:
  RowLowering(const LowerContext& context, const Unit& unit);
  /// Copies it needs first, then the program, then the ends of column reductions.
  std::vector<PlanStep> run();
  /// The buffer that stands for the product's tile, for a unit behind a product.
  int tile() const { return tile_; }

 private:
  using Access = ProgramBuilder::Access;
  using LoadKey = std::tuple<int, std::int64_t, std::vector<std::int64_t>, std::vector<std::int64_t>>;

  const GraphNode& node(int i) const { return c_.graph.nodes[static_cast<std::size_t>(i)]; }
  const View& view(int i) const { return c_.views[static_cast<std::size_t>(i)]; }
  bool inlined(int i) const { return c_.fusion.inlined[static_cast<std::size_t>(i)]; }
  bool stored(int i) const { return c_.fusion.stored[static_cast<std::size_t>(i)]; }
  Role role(int i) const { return c_.fusion.role[static_cast<std::size_t>(i)]; }
  bool mine(int i) const;
  std::int64_t program_rows() const;
  std::int64_t cols_of(const Shape& shape) const;

  // Operands.
  int number(const GraphNode& n, RegType type);
  int cast(int id, RegType type, DType to);
  int cast(int id, RegType type) { return cast(id, type, memory_dtype(type)); }
  int operand(const GraphNode& n, std::size_t k, const Shape& shape, bool full, RegType type);
  int inline_value(const GraphNode& base, const View& v, const Shape& strides, const Shape& shape, bool full,
                   RegType type);
  int inline_full(const GraphNode& base, RegType type);
  int inline_iota(const GraphNode& base, const View& v, const Shape& strides, const Shape& shape, bool full);
  int load(int in, const Shape& strides, const Shape& shape, bool full);
  Access copied(Access a, int in, const Shape& shape, const Shape& strides);
  static int counted(ProgramBuilder& b, const Shape& shape, const Shape& steps, std::int64_t first, bool full,
                     std::int64_t cols);
  int written_index(const GraphNode& base, const Shape& shape, const Shape& steps, std::int64_t first);
  Access written_first(ProgramBuilder& b, int value, const GraphNode& like, const Shape& shape, std::vector<int> reads);

  // Values.
  int value_of(int i);
  int reduce(int i);
  int narrowed(int id, DType dtype);
  int column(int i, int x);
  Access column_access(const GraphNode& n, const KAccess& to) const;
  PlanStep ending(const GraphNode& n, int i, int parts, DType part, std::int64_t cols);
  int gather(const GraphNode& n, bool full);
  int elementwise(const GraphNode& n, bool full);
  int map(const GraphNode& n, bool full);
  int finished(KValue v);
  void round_decided(const GraphNode& n, KValue& v);
  DType held_in(int in) const;
  int as_stored(int id, DType dtype);
  bool compares_index(const GraphNode& n) const;
  int wide(int id) { return builder_.value(id).type == RegType::i64 ? id : cast(id, RegType::i64); }
  int cast_node(const GraphNode& n, bool full);
  int random(const GraphNode& n, bool full);

  // Results.
  void store(int i);
  void store(int i, int value, bool full);
  void store_product();
  void describe(PlanStep& step) const;
  void describe_buffers(PlanStep& step) const;
  void describe_traffic(PlanStep& step) const;

  const LowerContext& c_;
  const Unit& unit_;
  ProgramBuilder builder_;
  std::int64_t cols_now_ = 1;  // columns of the place that is being lowered
  std::int64_t batch_ = 1, chunks_ = 1;
  int columns_ = 0, tile_ = -1;
  bool raw_index_ = false;  // indices stay i64
  std::map<int, int> values_;
  std::map<int, int> rounded_;  // per value: it, as its type in memory holds it
  std::map<LoadKey, int> loads_;
  std::vector<PlanStep> steps_, endings_;
};

}  // namespace metal_candle
