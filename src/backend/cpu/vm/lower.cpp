// From values to instructions: which registers, which operands straight from memory, which kernel.
//
// Full values are emitted on demand: a stage computes what its reductions, stores and kept values need, evaluating
// values of earlier stages again unless they were kept. Registers are given out in that order and reused after the last
// reader. Stores come last in a block, so that a store may overwrite what the block has read.
#include <algorithm>
#include <bit>
#include <map>
#include <utility>

#include "backend/cpu/vm/shape.h"
#include "metal_candle/error.hpp"

namespace metal_candle::cpu::vm {
namespace {

constexpr int kRegisterBytes = 32 << 10;  // what blocks may fill of L1
constexpr std::int64_t kForever = std::int64_t{1} << 31;

enum class Context { init, row, full };

class Lowering {
 public:
  Lowering(const KernelProgram& program, const ProgramShape& shape, bool tile, Body& body)
      : p_(program), s_(shape), tile_(tile), b_(body), kernels_(vector_kernels()), n_(static_cast<int>(program.values.size())) {
    rows_.resize(n_);
    full_.resize(n_);
    kept_.resize(n_);
    post_.resize(n_);
    row_last_.assign(n_, -1);
    keep_at_.assign(n_, -1);
    pair_of_.assign(n_, -1);
  }

  /// False when the registers of a block do not fit in L1.
  bool emit() {
    std::int64_t moving = 1;
    for (const KValue& v : p_.values) moving += v.access >= 0 || v.keep ? 2 : 0;
    top_ = (moving * static_cast<std::int64_t>(p_.stages.size()) + 1) * 24 + 64;
    find_kept();
    find_needs();
    emit_constants();
    b_.init = section([&] {
      for (int v = 0; v < n_; ++v) {
        if (has_result(op(v)) && s_.kinds[v] == Kind::uniform && !is_constant(v)) emit_row(v, Context::init);
      }
    });
    for (int stage = 0; stage < static_cast<int>(p_.stages.size()); ++stage) emit_stage(stage);
    if (!tile_) find_ahead();
    b_.scratch = top_ + 256;
    return register_bytes_ <= kRegisterBytes;
  }

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
    each_operand(v, [&](int o) {
      if (o == index) return;
      if (pair_of_[o] == v) each_operand(o, fn);
      else fn(o);
    });
  }
  /// The operand that is the column's index, if v compares it with a row value; else -1.
  int column_compared(int v) const {
    const KValue& x = value(v);
    if (x.op != KOp::map || x.code < static_cast<int>(Elementwise::equal) || x.code > static_cast<int>(Elementwise::greater_equal)) return -1;
    if (op(x.a) == KOp::col_index && kind(x.b) != Kind::full) return x.a;
    if (op(x.b) == KOp::col_index && kind(x.a) != Kind::full) return x.b;
    return -1;
  }
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
      it->second.base = add_moving({&a, 0, 0, a.col_stride * a.size});
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

  bool regular(int access) const {  // rows of a block at one distance, elements adjacent
    const Access& a = s_.accesses[access];
    return a.gather == Access::kNone && a.col_stride == 1 && (a.dims <= 1 || b_.block_rows == 1 || b_.inner < b_.rows);
  }
  bool same_in_register(DType dtype, RegType type) const {
    return reg_type(dtype) == type && dtype_size(dtype) == reg_size(type);
  }
  /// A load that is no instruction: its readers take the operand from memory.
  bool is_direct(int v) const {
    if (op(v) != KOp::load || kind(v) != Kind::full) return false;
    if (tile_ && value(v).type == RegType::f32) return false;
    return regular(value(v).access) && same_in_register(s_.accesses[value(v).access].dtype, value(v).type);
  }

  // --- analysis ---

  void find_kept() {
    const bool early_store = std::any_of(p_.values.begin(), p_.values.end(), [&](const KValue& v) {
      return is_store(v.op) && v.stage + 1 < static_cast<int>(p_.stages.size());
    });
    for (int v = 0; v < n_; ++v) {
      // Reading a row of the caller's memory a second time is as good as reading a copy of it.
      kept_[v] = value(v).keep && kind(v) == Kind::full && (early_store || !is_direct(v));
      bool post = false;
      each_operand(v, [&](int o) {
        post |= value(o).stage == value(v).stage && (is_row_reduce(op(o)) || post_[o]);
      });
      post_[v] = post && kind(v) == Kind::row && !is_row_reduce(op(v));
    }
  }

  bool from_keep(int v, int stage) const { return kept_[v] && value(v).stage < stage; }

  /// Which full values each stage computes or reads, and when each row value is read last.
  void find_needs() {
    const int stages = static_cast<int>(p_.stages.size());
    needs_.assign(stages, std::vector<char>(n_, 0));
    for (int stage = 0; stage < stages; ++stage) {
      auto& need = needs_[stage];
      for (int v = n_ - 1; v >= 0; --v) {
        const bool here = value(v).stage == stage;
        const bool sink = here && (!has_result(op(v)) || is_row_reduce(op(v)));
        if (here && kept_[v]) need[v] = 1;
        if (!(sink || (need[v] && kind(v) == Kind::full && !from_keep(v, stage)))) {
          if (here && kind(v) == Kind::row) each_operand(v, [&](int o) { read_row(o, stage * 3 + (post_[v] ? 2 : 0), v); });
          continue;
        }
        const bool row_store = is_store(op(v)) && !value(value(v).a).full;
        each_read(v, [&](int o) {
          need[o] = 1;
          read_row(o, row_store ? stage * 3 + 2 : stage * 3 + 1, kForever - 1);
        });
      }
    }
  }
  void read_row(int v, int section, std::int64_t order) {
    if (kind(v) == Kind::row) row_last_[v] = std::max(row_last_[v], section * kForever + order);
  }

  /// What the first stage reads from memory, row after row. With several stages the next row is fetched while the last
  /// stage writes, if a row of all of them stays in the nearer caches.
  void find_ahead() {
    std::int64_t row_bytes = 0;
    const Range range = b_.stages.front().moving;
    for (int i = range.begin; i < range.end; ++i) {
      const Moving& m = b_.moving[i];
      if (!m.access || m.access->col_stride != 1 || !read_[i]) continue;
      if (m.access->dims > 0 && m.access->strides[m.access->dims - 1] == 0) continue;
      b_.ahead.push_back(i);
      row_bytes += b_.stages.front().cols * m.step;
    }
    // One instruction a block reads memory evenly on its own.
    if (b_.stages.size() == 1 && b_.stages[0].loop.end - b_.stages[0].loop.begin < 2) b_.ahead.clear();
    b_.ahead_of = b_.stages.size() > 1 && row_bytes <= (96 << 10) ? Body::kRows : Body::kColumns;
  }

  // --- uniform and row values ---

  void emit_constants() {
    std::map<std::pair<RegType, std::uint64_t>, int> seen;
    std::vector<std::pair<int, int>> users;
    for (int v = 0; v < n_; ++v) {
      if (op(v) != KOp::literal) continue;
      const std::uint64_t bits = literal_bits(value(v));
      auto [it, fresh] = seen.try_emplace({value(v).type, bits}, static_cast<int>(b_.constants.size()));
      if (fresh) {
        const auto* bytes = reinterpret_cast<const unsigned char*>(&bits);
        b_.constants.insert(b_.constants.end(), bytes, bytes + 8);
      }
      users.push_back({v, it->second});
    }
    b_.constants_offset = allocate(static_cast<std::int64_t>(b_.constants.size()) + 128);
    for (auto [v, at] : users) rows_[v].operand = scratch(b_.constants_offset + at);
    for (int v = 0; v < n_; ++v) {
      if (op(v) != KOp::slot) continue;
      rows_[v].operand = scratch(allocate(128));
      b_.slots.push_back({value(v).slot, value(v).type, rows_[v].operand.offset});
    }
  }
  static std::uint64_t literal_bits(const KValue& v) {
    switch (v.type) {
      case RegType::f32: return std::bit_cast<std::uint32_t>(static_cast<float>(v.literal));
      case RegType::f64: return std::bit_cast<std::uint64_t>(v.literal);
      case RegType::i32: return static_cast<std::uint32_t>(v.literal_int);
      case RegType::i64: return static_cast<std::uint64_t>(v.literal_int);
    }
    return 0;
  }

  void emit_row(int v, Context context) {
    if (context == Context::init) {
      rows_[v].operand = scratch(allocate(128));
    } else {
      rows_[v].slot = take_row();
      rows_[v].operand = scratch(row_slots_[rows_[v].slot]);
    }
    emit_value(v, context, rows_[v].operand);
  }
  void release_rows(std::int64_t from, std::int64_t until) {
    for (int v = 0; v < n_; ++v) {
      if (rows_[v].slot >= 0 && row_last_[v] >= from && row_last_[v] < until) {
        free_rows_.push_back(rows_[v].slot);
        rows_[v].slot = -1;
      }
    }
  }
  void release_row_operands(int v, std::int64_t key) {
    each_operand(v, [&](int o) {
      if (kind(o) == Kind::row && row_last_[o] == key && rows_[o].slot >= 0) {
        free_rows_.push_back(rows_[o].slot);
        rows_[o].slot = -1;
      }
    });
  }

  void emit_rows_of(int stage, bool post) {
    const std::int64_t section = stage * 3 + (post ? 2 : 0);
    for (int v = p_.stages[stage].begin; v < p_.stages[stage].end; ++v) {
      if (!has_result(op(v)) || is_row_reduce(op(v)) || kind(v) != Kind::row || post_[v] != post) continue;
      emit_row(v, Context::row);
      release_row_operands(v, section * kForever + v);
    }
    if (post) emit_row_stores(stage);
    release_rows(section * kForever, (section + 1) * kForever);
  }

  void emit_row_stores(int stage) {
    for (int v = p_.stages[stage].begin; v < p_.stages[stage].end; ++v) {
      if (!is_store(op(v)) || value(value(v).a).full) continue;
      const int a = value(v).a;
      Instr in;
      in.fn = any_store(value(a).type, s_.accesses[value(v).access].dtype, true);
      in.a = rows_[a].operand;
      add_access(in, v, Context::row).step_a = kind(a) == Kind::row;
      push(in);
    }
  }

  // --- full values ---

  void emit_stage(int stage) {
    StageCode code;
    code.cols = s_.stage_cols[stage];
    code.pre = section([&] { emit_rows_of(stage, false); });
    code.moving.begin = static_cast<int>(b_.moving.size());
    stage_memory_.clear();
    stage_keep_.clear();
    code.loop = section([&] { emit_loop(stage); });
    code.moving.end = static_cast<int>(b_.moving.size());
    code.post = section([&] { emit_rows_of(stage, true); });
    b_.stages.push_back(code);
  }

  void emit_loop(int stage) {
    stage_ = stage;
    const std::vector<char>& need = needs_[stage];
    items_.clear();
    for (int v = 0; v < n_; ++v) {
      full_[v] = {};
      pair_of_[v] = -1;
      if (need[v] && kind(v) == Kind::full && !is_direct_here(v) && !from_keep(v, stage)) items_.push_back(v);
    }
    find_pairs(stage);
    find_last_uses(stage);
    for (int v = p_.stages[stage].begin; v < p_.stages[stage].end; ++v) {
      if (is_row_reduce(op(v))) {
        rows_[v].slot = take_row();
        rows_[v].operand = scratch(row_slots_[rows_[v].slot]);
      }
    }
    std::vector<int> rest;  // reductions of what is not computed here
    sinks_.clear();
    for (int v = p_.stages[stage].begin; v < p_.stages[stage].end; ++v) {
      if (!is_row_reduce(op(v)) && !is_column_reduce(op(v))) continue;
      if (in_items(value(v).a)) sinks_.push_back({value(v).a, v});
      else rest.push_back(v);
    }
    std::sort(sinks_.begin(), sinks_.end());
    next_sink_ = 0;
    for (std::size_t i = 0; i < items_.size(); ++i) emit_item(static_cast<int>(i), stage);
    for (int v : rest) emit_sink(v);
    for (int v = p_.stages[stage].begin; v < p_.stages[stage].end; ++v) {
      if (is_store(op(v)) && value(value(v).a).full && v != direct_store_) emit_store(v);
    }
    for (int v : items_) give_register(std::exchange(full_[v].slot, -1));
    release_rows((stage * 3 + 1) * kForever, (stage * 3 + 2) * kForever);
  }
  bool is_direct_here(int v) const { return is_direct(v) && !kept_[v]; }
  bool in_items(int v) const { return kind(v) == Kind::full && !is_direct_here(v) && !from_keep(v, stage_); }

  /// Two ops become one instruction where there is a kernel for them and nobody else wants the first one's result.
  void find_pairs(int stage) {
    std::vector<int> uses(n_, 0);
    for (int v : items_) each_operand(v, [&](int o) { ++uses[o]; });
    for (int v = p_.stages[stage].begin; v < p_.stages[stage].end; ++v) {
      if (!has_result(op(v)) || is_row_reduce(op(v))) each_operand(v, [&](int o) { ++uses[o]; });
    }
    std::vector<char> taken(n_, 0);
    for (int v : items_) {
      if (op(v) != KOp::map || value(v).type != RegType::f32) continue;
      for (int o : {value(v).a, value(v).b}) {
        if (o < 0 || op(o) != KOp::map || !in_items(o) || kept_[o] || uses[o] != 1 || taken[o] || !find_pair(o, v)) continue;
        pair_of_[o] = v;
        taken[v] = 1;
        break;
      }
    }
    std::erase_if(items_, [&](int v) { return pair_of_[v] >= 0; });
  }
  static bool commutes(int code) {
    return code == static_cast<int>(Elementwise::add) || code == static_cast<int>(Elementwise::mul);
  }
  const Pair* find_pair(int first, int v) const {
    const KValue &x = value(first), &y = value(v);
    if (value(x.a).type != RegType::f32) return nullptr;
    Form form = kVV;
    if (x.b >= 0) {
      form = !walks(x.b, Context::full) ? kVS : !walks(x.a, Context::full) ? kSV : kVV;
      if (form == kSV && commutes(x.code)) form = kVS;
    }
    PairForm then = PairForm::alone;
    if (y.b >= 0) {
      const bool from = y.b == first && !commutes(y.code);
      const bool c_walks = walks(y.a == first ? y.b : y.a, Context::full);
      then = from ? (c_walks ? PairForm::from_v : PairForm::from_s) : (c_walks ? PairForm::then_v : PairForm::then_s);
    }
    for (int i = 0; i < kernels_.pair_count; ++i) {
      const Pair& p = kernels_.pairs[i];
      if (static_cast<int>(p.first) == x.code && static_cast<int>(p.second) == y.code && p.first_form == form && p.form == then) return &p;
    }
    return nullptr;
  }
  void prepare_pair(Instr& in, int first, int v) {
    const KValue &x = value(first), &y = value(v);
    const bool swap = x.b >= 0 && commutes(x.code) && !walks(x.a, Context::full);
    in.fn = find_pair(first, v)->kernel;
    in.a = operand(swap ? x.b : x.a, Context::full);
    if (x.b >= 0) in.b = operand(swap ? x.a : x.b, Context::full);
    if (y.b >= 0) in.c = operand(y.a == first ? y.b : y.a, Context::full);
    vector_op_ = true;
  }

  /// Position of each item's last reader; stores read after all of them.
  void find_last_uses(int stage) {
    last_.assign(n_, -1);
    const int end = static_cast<int>(items_.size());
    for (int i = 0; i < end; ++i) {
      each_read(items_[i], [&](int o) { last_[o] = i; });
      last_[items_[i]] = i;
    }
    direct_store_ = -1;
    int stores = 0;
    bool memory_after = false;
    for (int v = p_.stages[stage].begin; v < p_.stages[stage].end; ++v) {
      const bool sink = is_row_reduce(op(v)) || is_column_reduce(op(v));
      const int a = value(v).a;
      if (sink && (!in_items(a) || (end > 0 && a == items_.back()))) memory_after = true;
      if (!is_store(op(v))) continue;
      each_operand(v, [&](int o) { last_[o] = end; });
      memory_after |= value(a).full && !in_items(a);
      if (end > 0 && a == items_.back()) {
        ++stores;
        direct_store_ = v;
      }
    }
    if (stores != 1 || memory_after || !can_write_direct(direct_store_)) direct_store_ = -1;
  }
  /// The last computed value, stored once, may be written where it belongs instead of to a register.
  bool can_write_direct(int store) const {
    const KValue& a = value(value(store).a);
    const Access& to = s_.accesses[value(store).access];
    const bool vector = a.op == KOp::map && a.type == RegType::f32;
    return (!to.stream || vector) && a.full && a.op != KOp::load && !kept_[value(store).a] && regular(value(store).access) &&
           same_in_register(to.dtype, a.type);
  }

  void emit_item(int i, int stage) {
    const int v = items_[i];
    Instr in = prepare(v, Context::full);
    each_read(v, [&](int o) {
      if (last_[o] == i) give_register(std::exchange(full_[o].slot, -1));
    });
    Location& out = full_[v];
    if (kept_[v] && value(v).stage == stage) {
      out.operand = keep_operand(v);
    } else if (direct_store_ >= 0 && i + 1 == static_cast<int>(items_.size())) {
      const int access = value(direct_store_).access;
      out.operand = memory_operand(access, false);
      if (s_.accesses[access].stream) out.operand.flags = kStream, b_.streams = true;
    } else {
      out.slot = take_register(value(v).type);
      out.operand = register_operand(out.slot);
    }
    finish(in, out.operand, Context::full);
    give_temporaries();
    while (next_sink_ < sinks_.size() && sinks_[next_sink_].first == v) emit_sink(sinks_[next_sink_++].second);
    if (last_[v] == i) give_register(std::exchange(out.slot, -1));
  }

  void emit_sink(int v) {
    const int a = value(v).a;
    Instr in;
    in.a = walking(a, Context::full);
    const RegType type = value(a).type;
    if (is_row_reduce(op(v))) {
      in.fn = type == RegType::f32 ? kernels_.reduce[static_cast<int>(reduce_of(op(v)))] : scalar_reduce(reduce_of(op(v)), type);
      in.b = scratch(allocate(std::int64_t{kReduceState} * b_.block_rows));
      in.out = rows_[v].operand;
      in.out.stride = reg_size(value(v).type);
    } else {
      in.fn = type == RegType::f32 ? kernels_.accumulate[static_cast<int>(reduce_of(op(v)))]
                                   : scalar_accumulate(reduce_of(op(v)), type);
      const std::int64_t size = reg_size(type), cols = s_.stage_cols[value(v).stage];
      const std::int64_t at = allocate(cols * size + 64);
      in.out.base = add_moving({nullptr, at, 0, size});
      b_.column_sums.push_back({reduce_of(op(v)), type, at, cols, &lasting_access(value(v).access)});
    }
    push(in);
    give_temporaries();
  }

  void emit_store(int v) {
    const int a = value(v).a;
    const Access& to = s_.accesses[value(v).access];
    const RegType type = value(a).type;
    Instr in;
    in.a = walking(a, Context::full);
    in.fn = nullptr;
    if (regular(value(v).access)) {
      const bool four = same_in_register(to.dtype, type) && reg_size(type) == 4;
      if (four) in.fn = to.stream ? kernels_.stream : kernels_.copy;
      if (type == RegType::f32 && to.dtype == DType::bf16) in.fn = to.stream ? kernels_.stream_bf16 : kernels_.store_bf16;
      if (type == RegType::f32 && to.dtype == DType::f16) in.fn = kernels_.store_f16;
      b_.streams |= to.stream;
    }
    if (in.fn) {
      in.out = memory_operand(value(v).access, false);
    } else {
      in.fn = any_store(type, to.dtype, false);
      add_access(in, v, Context::full);
    }
    push(in);
    give_temporaries();
  }

  // --- one instruction ---

  bool walks(int v, Context context) const {
    return context == Context::init || (context == Context::row ? kind(v) == Kind::row : kind(v) == Kind::full);
  }
  /// The operand as kernels of this context want it: V if it walks, else S.
  Operand operand(int v, Context context) {
    if (kind(v) == Kind::full) {
      if (from_keep(v, stage_)) return keep_operand(v);
      if (is_direct_here(v)) return memory_operand(value(v).access);
      return full_[v].operand;
    }
    Operand o = rows_[v].operand;
    if (context == Context::full && kind(v) == Kind::row) o.stride = reg_size(value(v).type);
    return o;
  }
  /// As above, spread along the columns first if it does not walk.
  Operand walking(int v, Context context) {
    if (walks(v, context)) return operand(v, context);
    Instr in;
    in.fn = reg_size(value(v).type) == 4 ? kernels_.fill : scalar_fill(value(v).type);
    in.a = operand(v, context);
    if (context == Context::full) {
      const int slot = take_register(value(v).type);
      temporary_.push_back(slot);
      in.out = register_operand(slot);
    } else {
      in.out = scratch(allocate((b_.block_rows + kLanes) / kLanes * kLanes * 8));
    }
    push(in);
    return in.out;
  }

  Extra& add_access(Instr& in, int v, Context context) {
    b_.extras.push_back({s_.accesses[value(v).access], 1, 1, 1, 1});
    Extra& extra = b_.extras.back();
    in.extra = &extra;
    if (const int gather = gather_of(v); gather >= 0) {
      in.b = operand(gather, context);
      extra.step_b = walks(gather, context);
    }
    return extra;
  }

  void check(Kernel kernel, int v) const {
    if (!kernel) throw InternalError("kernel program: value " + std::to_string(v) + " has no kernel\n" + p_.str());
  }

  Instr prepare(int v, Context context) {
    const KValue& x = value(v);
    Instr in;
    switch (x.op) {
      case KOp::load: prepare_load(in, v, context); break;
      case KOp::map: prepare_map(in, v, context); break;
      case KOp::select: prepare_select(in, v, context); break;
      case KOp::logical_not:
        in.fn = logical_not(value(x.a).type);
        in.a = walking(x.a, context);
        break;
      case KOp::cast:
        vector_op_ = value(x.a).type == RegType::i32 && x.to == DType::f32 && x.type == RegType::f32;
        in.fn = vector_op_ ? kernels_.i32_to_f32 : scalar_cast(value(x.a).type, x.to, x.type);
        in.a = walking(x.a, context);
        break;
      case KOp::row_index: case KOp::col_index:
        in.fn = x.op == KOp::row_index ? row_index() : col_index();
        b_.extras.push_back({{}, x.imm0, x.imm1, 1, 1});
        in.extra = &b_.extras.back();
        break;
      case KOp::random_uniform: case KOp::random_normal:
        if (value(x.a).type != RegType::i64 || value(x.b).type != RegType::i64) check(nullptr, v);
        in.fn = x.op == KOp::random_uniform ? kernels_.uniform : kernels_.normal;
        in.a = operand(x.a, context);
        in.b = operand(x.b, context);
        b_.extras.push_back({{}, 1, 1, walks(x.a, context), walks(x.b, context)});
        in.extra = &b_.extras.back();
        break;
      default: break;
    }
    check(in.fn, v);
    return in;
  }

  void prepare_load(Instr& in, int v, Context context) {
    const KValue& x = value(v);
    const DType dtype = s_.accesses[x.access].dtype;
    if (context == Context::full && !tile_ && regular(x.access) && x.type == RegType::f32 &&
        (dtype == DType::bf16 || dtype == DType::f16)) {
      in.fn = dtype == DType::bf16 ? kernels_.load_bf16 : kernels_.load_f16;
      in.a = memory_operand(x.access);
      return;
    }
    in.fn = any_load(dtype, x.type, context != Context::full);
    add_access(in, v, context);
  }

  void prepare_map(Instr& in, int v, Context context) {
    const KValue& x = value(v);
    const auto code = static_cast<Elementwise>(x.code);
    const RegType type = value(x.a).type;
    for (int o : {x.a, x.b}) {
      if (context == Context::full && o >= 0 && pair_of_[o] == v) return prepare_pair(in, o, v);
    }
    if (const int index = column_compared(v); index >= 0) {
      in.b = operand(index == x.a ? x.b : x.a, context);
      int which = x.code - static_cast<int>(Elementwise::equal);
      if (index == x.b && which >= 2) which = ((which - 2) ^ 2) + 2;  // less and greater change places
      in.fn = kernels_.compare_column[which];
      vector_op_ = by_column_ = true;
      return;
    }
    Form form = kVV;
    in.a = x.b < 0 ? walking(x.a, context) : operand(x.a, context);
    if (x.b >= 0) {
      in.b = operand(x.b, context);
      form = !walks(x.b, context) ? kVS : !walks(x.a, context) ? kSV : kVV;
    }
    const bool logic = code >= Elementwise::logical_and;
    const bool vector = type == RegType::f32 || (logic && type == RegType::i32);
    in.fn = vector ? kernels_.map[x.code][form] : scalar_map(code, type, form);
    vector_op_ = vector;
  }

  void prepare_select(Instr& in, int v, Context context) {
    const KValue& x = value(v);
    in.a = walking(x.a, context);
    in.b = operand(x.b, context);
    in.c = operand(x.c, context);
    const bool b = walks(x.b, context), c = walks(x.c, context);
    const Form form = b ? (c ? kVV : kVS) : (c ? kSV : kSS);
    vector_op_ = reg_size(x.type) == 4;
    in.fn = vector_op_ ? kernels_.select[form] : scalar_select(x.type, form);
  }

  /// Marks what may run over the padding: everything that walks must be a register.
  void finish(Instr& in, Operand out, Context context) {
    in.out = out;
    const int pitch = b_.pitch * 4;
    bool registers = out.base == 0, walking_only = context == Context::full && out.stride == pitch;
    for (const Operand* o : {&in.a, &in.b, &in.c}) {
      registers &= o->base == 0;
      walking_only &= o->stride == pitch || (o->stride == 0 && o->offset == 0) || is_uniform(*o);
    }
    const std::int64_t cols = context == Context::full ? std::min<std::int64_t>(b_.block_cols, s_.stage_cols[stage_]) : 0;
    if (vector_op_ && registers) in.out.flags |= kPad;
    if (vector_op_ && registers && walking_only && !tile_ && !by_column_ && b_.block_rows > 1 && b_.pitch - cols < kLanes) {
      in.out.flags |= kFlat;
    }
    vector_op_ = by_column_ = false;
    push(in);
  }
  static bool is_uniform(const Operand& o) { return o.base == 0 && o.stride == 0; }

  void emit_value(int v, Context context, Operand out) {
    Instr in = prepare(v, context);
    finish(in, out, context);
  }
  void push(const Instr& in) { b_.code.push_back(in); }

  const KernelProgram& p_;
  const ProgramShape& s_;
  const bool tile_;
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
  std::vector<Location> rows_, full_;  // where each value is: rows_ for uniform and row values
  std::vector<int> pair_of_;  // the op that takes this one into its instruction
  std::vector<char> kept_, post_, read_;  // read_: by operand that moves
  std::vector<std::vector<char>> needs_;

  // the stage at hand
  int stage_ = 0, direct_store_ = -1;
  bool vector_op_ = false, by_column_ = false;  // of the instruction at hand
  std::vector<int> items_, last_, temporary_;
  std::vector<std::pair<int, int>> sinks_;  // value and its reduction, in the order of the items
  std::size_t next_sink_ = 0;
  std::map<int, Operand> stage_memory_, stage_keep_;
};

}  // namespace

bool can_tile(const KernelProgram& p) {
  return p.stages.size() == 1 && std::none_of(p.values.begin(), p.values.end(), [](const KValue& v) {
    return is_row_reduce(v.op) || is_column_reduce(v.op);
  });
}

std::unique_ptr<const Body> lower_body(const KernelProgram& program, bool tile) {
  const ProgramShape shape = analyze(program, tile);
  for (int elements = kBlock;; elements /= 2) {
    auto body = std::make_unique<Body>();
    choose_block(program, shape, elements, tile, *body);
    const bool fits = Lowering(program, shape, tile, *body).emit();
    if (!fits && elements > 64) continue;
    choose_tasks(program, shape, *body);
    return body;
  }
}

}  // namespace metal_candle::cpu::vm
