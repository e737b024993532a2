// The instructions of a stage's columns: pairs, registers, operands straight from memory, and the kernel of each value.
#include "backend/cpu/vm/lowering.h"

namespace metal_candle::cpu::vm {

void Lowering::emit_loop(int stage) {
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
    if (in_items(value(v).a)) sinks_.emplace_back(value(v).a, v);
    else rest.push_back(v);
  }
  std::sort(sinks_.begin(), sinks_.end());
  next_sink_ = 0;
  find_spread(stage);
  for (std::size_t i = 0; i < items_.size(); ++i) emit_item(static_cast<int>(i), stage);
  for (int v : rest) emit_sink(v);
  for (int v = p_.stages[stage].begin; v < p_.stages[stage].end; ++v) {
    if (is_store(op(v)) && value(value(v).a).full && v != direct_store_ && v != spread_.store && !placed_with_twin(v))
      emit_store(v);
  }
  for (int v : items_) give_register(std::exchange(full_[v].slot, -1));
  if (twin_.plain >= 0) give_register(std::exchange(full_[std::min(twin_.plain, twin_.sloped)].slot, -1));
  release_rows((stage * 3 + 1) * kForever, (stage * 3 + 2) * kForever);
}

void Lowering::find_pairs(int stage) {
  std::vector<int> uses(n_, 0);
  for (int v : items_) each_operand(v, [&](int o) { ++uses[o]; });
  for (int v = p_.stages[stage].begin; v < p_.stages[stage].end; ++v) {
    if (!has_result(op(v)) || is_row_reduce(op(v))) each_operand(v, [&](int o) { ++uses[o]; });
  }
  std::vector<char> taken(n_, 0);
  for (int v : items_) {
    if (op(v) != KOp::map || value(v).type != RegType::f32) continue;
    for (int o : {value(v).a, value(v).b}) {
      if (o < 0 || op(o) != KOp::map || !in_items(o) || kept_[o] || uses[o] != 1 || taken[o] || !find_pair(o, v))
        continue;
      pair_of_[o] = v;
      taken[v] = 1;
      break;
    }
  }
  find_twin(stage, uses);
  std::erase_if(items_, [&](int v) { return pair_of_[v] >= 0; });
}

const Pair* Lowering::find_pair(int first, int v) const {
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
    if (static_cast<int>(p.first) == x.code && static_cast<int>(p.second) == y.code && p.first_form == form &&
        p.form == then)
      return !(reads_halves(first) || reads_halves(v)) || reading_halves(p.kernel) ? &p : nullptr;
  }
  return nullptr;
}

/// The kernel that does the same and whose operands may be bf16 in memory, or null.
Kernel Lowering::reading_halves(Kernel kernel) const {
  for (int i = 0; i < kernels_.halves_count; ++i)
    if (kernels_.halves[i].plain == kernel) return kernels_.halves[i].reading_halves;
  return nullptr;
}

void Lowering::prepare_pair(Instr& in, int first, int v) {
  const KValue &x = value(first), &y = value(v);
  const bool swap = x.b >= 0 && commutes(x.code) && !walks(x.a, Context::full);
  in.fn = find_pair(first, v)->kernel;
  in.a = operand(swap ? x.b : x.a, Context::full);
  if (x.b >= 0) in.b = operand(swap ? x.a : x.b, Context::full);
  if (y.b >= 0) in.c = operand(y.a == first ? y.b : y.a, Context::full);
  vector_op_ = true;
}

void Lowering::find_last_uses(int stage) {
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
      if (direct_store_ < 0 || can_write_direct(v)) direct_store_ = v;
    }
  }
  if (stores == 0 || memory_after || !can_write_direct(direct_store_)) direct_store_ = -1;
  // Further stores of the same value read it there.
  if (stores > 1 && direct_store_ >= 0 && s_.accesses[value(direct_store_).access].stream) direct_store_ = -1;
  place_twin(stage);
}

bool Lowering::can_write_direct(int store) const {
  const KValue& a = value(value(store).a);
  const Access& to = s_.accesses[value(store).access];
  const bool vector = a.op == KOp::map && a.type == RegType::f32;
  return (!to.stream || vector) && a.full && a.op != KOp::load && !kept_[value(store).a] &&
         regular(value(store).access) && same_in_register(to.dtype, a.type);
}

void Lowering::emit_item(int i, int stage) {
  const int v = items_[i];
  if (is_twin(v)) return emit_twin(i);
  if (spread_.at >= 0 && i == spread_.at) return;
  if (spread_.at >= 0 && i == spread_.at + 1) return emit_spread(stage);
  Instr in = prepare(v, Context::full);
  if (const MapReduce* both = map_reduce(in, v)) return emit_map_reduce(in, *both, i, stage);
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

/// The kernel that computes v and its next reduction in one pass, or null.
const MapReduce* Lowering::map_reduce(const Instr& in, int v) const {
  if (next_sink_ == sinks_.size() || sinks_[next_sink_].first != v) return nullptr;
  const KOp reduction = op(sinks_[next_sink_].second);
  for (int i = 0; is_row_reduce(reduction) && i < kernels_.map_reduce_count; ++i) {
    const MapReduce& m = kernels_.map_reduces[i];
    if (m.map == in.fn && m.op == reduce_of(reduction)) return &m;
  }
  return nullptr;
}

void Lowering::emit_map_reduce(Instr in, const MapReduce& both, int i, int stage) {
  const int v = items_[i], reduction = sinks_[next_sink_++].second;
  each_read(v, [&](int o) {
    if (last_[o] == i) give_register(std::exchange(full_[o].slot, -1));
  });
  b_.extras.emplace_back();
  Extra& extra = b_.extras.back();
  const bool kept = kept_[v] && value(v).stage == stage;
  const bool read = last_[v] > i || (next_sink_ < sinks_.size() && sinks_[next_sink_].first == v);
  Location& out = full_[v];
  if (kept) {
    extra.kept = out.operand = keep_operand(v);
  } else if (read) {
    out.slot = take_register(value(v).type);
    extra.kept = out.operand = register_operand(out.slot);
  }
  in.fn = kept || read ? both.keeping : both.alone;
  extra.state = scratch(allocate(std::int64_t{kReduceState} * b_.block_rows));
  in.extra = &extra;
  in.out = rows_[reduction].operand;
  in.out.stride = reg_size(value(reduction).type);
  vector_op_ = by_column_ = false;
  push(in);
  give_temporaries();
  while (next_sink_ < sinks_.size() && sinks_[next_sink_].first == v) emit_sink(sinks_[next_sink_++].second);
  if (last_[v] == i) give_register(std::exchange(out.slot, -1));
}

void Lowering::emit_sink(int v) {
  const int a = value(v).a;
  Instr in;
  in.a = walking(a, Context::full);
  const RegType type = value(a).type;
  if (is_row_reduce(op(v))) {
    in.fn = type == RegType::f32 ? kernels_.reduce[static_cast<int>(reduce_of(op(v)))]
                                 : scalar_reduce(reduce_of(op(v)), type);
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

void Lowering::emit_store(int v) {
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

Operand Lowering::operand(int v, Context context) {
  if (kind(v) == Kind::full) {
    if (from_keep(v, stage_)) return keep_operand(v);
    if (is_direct_here(v)) {
      Operand o = memory_operand(value(v).access);
      if (halves_[v]) o.flags |= kHalf;
      return o;
    }
    return full_[v].operand;
  }
  Operand o = rows_[v].operand;
  if (context == Context::full && kind(v) == Kind::row) o.stride = reg_size(value(v).type);
  return o;
}

Operand Lowering::walking(int v, Context context) {
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

Extra& Lowering::add_access(Instr& in, int v, Context context) {
  b_.extras.push_back({s_.accesses[value(v).access], 1, 1, 1, 1});
  Extra& extra = b_.extras.back();
  in.extra = &extra;
  if (const int gather = gather_of(v); gather >= 0) {
    in.b = operand(gather, context);
    extra.step_b = walks(gather, context);
  }
  return extra;
}

void Lowering::check(Kernel kernel, int v) const {
  if (!kernel) throw InternalError("kernel program: value " + std::to_string(v) + " has no kernel\n" + p_.str());
}

Instr Lowering::prepare(int v, Context context) {
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
      in.fn = vector_cast(x);
      vector_op_ = in.fn != nullptr;
      if (!in.fn) in.fn = scalar_cast(value(x.a).type, x.to, x.type);
      in.a = walking(x.a, context);
      break;
    case KOp::row_index:
    case KOp::col_index:
      in.fn = x.op == KOp::row_index ? row_index() : col_index();
      b_.extras.push_back({{}, x.imm0, x.imm1, 1, 1});
      in.extra = &b_.extras.back();
      break;
    case KOp::random_uniform:
    case KOp::random_normal:
      if (value(x.a).type != RegType::i64 || value(x.b).type != RegType::i64) check(nullptr, v);
      if (x.type == RegType::f64) in.fn = scalar_random(x.op == KOp::random_normal);
      else in.fn = x.op == KOp::random_uniform ? kernels_.uniform : kernels_.normal;
      in.a = operand(x.a, context);
      in.b = operand(x.b, context);
      b_.extras.push_back({{}, 1, 1, walks(x.a, context), walks(x.b, context)});
      in.extra = &b_.extras.back();
      break;
    default: break;
  }
  if ((in.a.flags | in.b.flags | in.c.flags) & kHalf) in.fn = reading_halves(in.fn);
  check(in.fn, v);
  return in;
}

/// Null where there is none.
Kernel Lowering::vector_cast(const KValue& x) const {
  const RegType from = value(x.a).type;
  if (x.type != RegType::f32 || reg_size(from) != 4) return nullptr;
  if (x.to == DType::f32) return from == RegType::i32 ? kernels_.i32_to_f32 : kernels_.copy;
  if (from != RegType::f32) return nullptr;
  return x.to == DType::bf16 ? kernels_.round_bf16 : x.to == DType::f16 ? kernels_.round_f16 : nullptr;
}

void Lowering::prepare_load(Instr& in, int v, Context context) {
  const KValue& x = value(v);
  const DType dtype = s_.accesses[x.access].dtype;
  if (context == Context::full && regular(x.access) && x.type == RegType::f32 &&
      (dtype == DType::bf16 || dtype == DType::f16)) {
    in.fn = dtype == DType::bf16 ? kernels_.load_bf16 : kernels_.load_f16;
    in.a = memory_operand(x.access);
    return;
  }
  in.fn = any_load(dtype, x.type, context != Context::full);
  add_access(in, v, context);
}

void Lowering::prepare_map(Instr& in, int v, Context context) {
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

void Lowering::prepare_select(Instr& in, int v, Context context) {
  const KValue& x = value(v);
  if (const int row = picked_by(v); row >= 0) {
    in.fn = kernels_.pick_column;
    in.a = operand(row, context);
    in.b = operand(x.b, context);
    in.c = operand(x.c, context);
    return;
  }
  in.a = walking(x.a, context);
  in.b = operand(x.b, context);
  in.c = operand(x.c, context);
  const bool b = walks(x.b, context), c = walks(x.c, context);
  const Form form = b ? (c ? kVV : kVS) : (c ? kSV : kSS);
  vector_op_ = reg_size(x.type) == 4;
  in.fn = vector_op_ ? kernels_.select[form] : scalar_select(x.type, form);
}

void Lowering::finish(Instr& in, Operand out, Context context) {
  in.out = out;
  const int pitch = b_.pitch * 4;
  bool registers = out.base == 0, walking_only = context == Context::full && out.stride == pitch;
  for (const Operand* o : {&in.a, &in.b, &in.c}) {
    registers &= o->base == 0;
    walking_only &= o->stride == pitch || (o->stride == 0 && o->offset == 0) || is_uniform(*o);
  }
  const std::int64_t cols = context == Context::full ? std::min<std::int64_t>(b_.block_cols, s_.stage_cols[stage_]) : 0;
  if (vector_op_ && registers) in.out.flags |= kPad;
  if (vector_op_ && registers && walking_only && !by_column_ && b_.block_rows > 1 && b_.pitch - cols < kLanes) {
    in.out.flags |= kFlat;
  }
  vector_op_ = by_column_ = false;
  push(in);
}

int Lowering::picked_by(int v) const {
  const KValue& x = value(v);
  if (x.op != KOp::select || reg_size(x.type) != 4 || kind(v) != Kind::full || kind(x.b) == Kind::full ||
      kind(x.c) == Kind::full || value(x.a).code != static_cast<int>(Elementwise::equal))
    return -1;
  const int index = column_compared(x.a);
  return index < 0 ? -1 : index == value(x.a).a ? value(x.a).b : value(x.a).a;
}

int Lowering::column_compared(int v) const {
  const KValue& x = value(v);
  if (x.op != KOp::map || x.code < static_cast<int>(Elementwise::equal) ||
      x.code > static_cast<int>(Elementwise::greater_equal))
    return -1;
  if (op(x.a) == KOp::col_index && kind(x.b) != Kind::full) return x.a;
  if (op(x.b) == KOp::col_index && kind(x.a) != Kind::full) return x.b;
  return -1;
}

}  // namespace metal_candle::cpu::vm
