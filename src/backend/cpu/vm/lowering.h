// The state of lowering one program: where values are, which registers are free, what the stage at hand reads.
//
// Full values are emitted on demand: a stage computes what its reductions, stores and kept values need, evaluating
// values of earlier stages again unless they were kept. Registers are given out in that order and reused after the last
// reader. Stores come last in a block, so that a store may overwrite what the block has read.
#pragma once

#include <algorithm>
#include <map>
#include <utility>

#include "backend/cpu/vm/shape.h"
#include "metal_candle/error.hpp"

namespace metal_candle::cpu::vm {

inline constexpr std::int64_t kForever = std::int64_t{1} << 31;

/// Where an instruction runs: once a task, once a block of rows, or over the block.
enum class Context { init, row, full };

class Lowering {
 public:
  Lowering(const KernelProgram& program, const ProgramShape& shape, const TileUse& tile, Body& body)
      : p_(program),
        s_(shape),
        tile_(tile),
        b_(body),
        kernels_(vector_kernels()),
        n_(static_cast<int>(program.values.size())) {
    rows_.resize(n_);
    full_.resize(n_);
    kept_.resize(n_);
    post_.resize(n_);
    halves_.resize(n_);
    row_last_.assign(n_, -1);
    keep_at_.assign(n_, -1);
    pair_of_.assign(n_, -1);
  }

  /// False when the registers of a block do not fit in L1.
  bool emit(int elements);

 private:
  struct Location {
    Operand operand;
    int slot = -1;  // register to give back, or -1
  };

  KOp op(int v) const { return p_.values[v].op; }
  const KValue& value(int v) const { return p_.values[v]; }
  Kind kind(int v) const { return s_.kinds[v]; }
  bool is_constant(int v) const { return op(v) == KOp::literal || op(v) == KOp::slot; }
  int gather_of(int v) const { return value(v).access >= 0 ? p_.accesses[value(v).access].gather : -1; }
  template <class Fn>
  void each_operand(int v, Fn fn) const {
    for (int o : {value(v).a, value(v).b, value(v).c, gather_of(v)}) {
      if (o >= 0) fn(o);
    }
  }
  /// The operands that v's instruction reads in this stage: those of a pair's first op too, no column index that the
  /// comparing kernel makes itself.
  template <class Fn>
  void each_read(int v, Fn fn) const {
    const int index = column_compared(v);
    if (const int row = picked_by(v); row >= 0) {
      for (int o : {row, value(v).b, value(v).c}) fn(o);
      return;
    }
    if (is_twin(v)) {
      for (int o : twin_.reads) fn(o);
      return;
    }
    each_operand(v, [&](int o) {
      if (o == index) return;
      if (pair_of_[o] == v) each_operand(o, fn);
      else fn(o);
    });
  }
  /// The operand that is the column's index, if v compares it with a row value; else -1.
  int column_compared(int v) const;
  /// The row value that says where v, a choice between two row values, takes the first: at that column. Else -1.
  int picked_by(int v) const;
  template <class Fn>
  Range section(Fn fn) {
    const int begin = static_cast<int>(b_.code.size());
    fn();
    return {begin, static_cast<int>(b_.code.size())};
  }

  // --- scratch memory ---

  std::int64_t allocate(std::int64_t bytes) {
    const std::int64_t at = (top_ + 63) & ~std::int64_t{63};
    top_ = at + bytes;
    if (top_ >= (std::int64_t{1} << 32)) throw InternalError("kernel program: scratch memory over 4 GiB");
    return at;
  }
  static Operand scratch(std::int64_t offset, int stride = 0) {
    Operand o;
    o.offset = static_cast<std::uint32_t>(offset);
    o.stride = stride;
    return o;
  }

  // Registers of full values, by size of an element. An odd number of lines between them spreads them over the sets.
  int take_register(RegType type) {
    const int size = reg_size(type);
    auto& free = free_[size == 8];
    if (!free.empty()) {
      const int slot = free.back();
      free.pop_back();
      return slot;
    }
    const std::int64_t bytes = std::int64_t{size} * b_.pitch * b_.block_rows;
    register_bytes_ += bytes;
    registers_.push_back({allocate(bytes + 192), size});
    return static_cast<int>(registers_.size()) - 1;
  }
  void give_register(int slot) {
    if (slot >= 0) free_[registers_[slot].size == 8].push_back(slot);
  }
  void give_temporaries() {
    for (int slot : temporary_) give_register(slot);
    temporary_.clear();
  }
  Operand register_operand(int slot) const { return scratch(registers_[slot].at, registers_[slot].size * b_.pitch); }

  int take_row() {
    if (!free_rows_.empty()) {
      const int at = free_rows_.back();
      free_rows_.pop_back();
      return at;
    }
    row_slots_.push_back(allocate((b_.block_rows + kLanes) / kLanes * kLanes * 8));
    return static_cast<int>(row_slots_.size()) - 1;
  }

  // --- operands that move with the block ---

  std::uint16_t add_moving(Moving m) {
    b_.moving.push_back(m);
    read_.push_back(0);
    if (b_.moving.size() > 65000) throw InternalError("kernel program: too many operands");
    return static_cast<std::uint16_t>(b_.moving.size());
  }
  Operand memory_operand(int access, bool read = true) {
    auto [it, fresh] = stage_memory_.try_emplace(access);
    if (fresh) {
      const Access& a = lasting_access(access);
      const std::int64_t stride = a.dims ? a.strides[a.dims - 1] * a.size : 0;
      it->second.base = add_moving({&a, 0, stride, a.col_stride * a.size});
    }
    if (read) read_[it->second.base - 1] = 1;
    return it->second;
  }
  Operand keep_operand(int v) {
    auto [it, fresh] = stage_keep_.try_emplace(v);
    if (fresh) {
      const std::int64_t size = reg_size(value(v).type);
      const std::int64_t row = (s_.stage_cols[value(v).stage] + kLanes - 1) / kLanes * kLanes * size;
      if (keep_at_[v] < 0) keep_at_[v] = allocate(row * b_.block_rows + 64);
      it->second.base = add_moving({nullptr, keep_at_[v], row, size});
    }
    return it->second;
  }
  const Access& lasting_access(int access) {
    b_.extras.push_back({s_.accesses[access], 1, 1, 1, 1});
    return b_.extras.back().access;
  }

  bool in_tile(const Access& a) const { return tile_.buffer >= 0 && a.buffer == tile_.buffer; }
  bool regular(int access) const {  // rows of a block at one distance, elements adjacent
    const Access& a = s_.accesses[access];
    if (in_tile(a)) return true;
    return a.gather == Access::kNone && a.col_stride == 1 && (a.dims <= 1 || b_.block_rows == 1 || b_.inner < b_.rows);
  }
  bool same_in_register(DType dtype, RegType type) const {
    return reg_type(dtype) == type && dtype_size(dtype) == reg_size(type);
  }
  /// A load that is no instruction: its readers take the operand from memory.
  bool is_direct(int v) const {
    if (op(v) != KOp::load || kind(v) != Kind::full || !regular(value(v).access)) return false;
    return halves_[v] || same_in_register(s_.accesses[value(v).access].dtype, value(v).type);
  }
  /// Finds the loads of bf16 all of whose readers have kernels for that.
  void find_halves();
  Kernel reading_halves(Kernel kernel) const;
  bool reads_halves(int v) const {
    bool any = false;
    each_operand(v, [&](int o) { any |= is_direct_here(o) && halves_[o]; });
    return any;
  }

  // --- analysis ---

  void find_kept();

  bool from_keep(int v, int stage) const { return kept_[v] && value(v).stage < stage; }

  /// Which full values each stage computes or reads, and when each row value is read last.
  void find_needs();
  void read_row(int v, int section, std::int64_t order) {
    if (kind(v) == Kind::row) row_last_[v] = std::max(row_last_[v], section * kForever + order);
  }

  /// What the first stage that reads memory reads, row after row. With several stages the next row is fetched, if a row
  /// of all arrays stays in the nearer caches.
  void find_ahead();
  /// The stage that fetches the next row; -1: each a share.
  int fetching_stage(std::int64_t row_bytes) const;
  bool overlap();
  /// One of the reductions that work for other rows meanwhile.
  bool reduces_walking(const Instr& in) const;
  void fetch_in_passing();
  void cut_early_stores();
  int full_stores() const;
  bool streams(const Instr& in) const { return in.fn == kernels_.stream || (in.out.flags & kStream) != 0; }

  // --- uniform and row values ---

  void emit_constants();
  static std::uint64_t literal_bits(const KValue& v);

  void emit_row(int v, Context context);
  void release_rows(std::int64_t from, std::int64_t until);
  void release_row_operands(int v, std::int64_t key);

  void emit_rows_of(int stage, bool post);

  void emit_row_stores(int stage);

  // --- full values ---

  void emit_stage(int stage);

  void emit_loop(int stage);
  bool is_direct_here(int v) const { return is_direct(v) && !kept_[v]; }
  bool in_items(int v) const { return kind(v) == Kind::full && !is_direct_here(v) && !from_keep(v, stage_); }

  /// Two ops become one instruction where there is a kernel for them and nobody else wants the first one's result.
  void find_pairs(int stage);
  static bool commutes(int code) {
    return code == static_cast<int>(Elementwise::add) || code == static_cast<int>(Elementwise::mul);
  }
  const Pair* find_pair(int first, int v) const;
  void prepare_pair(Instr& in, int first, int v);

  /// Two items that one kernel computes: the product `plain` of a silu, and `sloped` of its slope and a product. Both are
  /// only stored; the later one of them stays an item and stands for both.
  struct Twin {
    int plain = -1, sloped = -1, silu = -1, slope = -1, product = -1;
    int reads[4] = {-1, -1, -1, -1};
  };
  bool is_map(int v, Elementwise which) const;
  int inner_of(int v, Elementwise which, const std::vector<int>& uses) const;
  bool is_last_product(int v, const std::vector<int>& uses, int stage) const;
  void find_twin(int stage, const std::vector<int>& uses);
  void take_twin();
  bool is_twin(int v) const { return twin_.plain >= 0 && v == std::max(twin_.plain, twin_.sloped); }
  bool placed_with_twin(int store) const {
    return direct_store_ >= 0 && (store == twin_store_[0] || store == twin_store_[1]);
  }
  void place_twin(int stage);
  void emit_twin(int i);

  /// A sum, what is stored of it, and the sum of its squares in one pass: two items that follow each other.
  struct Spread {
    int at = -1;  // of the sum among the items
    int store = -1;
  };
  void find_spread(int stage);
  int store_of_spread(int stage) const;
  bool reads_memory_last(int stage) const;
  void emit_spread(int stage);

  /// Position of each item's last reader; stores read after all of them.
  void find_last_uses(int stage);
  /// The last computed value, stored once, may be written where it belongs instead of to a register.
  bool can_write_direct(int store) const;

  void emit_item(int i, int stage);

  void emit_sink(int v);
  const MapReduce* map_reduce(const Instr& in, int v) const;
  void emit_map_reduce(Instr in, const MapReduce& both, int i, int stage);

  void emit_store(int v);

  // --- one instruction ---

  bool walks(int v, Context context) const {
    return context == Context::init || (context == Context::row ? kind(v) == Kind::row : kind(v) == Kind::full);
  }
  /// The operand as kernels of this context want it: V if it walks, else S.
  Operand operand(int v, Context context);
  /// As above, spread along the columns first if it does not walk.
  Operand walking(int v, Context context);

  Extra& add_access(Instr& in, int v, Context context);

  void check(Kernel kernel, int v) const;

  Instr prepare(int v, Context context);
  Kernel vector_cast(const KValue& x) const;

  void prepare_load(Instr& in, int v, Context context);

  void prepare_map(Instr& in, int v, Context context);

  void prepare_select(Instr& in, int v, Context context);

  /// Marks what may run over the padding: everything that walks must be a register.
  void finish(Instr& in, Operand out, Context context);
  static bool is_uniform(const Operand& o) { return o.base == 0 && o.stride == 0; }

  void emit_value(int v, Context context, Operand out) {
    Instr in = prepare(v, context);
    finish(in, out, context);
  }
  void push(const Instr& in) { b_.code.push_back(in); }

  const KernelProgram& p_;
  const ProgramShape& s_;
  const TileUse tile_;
  Body& b_;
  const VectorKernels& kernels_;
  const int n_;

  struct Register {
    std::int64_t at;
    int size;
  };
  std::int64_t top_ = 0, register_bytes_ = 0;
  std::vector<Register> registers_;
  std::vector<int> free_[2], free_rows_;
  std::vector<std::int64_t> row_slots_, row_last_, keep_at_;
  std::vector<Location> rows_, full_;     // where each value is: rows_ for uniform and row values
  std::vector<int> pair_of_;              // the op that takes this one into its instruction
  std::vector<char> kept_, post_, read_;  // read_: by operand that moves
  std::vector<char> halves_;              // bf16 that is read from memory by who needs it
  std::vector<std::vector<char>> needs_;

  // the stage at hand
  Twin twin_;
  Spread spread_;
  int twin_store_[2] = {-1, -1};
  int stage_ = 0, direct_store_ = -1;
  bool vector_op_ = false, by_column_ = false;  // of the instruction at hand
  std::vector<int> items_, last_, temporary_;
  std::vector<std::pair<int, int>> sinks_;  // value and its reduction, in the order of the items
  std::size_t next_sink_ = 0;
  std::map<int, Operand> stage_memory_, stage_keep_;
};

}  // namespace metal_candle::cpu::vm
