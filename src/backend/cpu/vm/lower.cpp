// From values to instructions: what each stage needs, values of a row, and the order of things.
#include <bit>

#include "backend/cpu/vm/lowering.h"

namespace metal_candle::cpu::vm {
namespace {

// What the registers of a block may fill of L1. Large blocks, with their fewer dispatches, leave room for the arrays.
constexpr int kRegisterBytes = 32 << 10, kLargeBlock = 1024, kLargeRegisterBytes = 16 << 10;

constexpr int kPiece = 1024;

// Arrays from this size on are fetched where a narrow stage stands before the one that reads them.
constexpr std::int64_t kFetched = 8 << 20;

}  // namespace

bool Lowering::emit(int elements) {
  std::int64_t moving = 1;
  for (const KValue& v : p_.values) moving += v.access >= 0 || v.keep ? 2 : 0;
  top_ = (moving * static_cast<std::int64_t>(p_.stages.size()) + 1) * 24 + 64;
  find_halves();
  find_kept();
  find_needs();
  emit_constants();
  b_.init = section([&] {
    for (int v = 0; v < n_; ++v) {
      if (has_result(op(v)) && s_.kinds[v] == Kind::uniform && !is_constant(v)) emit_row(v, Context::init);
    }
  });
  for (int stage = 0; stage < static_cast<int>(p_.stages.size()); ++stage) emit_stage(stage);
  find_ahead();
  b_.scratch = (top_ + 256 + 63) & ~std::int64_t{63};
  return register_bytes_ <= (elements > kLargeBlock ? kLargeRegisterBytes : kRegisterBytes);
}

void Lowering::find_halves() {
  // The kernel of silu and its slope reads f32, and takes the products beside them in.
  if (std::any_of(p_.values.begin(), p_.values.end(), [](const KValue& v) {
        return v.op == KOp::map && v.code == static_cast<int>(Elementwise::silu_grad);
      }))
    return;
  for (int v = 0; v < n_; ++v)
    halves_[v] = op(v) == KOp::load && kind(v) == Kind::full && value(v).type == RegType::f32 &&
                 s_.accesses[value(v).access].dtype == DType::bf16 && !in_tile(s_.accesses[value(v).access]);
  for (int v = 0; v < n_; ++v) {
    const bool reads = is_map(v, Elementwise::add) || is_map(v, Elementwise::sub) || is_map(v, Elementwise::mul) ||
                       is_map(v, Elementwise::square);
    if (!reads) each_operand(v, [&](int o) { halves_[o] = 0; });
  }
}

void Lowering::find_kept() {
  const bool early_store = std::any_of(p_.values.begin(), p_.values.end(), [&](const KValue& v) {
    return is_store(v.op) && v.stage + 1 < static_cast<int>(p_.stages.size());
  });
  for (int v = 0; v < n_; ++v) {
    // Reading a row of the caller's memory a second time is as good as reading a copy of it.
    kept_[v] = value(v).keep && kind(v) == Kind::full && (early_store || !is_direct(v));
    bool post = false;
    each_operand(v, [&](int o) { post |= value(o).stage == value(v).stage && (is_row_reduce(op(o)) || post_[o]); });
    post_[v] = post && kind(v) == Kind::row && !is_row_reduce(op(v));
  }
}

void Lowering::find_needs() {
  const int stages = static_cast<int>(p_.stages.size());
  needs_.assign(stages, std::vector<char>(n_, 0));
  for (int stage = 0; stage < stages; ++stage) {
    auto& need = needs_[stage];
    for (int v = n_ - 1; v >= 0; --v) {
      const bool here = value(v).stage == stage;
      const bool sink = here && (!has_result(op(v)) || is_row_reduce(op(v)));
      if (here && kept_[v]) need[v] = 1;
      if (!(sink || (need[v] && kind(v) == Kind::full && !from_keep(v, stage)))) {
        if (here && kind(v) == Kind::row)
          each_operand(v, [&](int o) { read_row(o, stage * 3 + (post_[v] ? 2 : 0), v); });
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

void Lowering::find_ahead() {
  if (tile_.buffer >= 0) return;  // the product asks for it
  std::int64_t row_bytes = 0;
  // Stages that only make a number or two may stand before the one that walks through memory.
  for (b_.ahead_from = 0; b_.ahead_from < static_cast<int>(b_.stages.size()); ++b_.ahead_from) {
    const StageCode& stage = b_.stages[static_cast<std::size_t>(b_.ahead_from)];
    for (int i = stage.moving.begin; i < stage.moving.end; ++i) {
      const Moving& m = b_.moving[i];
      if (!m.access || m.access->col_stride != 1 || !read_[i] || in_tile(*m.access)) continue;
      if (m.access->dims > 0 && m.access->strides[m.access->dims - 1] == 0) continue;
      b_.ahead.push_back(i);
      row_bytes += stage.cols * m.step;
    }
    if (!b_.ahead.empty()) break;
  }
  // Norms of few rows lie in a cache, and lose by asking for what is there.
  if (b_.ahead_from > 0 && row_bytes * s_.rows < kFetched) b_.ahead.clear();
  // One instruction a block reads memory evenly on its own.
  const bool single = b_.stages.size() == 1 && b_.stages[0].loop.end - b_.stages[0].loop.begin < 2;
  b_.ahead_of = b_.stages.size() > 1 && row_bytes <= (96 << 10) ? Body::kRows : Body::kColumns;
  if (b_.block_rows == 1) b_.ahead_stage = fetching_stage(row_bytes);
  if (overlap()) b_.ahead_stage = static_cast<int>(b_.stages.size()) - 2;
  fetch_in_passing();
  if (single && !b_.in_passing) {
    b_.ahead.clear();
    for (int i = b_.stages[0].loop.begin; i < b_.stages[0].loop.end; ++i)
      if (Instr& in = b_.code[static_cast<std::size_t>(i)]; in.fn == kernels_.silu_twin && streams(in))
        in.out.flags |= kFetch;  // of two arrays, by itself
  }
  cut_early_stores();
}

/// Where one instruction is a whole stage and one result is stored, lines of one array are best asked for a few at a
/// time, as that instruction goes along.
void Lowering::fetch_in_passing() {
  const int stage = b_.ahead_of == Body::kColumns ? 0 : b_.ahead_stage;
  if (b_.ahead.size() != 1 || b_.moving[static_cast<std::size_t>(b_.ahead[0])].step != 4) return;
  if (b_.block_rows != 1 || stage < 0 || tile_.buffer >= 0 || full_stores() != 1) return;
  StageCode& code = b_.stages[static_cast<std::size_t>(stage)];
  if (code.loop.end - code.loop.begin != 1 || (b_.ahead_of == Body::kColumns && b_.stages.size() > 1)) return;
  if (code.cols != b_.stages[static_cast<std::size_t>(b_.ahead_from)].cols) return;
  Instr& in = b_.code[static_cast<std::size_t>(code.loop.begin)];
  bool can = streams(in) || reduces_walking(in);
  for (const Reduce r : {Reduce::argmax, Reduce::argmin}) can |= in.fn == kernels_.reduce[static_cast<int>(r)];
  if (!can) return;
  in.out.flags |= kFetch;
  b_.in_passing = code.fetches = true;
}

/// Where the stage that reads memory stores past the caches, too, its instructions take small pieces: memory should not
/// have to wait for the last of them.
void Lowering::cut_early_stores() {
  const auto from = static_cast<std::size_t>(b_.ahead_from);
  if (from + 1 >= b_.stages.size() || b_.block_rows != 1 || b_.ahead_stage == b_.ahead_from) return;
  StageCode& stage = b_.stages[from];
  if (b_.code[static_cast<std::size_t>(stage.loop.begin)].fn == kernels_.sum_of_squares[1]) return;  // one loop
  if (std::any_of(b_.code.begin() + stage.loop.begin, b_.code.begin() + stage.loop.end,
                  [&](const Instr& in) { return streams(in); }))
    stage.piece = std::min(stage.piece, kPiece);
}

int Lowering::full_stores() const {
  return static_cast<int>(std::count_if(p_.values.begin(), p_.values.end(),
                                        [&](const KValue& v) { return is_store(v.op) && value(v.a).full; }));
}

/// Where a stage before the last computes much, memory would be idle meanwhile: the last stage of a row, if it is one op
/// with a value of the row, then runs inside the reductions of the next row. Programs that compute little, or read or
/// write more arrays, keep memory busy.
bool Lowering::overlap() {
  const int last = static_cast<int>(b_.stages.size()) - 1;
  if (b_.block_rows != 1 || tile_.buffer >= 0 || !b_.column_sums.empty() || full_stores() != 1) return false;
  if (b_.ahead_of != Body::kRows || b_.ahead_stage != last || b_.ahead.size() != 1) return false;
  const bool heavy = std::any_of(p_.values.begin(), p_.values.end(), [&](const KValue& v) {
    return v.stage < last && v.op == KOp::map && value(v.a).full &&
           info(static_cast<Elementwise>(v.code)).cost == Cost::series;
  });
  const std::int64_t cols = b_.stages.back().cols;
  const Range loop = b_.stages.back().loop;
  if (!heavy || (last != 1 && last != 2 && last != 4) || cols % (4 * kLanes) != 0 || loop.end - loop.begin != 1)
    return false;
  const Instr& rest = b_.code[static_cast<std::size_t>(loop.begin)];
  for (const Elementwise op : {Elementwise::sub, Elementwise::mul, Elementwise::div})
    if (streams(rest) && rest.fn == kernels_.map[static_cast<int>(op)][kVS]) b_.rest_op = op;
  if (b_.rest_op == Elementwise::kCount) return false;
  std::vector<Instr*> reductions;  // of each stage the last
  for (int stage = 0; stage < last; ++stage) {
    const StageCode& code = b_.stages[static_cast<std::size_t>(stage)];
    for (int i = code.loop.end - 1; i >= code.loop.begin && code.cols == cols; --i) {
      Instr& in = b_.code[static_cast<std::size_t>(i)];
      if (!reduces_walking(in)) continue;
      reductions.push_back(&in);
      break;
    }
  }
  if (static_cast<int>(reductions.size()) != last) return false;
  b_.rest_shift = std::countr_zero(static_cast<unsigned>(last));
  for (Instr* in : reductions) in->out.flags |= kRest;
  return b_.overlaps = true;
}

bool Lowering::reduces_walking(const Instr& in) const {
  bool does = false;
  for (int k = 0; k < kernels_.map_reduce_count; ++k)
    does |= in.fn == kernels_.map_reduces[k].alone || in.fn == kernels_.map_reduces[k].keeping;
  for (const Reduce r : {Reduce::sum, Reduce::max, Reduce::min, Reduce::prod})
    does |= in.fn == kernels_.reduce[static_cast<int>(r)];
  return does;
}

/// Memory takes stores and gives what was asked for at the same time, at the rate of a copy. So the next rows are best
/// fetched where this one is stored past the caches; if little is stored, while the row is read.
int Lowering::fetching_stage(std::int64_t row_bytes) const {
  const int last = static_cast<int>(b_.stages.size()) - 1;
  std::int64_t streamed = 0;
  bool any = false;
  for (const KValue& v : p_.values) {
    if (!is_store(v.op) || !value(v.a).full || !s_.accesses[v.access].stream) continue;
    any = true;
    if (v.stage == last) streamed += s_.stage_cols[last] * s_.accesses[v.access].size;
  }
  if (2 * streamed >= row_bytes) return last;
  return any ? b_.ahead_from : -1;
}

void Lowering::emit_constants() {
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
    users.emplace_back(v, it->second);
  }
  b_.constants_offset = allocate(static_cast<std::int64_t>(b_.constants.size()) + 128);
  for (auto [v, at] : users) rows_[v].operand = scratch(b_.constants_offset + at);
  for (int v = 0; v < n_; ++v) {
    if (op(v) != KOp::slot) continue;
    rows_[v].operand = scratch(allocate(128));
    b_.slots.push_back({value(v).slot, value(v).type, rows_[v].operand.offset});
  }
}

std::uint64_t Lowering::literal_bits(const KValue& v) {
  switch (v.type) {
    case RegType::f32: return std::bit_cast<std::uint32_t>(static_cast<float>(v.literal));
    case RegType::f64: return std::bit_cast<std::uint64_t>(v.literal);
    case RegType::i32: return static_cast<std::uint32_t>(v.literal_int);
    case RegType::i64: return static_cast<std::uint64_t>(v.literal_int);
  }
  return 0;
}

void Lowering::emit_row(int v, Context context) {
  if (context == Context::init) {
    rows_[v].operand = scratch(allocate(128));
  } else {
    rows_[v].slot = take_row();
    rows_[v].operand = scratch(row_slots_[rows_[v].slot]);
  }
  emit_value(v, context, rows_[v].operand);
}

void Lowering::release_rows(std::int64_t from, std::int64_t until) {
  for (int v = 0; v < n_; ++v) {
    if (rows_[v].slot >= 0 && row_last_[v] >= from && row_last_[v] < until) {
      free_rows_.push_back(rows_[v].slot);
      rows_[v].slot = -1;
    }
  }
}

void Lowering::release_row_operands(int v, std::int64_t key) {
  each_operand(v, [&](int o) {
    if (kind(o) == Kind::row && row_last_[o] == key && rows_[o].slot >= 0) {
      free_rows_.push_back(rows_[o].slot);
      rows_[o].slot = -1;
    }
  });
}

void Lowering::emit_rows_of(int stage, bool post) {
  const std::int64_t section = stage * 3 + (post ? 2 : 0);
  for (int v = p_.stages[stage].begin; v < p_.stages[stage].end; ++v) {
    if (!has_result(op(v)) || is_row_reduce(op(v)) || kind(v) != Kind::row || post_[v] != post) continue;
    emit_row(v, Context::row);
    release_row_operands(v, section * kForever + v);
  }
  if (post) emit_row_stores(stage);
  release_rows(section * kForever, (section + 1) * kForever);
}

void Lowering::emit_row_stores(int stage) {
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

void Lowering::emit_stage(int stage) {
  StageCode code;
  code.cols = s_.stage_cols[stage];
  code.piece = b_.block_cols;
  code.pre = section([&] { emit_rows_of(stage, false); });
  code.moving.begin = static_cast<int>(b_.moving.size());
  stage_memory_.clear();
  stage_keep_.clear();
  code.loop = section([&] { emit_loop(stage); });
  code.moving.end = static_cast<int>(b_.moving.size());
  code.post = section([&] { emit_rows_of(stage, true); });
  const auto empty = [](Range r) { return r.begin == r.end; };
  code.idle = empty(code.pre) && empty(code.loop) && empty(code.post);
  b_.stages.push_back(code);
}

namespace {

/// Whether rows follow each other so that nothing need be found anew for each: one row a block, in one piece, and what
/// is fetched, an instruction fetches.
bool is_even(const Body& b) {
  if (b.block_rows != 1 || b.dims > 1 || b.inner < b.rows || b.col_tasks != 1 || b.tile_buffer >= 0) return false;
  if (b.overlaps || !b.column_sums.empty() || !(b.ahead.empty() || b.in_passing)) return false;
  std::int64_t cols = -1;
  for (const StageCode& stage : b.stages) {
    if (stage.idle) continue;
    if (stage.loop.begin == stage.loop.end || stage.piece < stage.cols || (cols >= 0 && stage.cols != cols))
      return false;
    cols = stage.cols;
  }
  return cols > 0;
}

/// A store rounds: what was rounded to its type before need not be.
KernelProgram rounding_once(KernelProgram p) {
  for (KValue& v : p.values) {
    if (v.op != KOp::store) continue;
    const KValue& a = p.values[static_cast<std::size_t>(v.a)];
    const bool half = a.to == DType::bf16 || a.to == DType::f16;
    if (a.op != KOp::cast || !half || a.to != p.accesses[static_cast<std::size_t>(v.access)].dtype) continue;
    const KValue& exact = p.values[static_cast<std::size_t>(a.a)];
    if (a.type == RegType::f32 && exact.type == RegType::f32 && exact.full == a.full) v.a = a.a;
  }
  return p;
}

}  // namespace

std::unique_ptr<const Body> lower_body(const KernelProgram& given, TileUse tile) {
  const KernelProgram program = rounding_once(given);
  const ProgramShape shape = analyze(program, tile);
  for (int elements = kBlock;; elements /= 2) {
    auto body = std::make_unique<Body>();
    body->tile_buffer = tile.buffer;
    choose_block(program, shape, elements, tile, *body);
    const bool fits = Lowering(program, shape, tile, *body).emit(elements);
    if (!fits && elements > 64) continue;
    choose_tasks(program, shape, *body);
    body->even = is_even(*body);
    return body;
  }
}

}  // namespace metal_candle::cpu::vm
