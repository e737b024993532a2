// Two items of a stage that one kernel computes: silu(x) · c and silu'(x) · (b · d); a + b and the sum of its squares.
#include "backend/cpu/vm/lowering.h"

namespace metal_candle::cpu::vm {

bool Lowering::is_map(int v, Elementwise which) const {
  return op(v) == KOp::map && value(v).code == static_cast<int>(which) && value(v).type == RegType::f32;
}

/// The operand of v, a product, that is `which`, computed here and wanted by nobody else; -1 if there is none.
int Lowering::inner_of(int v, Elementwise which, const std::vector<int>& uses) const {
  if (!is_map(v, Elementwise::mul)) return -1;
  for (int o : {value(v).a, value(v).b})
    if (is_map(o, which) && in_items(o) && !kept_[o] && uses[o] == 1) return o;
  return -1;
}

/// Whether the product v is only stored: it may be computed later than its turn.
bool Lowering::is_last_product(int v, const std::vector<int>& uses, int stage) const {
  if (kept_[v] || value(v).stage != stage) return false;
  int stores = 0;
  for (int s = p_.stages[stage].begin; s < p_.stages[stage].end; ++s) stores += is_store(op(s)) && value(s).a == v;
  return stores > 0 && stores == uses[v];
}

void Lowering::find_twin(int stage, const std::vector<int>& uses) {
  twin_ = {};
  const auto other = [&](int v, int o) { return value(v).a == o ? value(v).b : value(v).a; };
  const auto walking_f32 = [&](int o) { return kind(o) == Kind::full && value(o).type == RegType::f32; };
  for (int sloped : items_) {
    const int slope = inner_of(sloped, Elementwise::silu_grad, uses);
    const int product = inner_of(sloped, Elementwise::mul, uses);
    if (slope < 0 || product < 0 || !is_last_product(sloped, uses, stage)) continue;
    for (int plain : items_) {
      const int silu = inner_of(plain, Elementwise::silu, uses);
      if (plain == sloped || silu < 0 || value(silu).a != value(slope).a) continue;
      if (!is_last_product(plain, uses, stage)) continue;
      const Twin found{plain, sloped,  silu,
                       slope, product, {value(silu).a, value(product).a, other(plain, silu), value(product).b}};
      if (!std::all_of(found.reads, found.reads + 4, walking_f32)) continue;
      twin_ = found;
      return take_twin();
    }
  }
}

/// Undoes what the pairs have made of its parts, and leaves one item, the later of the two.
void Lowering::take_twin() {
  for (int v = 0; v < n_; ++v) {
    const int by = pair_of_[v];
    if (by == twin_.plain || by == twin_.sloped || by == twin_.product || by == twin_.slope || by == twin_.silu)
      pair_of_[v] = -1;
  }
  pair_of_[twin_.silu] = twin_.plain;
  pair_of_[twin_.slope] = pair_of_[twin_.product] = twin_.sloped;
  pair_of_[std::min(twin_.plain, twin_.sloped)] = std::max(twin_.plain, twin_.sloped);
}

void Lowering::emit_twin(int i) {
  const int host = items_[static_cast<std::size_t>(i)];
  Instr in;
  in.fn = kernels_.silu_twin;
  b_.extras.emplace_back();
  Extra& extra = b_.extras.back();
  in.extra = &extra;
  in.a = operand(twin_.reads[0], Context::full);
  in.b = operand(twin_.reads[1], Context::full);
  in.c = operand(twin_.reads[2], Context::full);
  extra.state = operand(twin_.reads[3], Context::full);
  // Results are not put where operands were: rows of a block are read and written one after the other, but a register
  // that is given back here may lie elsewhere in the other's block.
  const auto place = [&](int v, int store) {
    if (store >= 0) return memory_operand(value(store).access, false);
    full_[v].slot = take_register(RegType::f32);
    return full_[v].operand = register_operand(full_[v].slot);
  };
  const bool direct = direct_store_ >= 0;
  in.out = place(twin_.plain, direct ? twin_store_[0] : -1);
  extra.kept = place(twin_.sloped, direct ? twin_store_[1] : -1);
  if (direct && s_.accesses[value(direct_store_).access].stream) {
    in.out.flags |= kStream;
    b_.streams = true;
  }
  push(in);
  each_read(host, [&](int o) {
    if (last_[o] == i) give_register(std::exchange(full_[o].slot, -1));
  });
}

/// Both results where they belong, if nothing is read from memory behind them.
void Lowering::place_twin(int stage) {
  twin_store_[0] = twin_store_[1] = -1;
  if (twin_.plain < 0 || items_.empty() || items_.back() != std::max(twin_.plain, twin_.sloped)) return;
  const bool can = direct_store_ >= 0;
  direct_store_ = -1;
  if (!can) return;
  for (int v = p_.stages[stage].begin; v < p_.stages[stage].end; ++v) {
    if (!is_store(op(v))) continue;
    if (value(v).a == twin_.plain) twin_store_[0] = twin_store_[0] < 0 ? v : -2;
    if (value(v).a == twin_.sloped) twin_store_[1] = twin_store_[1] < 0 ? v : -2;
  }
  if (twin_store_[0] < 0 || twin_store_[1] < 0 || !can_write_direct(twin_store_[0]) ||
      !can_write_direct(twin_store_[1]))
    return;
  if (s_.accesses[value(twin_store_[0]).access].stream != s_.accesses[value(twin_store_[1]).access].stream) return;
  direct_store_ = twin_store_[0];
}

void Lowering::find_spread(int stage) {
  spread_ = {};
  const auto plain = [&](int v) {  // no pair
    bool any = false;
    each_operand(v, [&](int o) { any |= pair_of_[o] == v; });
    return !any;
  };
  const auto sinks_of = [&](int v) {
    return std::count_if(sinks_.begin(), sinks_.end(), [&](const auto& s) { return s.first == v; });
  };
  for (int i = 0; i + 1 < static_cast<int>(items_.size()); ++i) {
    const int sum = items_[static_cast<std::size_t>(i)], square = items_[static_cast<std::size_t>(i) + 1];
    if (!is_map(sum, Elementwise::add) || value(square).a != sum) continue;
    if (!is_map(square, Elementwise::square) && !(is_map(square, Elementwise::mul) && value(square).b == sum)) continue;
    if (!plain(sum) || !plain(square) || is_twin(square) || kind(value(sum).a) != Kind::full ||
        kind(value(sum).b) != Kind::full)
      continue;
    if (kept_[square] || last_[square] != i + 1 || sinks_of(sum) != 0 || sinks_of(square) != 1) continue;
    const auto sink = std::find_if(sinks_.begin(), sinks_.end(), [&](const auto& s) { return s.first == square; });
    if (op(sink->second) != KOp::reduce_sum) continue;
    spread_.at = i;
    if (i + 2 == static_cast<int>(items_.size()) && !reads_memory_last(stage)) spread_.store = store_of_spread(stage);
    return;
  }
}

/// Whether sinks or stores of this stage read arrays that were not computed in it.
bool Lowering::reads_memory_last(int stage) const {
  for (int v = p_.stages[stage].begin; v < p_.stages[stage].end; ++v) {
    const bool sink = is_row_reduce(op(v)) || is_column_reduce(op(v));
    if ((sink || (is_store(op(v)) && value(value(v).a).full)) && !in_items(value(v).a)) return true;
  }
  return false;
}

/// The one store of the sum, if the sum can be written there at once; else -1.
int Lowering::store_of_spread(int stage) const {
  const int sum = items_[static_cast<std::size_t>(spread_.at)];
  int store = -1;
  for (int v = p_.stages[stage].begin; v < p_.stages[stage].end; ++v) {
    if (!is_store(op(v)) || value(v).a != sum) continue;
    if (store >= 0) return -1;
    store = v;
  }
  if (store < 0 || !regular(value(store).access)) return -1;
  return same_in_register(s_.accesses[value(store).access].dtype, RegType::f32) ? store : -1;
}

void Lowering::emit_spread(int stage) {
  const int i = spread_.at, sum = items_[static_cast<std::size_t>(i)];
  const int reduction = sinks_[next_sink_++].second;
  b_.extras.emplace_back();
  Extra& extra = b_.extras.back();
  Instr in;
  in.fn = kernels_.sum_of_squares[spread_.store >= 0];
  in.extra = &extra;
  in.a = operand(value(sum).a, Context::full);
  in.b = operand(value(sum).b, Context::full);
  in.out = rows_[reduction].operand;
  in.out.stride = reg_size(RegType::f32);
  extra.state = scratch(allocate(std::int64_t{kReduceState} * b_.block_rows));
  Location& out = full_[sum];
  if (kept_[sum] && value(sum).stage == stage) {
    out.operand = keep_operand(sum);
  } else {
    out.slot = take_register(RegType::f32);
    out.operand = register_operand(out.slot);
  }
  extra.kept = out.operand;
  if (spread_.store >= 0) {
    in.c = memory_operand(value(spread_.store).access, false);
    if (s_.accesses[value(spread_.store).access].stream) in.out.flags |= kStream, b_.streams = true;
  }
  push(in);
  each_read(sum, [&](int o) {
    if (last_[o] == i) give_register(std::exchange(full_[o].slot, -1));
  });
  if (last_[sum] == i + 1) give_register(std::exchange(out.slot, -1));
}

}  // namespace metal_candle::cpu::vm
