#include "compiler/fuse/program_builder.h"

#include <algorithm>
#include <utility>

#include "metal_candle/elementwise.hpp"
#include "metal_candle/error.hpp"

namespace metal_candle {

bool is_reduction(KOp op) { return op >= KOp::reduce_sum && op <= KOp::reduce_argmin; }
bool is_column_op(KOp op) { return op >= KOp::col_sum; }

namespace {

/// What evaluating a value once more costs, in simple operations.
int cost_of(const KValue& v) {
  switch (v.op) {
    case KOp::random_uniform: return 16;
    case KOp::random_normal: return 40;
    case KOp::map: break;
    default: return 1;
  }
  switch (info(static_cast<Elementwise>(v.code)).cost) {
    case Cost::simple: return 1;
    case Cost::divide:
    case Cost::root: return 4;
    case Cost::series: return 8;
    case Cost::power: return 20;
  }
  return 1;
}
constexpr int kKeepCost = 6;  // a kept value is written to and read from L1 or L2 once more

}  // namespace

int ProgramBuilder::add(KValue value, std::int64_t cols) {
  items_.push_back({value, cols, 0});
  return static_cast<int>(items_.size()) - 1;
}

int ProgramBuilder::add_access(Access access) {
  accesses_.push_back(std::move(access));
  return static_cast<int>(accesses_.size()) - 1;
}

int ProgramBuilder::widen(int id, std::int64_t cols) {
  if (value(id).full) return id;
  KValue v;
  v.op = KOp::cast;
  v.type = value(id).type;
  v.to = v.type == RegType::f32   ? DType::f32
         : v.type == RegType::f64 ? DType::f64
         : v.type == RegType::i32 ? DType::i32
                                  : DType::i64;
  v.a = id;
  v.full = true;
  return add(v, cols);
}

int ProgramBuilder::index(const Shape& shape, const Shape& strides, bool full, std::int64_t cols) {
  // The space is not settled, so room is left for its parts: they are written in by write_index.
  Access a;
  a.shape = shape;
  a.strides = strides;
  a.full = full;
  a.cols = cols;
  const int access = add_access(a);
  KValue v;
  v.op = KOp::literal;
  v.type = RegType::i64;
  v.full = full;
  const int id = add(v, cols);
  indices_.push_back({id, static_cast<std::size_t>(access)});
  return id;
}

// ---- the iteration space --------------------------------------------------------------------------------------------

// Rows are a product of factors into which every access can be cut. The factors' cut points, as suffix products.
std::vector<std::int64_t> ProgramBuilder::row_cuts() const {
  std::vector<std::int64_t> cuts{1, rows_};
  for (const Access& a : accesses_) {
    std::int64_t p = 1;
    for (int d = a.shape.rank() - 1; d >= 0; --d) {
      p *= a.shape[d];
      const std::int64_t cols = a.full ? a.cols : 1;
      if (p <= cols ? p > 0 && cols % p != 0 : p % cols != 0)
        throw InternalError("fused shapes do not share their rows");
      if (p <= cols) continue;
      cuts.push_back(p / cols);
    }
  }
  std::sort(cuts.begin(), cuts.end());
  cuts.erase(std::unique(cuts.begin(), cuts.end()), cuts.end());
  for (std::size_t i = 1; i < cuts.size(); ++i)
    if (cuts[i] % cuts[i - 1] != 0) throw InternalError("fused shapes do not share their rows");
  return cuts;
}

// Strides of one access over the row factors `dims` (outermost first) and the columns.
void ProgramBuilder::fill(Access& a, const std::vector<std::int64_t>& dims) {
  a.access.row_strides.assign(dims.size(), 0);
  a.access.col_stride = 0;
  std::int64_t cols_left = a.full ? a.cols : 1;
  std::size_t at = dims.size();  // factors are used up from the innermost
  std::int64_t factor_left = 1, factor_step = 0;
  bool col_set = false;
  for (int d = a.shape.rank() - 1; d >= 0; --d) {
    std::int64_t extent = a.shape[d], step = a.strides[d];
    if (extent == 1) continue;
    if (cols_left > 1) {
      const std::int64_t part = std::min(extent, cols_left);
      if (!col_set) a.access.col_stride = step;
      col_set = true;
      cols_left /= part;
      extent /= part;
      step *= part;
    }
    while (extent > 1) {
      if (factor_left == 1) {
        --at;
        while (dims[at] == 1) --at;
        factor_left = dims[at];
        factor_step = step;
        a.access.row_strides[at] = factor_step;
      }
      const std::int64_t part = std::min(extent, factor_left);
      factor_left /= part;
      extent /= part;
      step *= part;
    }
  }
}

void ProgramBuilder::settle_space() {
  if (rows_ == 0) choose_rows();
  const std::vector<std::int64_t> cuts = row_cuts();
  dims_.clear();
  for (std::size_t i = cuts.size(); i-- > 1;) dims_.push_back(cuts[i] / cuts[i - 1]);
  for (Access& a : accesses_) fill(a, dims_);
  // Neighbouring factors that every access walks evenly are one.
  for (std::size_t i = 0; i + 1 < dims_.size();) {
    const bool even = std::all_of(accesses_.begin(), accesses_.end(), [&](const Access& a) {
      return a.access.row_strides[i] == a.access.row_strides[i + 1] * dims_[i + 1];
    });
    if (!even) {
      ++i;
      continue;
    }
    dims_[i + 1] *= dims_[i];
    dims_.erase(dims_.begin() + static_cast<std::ptrdiff_t>(i));
    for (Access& a : accesses_)
      a.access.row_strides.erase(a.access.row_strides.begin() + static_cast<std::ptrdiff_t>(i));
  }
  if (dims_.empty()) {
    dims_.push_back(1);
    for (Access& a : accesses_) a.access.row_strides.push_back(0);
  }
}

// Elementwise programs: everything is rows of one column at first; the innermost common run becomes the columns.
void ProgramBuilder::choose_rows() {
  std::int64_t total = 1;
  for (const Access& a : accesses_) total = std::max(total, a.shape.numel());
  rows_ = total;
  for (Access& a : accesses_) a.full = true, a.cols = 1;
  settle_space();
  const std::int64_t cols = dims_.back();
  rows_ = total / std::max<std::int64_t>(cols, 1);
  for (Access& a : accesses_) a.cols = cols;
  for (Item& i : items_) i.cols = cols;
}

void ProgramBuilder::write_index(const PendingIndex& pending) {
  const Access& a = accesses_[pending.access];
  // Replaces the placeholder: sum over factors of stride·((row / inner) % extent), plus stride·column.
  std::vector<int> parts;
  auto term = [&](KValue v, std::int64_t stride) {
    v.type = RegType::i64;
    const std::int64_t cols = items_[static_cast<std::size_t>(pending.item)].cols;
    int id = add(v, cols);
    if (stride != 1) {
      KValue s;
      s.op = KOp::literal;
      s.type = RegType::i64;
      s.literal_int = stride;
      s.literal = static_cast<double>(stride);
      KValue m;
      m.op = KOp::map;
      m.code = static_cast<std::uint16_t>(Elementwise::mul);
      m.type = RegType::i64;
      m.full = v.full;
      m.a = id;
      m.b = add(s);
      id = add(m, cols);
    }
    parts.push_back(id);
  };
  std::int64_t inner = 1;
  for (std::size_t d = dims_.size(); d-- > 0;) {
    KValue v;
    v.op = KOp::row_index;
    v.imm0 = inner;
    v.imm1 = dims_[d];
    if (a.access.row_strides[d] != 0) term(v, a.access.row_strides[d]);
    inner *= dims_[d];
  }
  if (a.full && a.access.col_stride != 0) {
    KValue v;
    v.op = KOp::col_index;
    v.full = true;
    term(v, a.access.col_stride);
  }
  const std::int64_t cols = items_[static_cast<std::size_t>(pending.item)].cols;
  while (parts.size() > 1) {
    KValue s;
    s.op = KOp::map;
    s.code = static_cast<std::uint16_t>(Elementwise::add);
    s.type = RegType::i64;
    s.b = parts.back();
    parts.pop_back();
    s.a = parts.back();
    s.full = value(s.a).full || value(s.b).full;
    parts.back() = add(s, cols);
  }
  KValue& v = items_[static_cast<std::size_t>(pending.item)].value;
  if (parts.empty()) return;  // one place only: the literal 0
  if (items_[static_cast<std::size_t>(parts[0])].value.full == v.full && value(parts[0]).op != KOp::map) {
    v = value(parts[0]);  // nothing but the index itself; the part is left without users
    items_[static_cast<std::size_t>(parts[0])].cols = cols;
    return;
  }
  v.op = KOp::cast;
  v.to = DType::i64;
  v.a = parts[0];
}

// ---- stages ---------------------------------------------------------------------------------------------------------

int ProgramBuilder::gather_of(const KValue& v) const {
  return v.access >= 0 ? accesses_[static_cast<std::size_t>(v.access)].access.gather : -1;
}

void ProgramBuilder::mark_live() {
  std::vector<std::size_t> todo;
  for (std::size_t k = 0; k < items_.size(); ++k)
    if (items_[k].value.op == KOp::store || is_column_op(items_[k].value.op)) todo.push_back(k);
  while (!todo.empty()) {
    Item& i = items_[todo.back()];
    todo.pop_back();
    if (i.live) continue;
    i.live = true;
    for (const int id : {i.value.a, i.value.b, i.value.c, gather_of(i.value)})
      if (id >= 0) todo.push_back(static_cast<std::size_t>(id));
  }
}

// Level 0 holds row values that need no reduction; full values of level l may use row values of levels below l.
void ProgramBuilder::assign_levels() {
  // Index parts were added behind their users, so the order of numbers is not an order of computation: iterate.
  bool changed = true;
  while (changed) {
    changed = false;
    for (Item& i : items_) {
      int level = i.value.full ? 1 : 0;
      auto use = [&](int id) {
        if (id < 0) return;
        const Item& o = items_[static_cast<std::size_t>(id)];
        level = std::max(level, o.level + (i.value.full && !o.value.full ? 1 : 0));
      };
      use(i.value.a);
      use(i.value.b);
      use(i.value.c);
      use(gather_of(i.value));
      if (level > i.level) i.level = level, changed = true;
    }
  }
}

// A full value that only later levels use moves to the first of them.
void ProgramBuilder::sink() {
  constexpr int kNever = 1 << 30;
  std::vector<int> first(items_.size());
  bool changed = true;
  while (changed) {
    changed = false;
    std::fill(first.begin(), first.end(), kNever);
    for (std::size_t k = items_.size(); k-- > 0;) {  // users come after what they use, but for index parts
      Item& i = items_[k];
      const bool moves = i.value.full && i.value.op != KOp::store && !is_column_op(i.value.op) && first[k] != kNever;
      if (moves && first[k] > i.level) i.level = first[k], changed = true;
      for (const int id : {i.value.a, i.value.b, i.value.c, gather_of(i.value)})
        if (id >= 0) first[static_cast<std::size_t>(id)] = std::min(first[static_cast<std::size_t>(id)], i.level);
    }
  }
}

void ProgramBuilder::mark_kept() {
  std::vector<int> cost(items_.size(), 0);
  // Values in order of level; within a level operands come first or are cheap index parts.
  std::vector<std::size_t> order(items_.size());
  for (std::size_t k = 0; k < order.size(); ++k) order[k] = k;
  std::stable_sort(order.begin(), order.end(),
                   [&](std::size_t x, std::size_t y) { return items_[x].level < items_[y].level; });
  std::vector<int> last(items_.size(), 0);
  for (const Item& i : items_)
    for (const int id : {i.value.a, i.value.b, i.value.c})
      if (id >= 0) last[static_cast<std::size_t>(id)] = std::max(last[static_cast<std::size_t>(id)], i.level);
  for (const std::size_t k : order) {
    Item& i = items_[k];
    if (!i.value.full) continue;
    cost[k] = cost_of(i.value);
    for (const int id : {i.value.a, i.value.b, i.value.c})
      if (id >= 0 && items_[static_cast<std::size_t>(id)].value.full &&
          !items_[static_cast<std::size_t>(id)].value.keep)
        cost[k] += cost[static_cast<std::size_t>(id)];
    const bool wide = i.value.type == RegType::f64 || i.value.type == RegType::i64;
    const auto bytes = static_cast<std::size_t>(i.cols) * (wide ? 8 : 4);
    const bool worth =
        i.value.op != KOp::load && i.value.op != KOp::store && !is_column_op(i.value.op) && cost[k] >= kKeepCost;
    if (last[k] > i.level && worth && bytes <= keep_bytes_) i.value.keep = true;
  }
}

/// The values that one part of a stage consists of: its full ones, its reductions, then its row values.
struct ProgramBuilder::Part {
  enum Kind { full, reduction, row } kind;
  int level;
  std::int64_t cols;
  bool last_width;  // the level's row values belong to its last stage

  bool has(const Item& i) const {
    if (i.level != level || !i.live) return false;
    const bool reduces = is_reduction(i.value.op);
    if (kind == full) return i.value.full && i.cols == cols;
    if (kind == reduction) return reduces && i.cols == cols;
    return !i.value.full && !reduces && last_width;
  }
};

// A stage is a level and a width.
void ProgramBuilder::emit(KernelProgram& out) {
  std::vector<std::vector<int>> levels;
  for (std::size_t k = 0; k < items_.size(); ++k) {
    const Item& i = items_[k];
    if (!i.live) continue;
    const auto level = static_cast<std::size_t>(i.level);
    if (level >= levels.size()) levels.resize(level + 1);
    levels[level].push_back(static_cast<int>(k));
  }
  number_.assign(items_.size(), -1);
  for (const std::vector<int>& members : levels)
    if (!members.empty()) emit_level(out, members);
  renumber(out);
}

void ProgramBuilder::emit_level(KernelProgram& out, const std::vector<int>& members) {
  std::vector<std::int64_t> widths;
  for (const int k : members) {
    const Item& i = items_[static_cast<std::size_t>(k)];
    const bool has_cols = i.value.full || is_reduction(i.value.op);
    if (has_cols && std::find(widths.begin(), widths.end(), i.cols) == widths.end()) widths.push_back(i.cols);
  }
  if (widths.empty()) widths.push_back(1);
  const int level = items_[static_cast<std::size_t>(members[0])].level;
  for (std::size_t w = 0; w < widths.size(); ++w) {
    KStage stage;
    stage.cols = widths[w];
    stage.begin = static_cast<int>(out.values.size());
    for (const auto kind : {Part::full, Part::reduction, Part::row}) {
      const Part part{kind, level, stage.cols, w + 1 == widths.size()};
      for (const int k : members)
        if (number_[static_cast<std::size_t>(k)] < 0 && part.has(items_[static_cast<std::size_t>(k)]))
          emit_value(out, k, part);
    }
    stage.end = static_cast<int>(out.values.size());
    if (stage.end > stage.begin) out.stages.push_back(stage);
  }
}

// Depth-first within a part, so that operands come before users whatever the order of creation.
void ProgramBuilder::emit_value(KernelProgram& out, int first, const Part& part) {
  std::vector<std::pair<int, int>> stack{{first, 0}};
  while (!stack.empty()) {
    auto& [id, next] = stack.back();
    const KValue& v = items_[static_cast<std::size_t>(id)].value;
    const int operands[4] = {v.a, v.b, v.c, gather_of(v)};
    int push = -1;
    while (next < 4 && push < 0) {
      const int o = operands[next++];
      if (o < 0 || number_[static_cast<std::size_t>(o)] >= 0) continue;
      if (part.has(items_[static_cast<std::size_t>(o)])) push = o;
    }
    if (push >= 0) {
      stack.emplace_back(push, 0);
      continue;
    }
    int& number = number_[static_cast<std::size_t>(id)];
    stack.pop_back();
    if (number >= 0) continue;
    number = static_cast<int>(out.values.size());
    out.values.push_back(v);
    out.values.back().stage = static_cast<std::int16_t>(out.stages.size());
  }
}

void ProgramBuilder::renumber(KernelProgram& out) const {
  for (KValue& v : out.values) {
    for (int* id : {&v.a, &v.b, &v.c})
      if (*id >= 0) *id = number_[static_cast<std::size_t>(*id)];
    // Only accesses that a value names go out: those of indices have served.
    if (v.access < 0) continue;
    KAccess a = accesses_[static_cast<std::size_t>(v.access)].access;
    if (a.gather >= 0) a.gather = number_[static_cast<std::size_t>(a.gather)];
    v.access = static_cast<int>(out.accesses.size());
    out.accesses.push_back(std::move(a));
  }
}

KernelProgram ProgramBuilder::finish(std::int64_t batch, std::int64_t col_chunks) {
  settle_space();
  for (const PendingIndex& p : indices_) write_index(p);
  // A load that repeats along its row is a row value.
  mark_live();
  assign_levels();
  sink();
  mark_kept();
  KernelProgram out;
  out.row_dims = dims_;
  out.rows = 1;
  for (const auto d : dims_) out.rows *= d;
  out.batch = batch;
  out.col_chunks = col_chunks;
  emit(out);
  for (const KAccess& a : out.accesses) out.buffers = std::max(out.buffers, a.buffer + 1);
  for (const KValue& v : out.values) out.slots = std::max(out.slots, v.slot + 1);
  return out;
}

}  // namespace metal_candle
