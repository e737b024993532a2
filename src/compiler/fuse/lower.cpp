#include "compiler/fuse/lower.h"

#include <algorithm>
#include <map>

#include "compiler/fuse/program_builder.h"
#include "compiler/rewrite.h"
#include "graph/record.h"
#include "metal_candle/error.hpp"
#include "ops/table.h"

namespace metal_candle {
namespace {

DType reg_dtype(RegType t) {
  switch (t) {
    case RegType::f32: return DType::f32;
    case RegType::f64: return DType::f64;
    case RegType::i32: return DType::i32;
    case RegType::i64: break;
  }
  return DType::i64;
}
std::size_t bytes_of(const Shape& shape, DType dtype) { return static_cast<std::size_t>(shape.numel()) * size_of(dtype); }

class UnitLowering {
 public:
  UnitLowering(const LowerContext& c, const Unit& unit)
      : c_(c), unit_(unit), rows_(unit.rows), builder_(program_rows(), c.caps.keep_row_bytes) {}

  std::vector<PlanStep> run() {
    // The product whose tiles the program runs on is a load from the tile.
    if (unit_.single >= 0) tile_ = c_.new_tile();
    for (const int m : unit_.members) value_of(m);
    for (const int m : unit_.members) store(m);
    PlanStep step;
    step.kind = PlanStep::Kind::fused;
    step.program = builder_.finish(batch_, chunks_);
    describe(step);
    steps_.push_back(std::move(step));
    for (PlanStep& s : endings_) steps_.push_back(std::move(s));
    return std::move(steps_);
  }
  int tile() const { return tile_; }

 private:
  const GraphNode& node(int i) const { return c_.graph.nodes[static_cast<std::size_t>(i)]; }
  const View& view(int i) const { return c_.views[static_cast<std::size_t>(i)]; }
  bool inlined(int i) const { return c_.fusion.inlined[static_cast<std::size_t>(i)]; }
  Role role(int i) const { return c_.fusion.role[static_cast<std::size_t>(i)]; }
  bool mine(int i) const { return c_.fusion.unit_of[static_cast<std::size_t>(i)] == c_.fusion.unit_of[static_cast<std::size_t>(unit_.members[0])] && i != unit_.single; }

  std::int64_t program_rows() const {
    if (unit_.single < 0) return unit_.rows;
    const Shape& s = node(unit_.single).shape;
    return s.numel() / s.dim(-1);
  }
  std::int64_t row_count() const { return unit_.single >= 0 ? program_rows() : rows_; }
  /// Columns of a full place of `shape`; 1 while the split is open.
  std::int64_t cols_of(const Shape& shape) const {
    const std::int64_t r = row_count();
    return r == 0 ? 1 : std::max<std::int64_t>(shape.numel() / r, 1);
  }

  // ---- operands ----------------------------------------------------------------------------------------------------------

  int number(const GraphNode& n, RegType type) {
    KValue v;
    if (n.slot >= 0) {
      v.op = KOp::slot;
      v.slot = n.slot;
      v.type = n.integral ? RegType::i64 : RegType::f64;
      if (!n.integral && type == RegType::f32) v.type = RegType::f32;
      const int id = builder_.add(v);
      return v.type == type ? id : cast(id, type);
    }
    v.op = KOp::literal;
    v.type = type;
    v.literal = n.literal;
    v.literal_int = n.literal_int;
    return builder_.add(v);
  }

  int cast(int id, RegType type, DType to) {
    KValue v;
    v.op = KOp::cast;
    v.type = type;
    v.to = to;
    v.a = id;
    v.full = builder_.value(id).full;
    return builder_.add(v, cols_now_);
  }
  int cast(int id, RegType type) { return cast(id, type, reg_dtype(type)); }

  /// Input `k` of `n` as it is needed at places of `shape` (full) or rows of it.
  int operand(const GraphNode& n, std::size_t k, const Shape& shape, bool full, RegType type) {
    const int in = n.inputs[k];
    const View& v = view(in);
    const GraphNode& base = node(v.base);
    if (base.op->kind == OpKind::scalar) return number(base, type);
    const Shape strides = broadcast_strides(node(in).shape, v.strides, shape);
    if (inlined(v.base)) return inline_value(base, v, strides, shape, full, type);
    if (mine(v.base)) return value_of(v.base);
    return load(in, strides, shape, full);
  }

  int inline_value(const GraphNode& base, const View& v, const Shape& strides, const Shape& shape, bool full, RegType type) {
    if (base.op->code == ops::kFull) {
      const int id = number(node(view(base.inputs[0]).base), reg_type(base.dtype));
      const bool narrow = base.dtype == DType::bf16 || base.dtype == DType::f16 || base.dtype == DType::i8 || base.dtype == DType::u8 || base.dtype == DType::boolean;
      return narrow ? cast(id, type, base.dtype) : id;
    }
    if (base.op->code != ops::kIota) {  // arithmetic on numbers
      const auto known = values_.find(v.base);
      if (known != values_.end()) return known->second;
      return values_[v.base] = elementwise(base, false);
    }
    // iota: the view's strides walk the base's elements; the index along its axis is (element / inner) % extent.
    const Shape dims = base.shape;
    const int axis = static_cast<int>(base.attrs[1]);
    std::int64_t inner = 1;
    for (int d = axis + 1; d < dims.rank(); ++d) inner *= dims[d];
    bool plain = v.offset == 0;
    Shape along = strides;  // strides in units of the index, when every stride is a multiple within the axis
    for (int d = 0; d < shape.rank(); ++d) {
      if (shape[d] == 1 || strides[d] == 0) {
        along[d] = 0;
        continue;
      }
      if (strides[d] % inner != 0 && strides[d] * (shape[d] - 1) < inner) along[d] = 0;
      else if (strides[d] % (inner * dims[axis]) == 0) along[d] = 0;
      else if (strides[d] % inner == 0 && strides[d] / inner * (shape[d] - 1) < dims[axis]) along[d] = strides[d] / inner;
      else plain = false;
    }
    if (!plain) throw InternalError("iota behind a view that is not understood");
    if (full && !one_stride(shape, along, cols_now_)) return written_index(base, shape, along);
    const int id = builder_.index(shape, along, full, full ? cols_now_ : 1);
    return raw_index_ || reg_type(base.dtype) == RegType::i64 ? id : cast(id, reg_type(base.dtype));
  }

  int load(int in, const Shape& strides, const Shape& shape, bool full) {
    const View& v = view(in);
    ProgramBuilder::Access a;
    a.access.dtype = node(in).dtype;
    a.access.offset = v.offset;
    a.access.buffer = v.base == unit_.single ? tile_ : c_.buffer_of(v.base);
    if (v.base == unit_.single) a.access.dtype = DType::f32;
    a.shape = shape;
    a.strides = strides;
    a.full = full;
    a.cols = full ? cols_now_ : 1;
    const auto key = std::make_pair(std::make_pair(a.access.buffer, v.offset), std::make_pair(std::vector<std::int64_t>(shape.begin(), shape.end()), std::vector<std::int64_t>(strides.begin(), strides.end())));
    const auto found = loads_.find(key);
    if (found != loads_.end() && builder_.value(found->second).full == full) return found->second;
    if (full && !one_stride(shape, strides, cols_now_)) a = copied(a, in, shape, strides);
    KValue value;
    value.op = KOp::load;
    value.type = reg_type(node(in).dtype);
    // What repeats along its row is loaded once a row.
    if (full && row_count() > 0 && cols_now_ > 1 && repeats(shape, strides, cols_now_)) {
      const Shape wide = shape;
      make_row(a, wide, cols_now_);
      full = false;
    }
    value.full = full;
    value.access = builder_.add_access(a);
    const int id = builder_.add(value, full ? cols_now_ : 1);
    loads_[key] = id;
    return id;
  }

  static bool repeats(const Shape& shape, const Shape& strides, std::int64_t cols) {
    std::int64_t p = 1;
    for (int d = shape.rank() - 1; d >= 0 && p < cols; --d) {
      if (shape[d] != 1 && strides[d] != 0) return false;
      p *= shape[d];
    }
    return p == cols;
  }
  static void make_row(ProgramBuilder::Access& a, const Shape& wide, std::int64_t cols) {
    std::int64_t p = 1;
    for (int d = wide.rank() - 1; d >= 0 && p < cols; --d) {
      p *= wide[d];
      a.shape[d] = 1;
    }
    a.full = false;
    a.cols = 1;
  }
  static bool one_stride(const Shape& shape, const Shape& strides, std::int64_t cols) {
    std::int64_t p = 1, expected = 0;
    bool first = true;
    for (int d = shape.rank() - 1; d >= 0 && p < cols; --d) {
      if (shape[d] == 1) continue;
      if (!first && strides[d] != expected) return false;
      first = false;
      expected = strides[d] * shape[d];
      p *= shape[d];
    }
    return p == cols || cols == 1;
  }

  /// Columns must lie at one stride: where they do not, a copy of the operand does.
  ProgramBuilder::Access copied(ProgramBuilder::Access a, int in, const Shape& shape, const Shape& strides) {
    ProgramBuilder b(0, 0);
    ProgramBuilder::Access from = a;
    from.shape = shape;
    from.strides = strides;
    KValue l;
    l.op = KOp::load;
    l.type = reg_type(node(in).dtype);
    l.full = true;
    l.access = b.add_access(from);
    const int value = b.add(l);
    return written_first(b, value, node(in), shape, {a.access.buffer});
  }
  int written_index(const GraphNode& base, const Shape& shape, const Shape& along) {
    ProgramBuilder b(0, 0);
    KValue c;
    c.op = KOp::cast;
    c.type = reg_type(base.dtype);
    c.to = base.dtype;
    c.full = true;
    c.a = b.index(shape, along, true, 1);
    const int value = b.add(c);
    KValue l;
    l.op = KOp::load;
    l.type = c.type;
    l.full = true;
    l.access = builder_.add_access(written_first(b, value, base, shape, {}));
    return builder_.add(l, cols_now_);
  }
  /// A step before this one that stores `value` densely; returns the access that reads it here.
  ProgramBuilder::Access written_first(ProgramBuilder& b, int value, const GraphNode& like, const Shape& shape, std::vector<int> reads) {
    ProgramBuilder::Access to;
    to.access.buffer = c_.new_buffer(bytes_of(shape, like.dtype));
    to.access.dtype = like.dtype;
    to.shape = shape;
    to.strides = contiguous_strides(shape);
    to.full = true;
    KValue s;
    s.op = KOp::store;
    s.type = reg_type(like.dtype);
    s.full = true;
    s.a = value;
    s.access = b.add_access(to);
    b.add(s);
    PlanStep step;
    step.label = "copy";
    step.scope = like.scope;
    step.program = b.finish(1, 1);
    step.reads = std::move(reads);
    step.writes = {to.access.buffer};
    step.bytes = 2.0 * static_cast<double>(bytes_of(shape, like.dtype));
    steps_.push_back(std::move(step));
    to.cols = cols_now_;
    return to;
  }

  // ---- values ------------------------------------------------------------------------------------------------------------

  int value_of(int i) {
    const auto found = values_.find(i);
    if (found != values_.end()) return found->second;
    const GraphNode& n = node(i);
    const std::int64_t outer = cols_now_;
    const Shape space = n.op->kind == OpKind::reduce ? node(n.inputs[0]).shape : n.shape;
    const bool full = role(i) != Role::row || n.op->kind == OpKind::reduce;
    cols_now_ = full ? cols_of(space) : 1;
    int id = n.op->kind == OpKind::reduce ? reduce(i) : n.op->kind == OpKind::gather ? gather(n, full) : elementwise(n, full);
    cols_now_ = outer;
    values_[i] = id;
    return id;
  }

  int reduce(int i) {
    const GraphNode& n = node(i);
    const Shape& space = node(n.inputs[0]).shape;
    const int x = builder_.widen(operand(n, 0, space, true, reg_type(node(n.inputs[0]).dtype)), cols_now_);
    if (role(i) == Role::column) return column(i, x);
    KValue v;
    v.op = static_cast<KOp>(static_cast<int>(KOp::reduce_sum) + n.op->code);
    v.type = n.op->code >= ops::kArgMax ? RegType::i32 : builder_.value(x).type;
    v.a = x;
    int id = builder_.add(v, cols_now_);
    return narrowed(id, n.dtype);
  }

  /// bf16 sums are rounded where the op says that its result is bf16; wider ones are as they are.
  int narrowed(int id, DType dtype) {
    const RegType want = reg_type(dtype);
    return builder_.value(id).type == want ? id : cast(id, want, dtype);
  }

  int column(int i, int x) {
    const GraphNode& n = node(i);
    const Shape& in = node(n.inputs[0]).shape;
    std::int64_t batch = 1;
    for (int a = 0; a < static_cast<int>(n.attrs[0]); ++a) batch *= in[a];
    const std::int64_t cols = cols_now_, rows = in.numel() / cols;
    if (columns_ > 0 && batch != batch_) throw InternalError("column reductions over different rows in one kernel");
    batch_ = batch;
    // Parts, so that many threads find work; their number depends on shapes only.
    const std::int64_t per_batch = rows / batch;
    if (columns_++ == 0) chunks_ = std::clamp<std::int64_t>(in.numel() / batch / (1 << 16), 1, std::min<std::int64_t>(per_batch, 16));
    KValue v;
    v.op = static_cast<KOp>(static_cast<int>(KOp::col_sum) + n.op->code);
    v.type = builder_.value(x).type;
    v.full = true;
    v.a = x;
    KAccess a;
    a.dtype = n.dtype;
    a.buffer = c_.buffer_of(i);
    const DType part = reg_dtype(v.type);
    if (chunks_ > 1) {
      a.buffer = c_.new_buffer(static_cast<std::size_t>(batch * chunks_ * cols) * size_of(part));
      a.dtype = part;
      endings_.push_back(ending(n, i, a.buffer, part, cols));
    }
    ProgramBuilder::Access access;
    access.access = a;
    access.shape = in;
    access.strides = in;
    for (int d = 0; d < in.rank(); ++d) access.strides[d] = 0;
    // Dense [batch, chunks, columns] by definition; only the column stride is looked at.
    access.strides[in.rank() - 1] = in[in.rank() - 1] == 1 ? 0 : 1;
    access.full = true;
    access.cols = cols;
    std::int64_t step = 1;
    std::int64_t p = 1;
    for (int d = in.rank() - 1; d >= 0 && p < cols; --d) {
      access.strides[d] = step;
      step *= in[d];
      p *= in[d];
    }
    v.access = builder_.add_access(access);
    return builder_.add(v, cols);
  }

  /// Adds up the parts of a column reduction, in order.
  PlanStep ending(const GraphNode& n, int i, int parts, DType part, std::int64_t cols) {
    const Shape shape{batch_ * chunks_, cols};
    ProgramBuilder b(batch_ * chunks_, c_.caps.keep_row_bytes);
    ProgramBuilder::Access from;
    from.access.buffer = parts;
    from.access.dtype = part;
    from.shape = shape;
    from.strides = contiguous_strides(shape);
    from.cols = cols;
    KValue l;
    l.op = KOp::load;
    l.type = reg_type(part);
    l.full = true;
    l.access = b.add_access(from);
    KValue v = l;
    v.op = static_cast<KOp>(static_cast<int>(KOp::col_sum) + n.op->code);
    v.a = b.add(l, cols);
    ProgramBuilder::Access to = from;
    to.access.buffer = c_.buffer_of(i);
    to.access.dtype = n.dtype;
    to.strides = Shape{0, 1};
    v.access = b.add_access(to);
    b.add(v, cols);
    PlanStep step;
    step.label = std::string(n.op->name) + " (parts)";
    step.scope = n.scope;
    step.program = b.finish(batch_, 1);
    step.reads = {parts};
    step.writes = {c_.buffer_of(i)};
    step.bytes = static_cast<double>(shape.numel()) * static_cast<double>(size_of(part));
    return step;
  }

  int gather(const GraphNode& n, bool full) {
    const int table_id = n.inputs[0];
    const View& table = view(table_id);
    const Shape& ts = node(table_id).shape;
    const GraphNode& indices = node(n.inputs[1]);
    ProgramBuilder::Access a;
    a.access.dtype = n.dtype;
    a.access.buffer = c_.buffer_of(table.base);
    a.access.offset = table.offset;
    a.shape = n.shape;
    a.strides = n.shape;
    a.full = full;
    a.cols = full ? cols_now_ : 1;
    if (n.op->code == ops::kTake) {
      const int lead = indices.shape.rank();
      for (int d = 0; d < n.shape.rank(); ++d) a.strides[d] = d < lead ? 0 : table.strides[d - lead + 1];
      a.access.gather_stride = table.strides[0];
      a.access.gather_extent = ts[0];
      const std::int64_t outer = std::exchange(cols_now_, 1);
      a.access.gather = operand(n, 1, indices.shape, false, reg_type(indices.dtype));
      cols_now_ = outer;
    } else {
      const int axis = static_cast<int>(n.attrs[0]);
      for (int d = 0; d < n.shape.rank(); ++d) a.strides[d] = d == axis ? 0 : table.strides[d];
      a.access.gather_stride = table.strides[axis];
      a.access.gather_extent = ts[axis];
      a.access.gather = operand(n, 1, n.shape, full, reg_type(indices.dtype));
    }
    KValue v;
    v.op = KOp::load;
    v.type = reg_type(n.dtype);
    v.full = full;
    v.access = builder_.add_access(a);
    return builder_.add(v, full ? cols_now_ : 1);
  }

  int elementwise(const GraphNode& n, bool full) {
    const RegType in_type = n.inputs.empty() ? reg_type(n.dtype) : reg_type(node(n.inputs[0]).dtype);
    KValue v;
    v.type = reg_type(n.dtype);
    auto finish = [&] {
      v.full = false;
      for (const int id : {v.a, v.b, v.c})
        if (id >= 0 && builder_.value(id).full) v.full = true;
      return builder_.add(v, v.full ? cols_now_ : 1);
    };
    switch (n.op->code) {
      case ops::kWhere:
        v.op = KOp::select;
        v.a = operand(n, 0, n.shape, full, RegType::i32);
        v.b = operand(n, 1, n.shape, full, v.type);
        v.c = operand(n, 2, n.shape, full, v.type);
        return finish();
      case ops::kLogicalNot:
        v.op = KOp::logical_not;
        v.a = operand(n, 0, n.shape, full, RegType::i32);
        return finish();
      case ops::kCast: return cast_node(n, full);
      case ops::kFull: case ops::kIota: return inline_value(n, View{-1, contiguous_strides(n.shape), 0, true}, contiguous_strides(n.shape), n.shape, full, v.type);
      case ops::kRandomUniform: case ops::kRandomNormal: return random(n, full);
      case ops::kIdentity: return operand(n, 0, n.shape, full, v.type);
      default: break;
    }
    v.op = KOp::map;
    v.code = n.op->code;
    // Where one input is a number, the other says which type is computed in.
    RegType type = in_type;
    for (const int in : n.inputs)
      if (node(view(in).base).op->kind != OpKind::scalar) type = reg_type(node(in).dtype);
    if (compares_index(n)) {
      // An index is compared as it is counted, in i64; the other side, mostly one a row, is widened instead.
      raw_index_ = true;
      v.a = wide(operand(n, 0, n.shape, full, type));
      v.b = wide(operand(n, 1, n.shape, full, type));
      raw_index_ = false;
      return finish();
    }
    v.a = operand(n, 0, n.shape, full, type);
    if (n.inputs.size() > 1) v.b = operand(n, 1, n.shape, full, type);
    return finish();
  }

  bool compares_index(const GraphNode& n) const {
    if (n.inputs.size() != 2 || n.dtype != DType::boolean || n.op->code >= static_cast<std::uint16_t>(Elementwise::kCount)) return false;
    bool index = false;
    for (const int in : n.inputs) {
      const GraphNode& base = node(view(in).base);
      if (!is_integer(base.dtype)) return false;
      index |= base.op->kind == OpKind::elementwise && base.op->code == ops::kIota;
    }
    return index;
  }
  int wide(int id) { return builder_.value(id).type == RegType::i64 ? id : cast(id, RegType::i64); }

  int cast_node(const GraphNode& n, bool full) {
    const GraphNode& from = node(n.inputs[0]);
    const int x = operand(n, 0, n.shape, full, reg_type(from.dtype));
    if (from.dtype == n.dtype) return x;
    return cast(x, reg_type(n.dtype), n.dtype);
  }

  int random(const GraphNode& n, bool full) {
    // The counter is the element's row-major number; with a key a row it is the column, so that a row's draw does not
    // depend on which row it is.
    Shape strides = contiguous_strides(n.shape);
    if (node(n.inputs[0]).shape.rank() > 0)
      for (int d = 0; d + 1 < strides.rank(); ++d) strides[d] = 0;
    const int counter = builder_.index(n.shape, strides, full, full ? cols_now_ : 1);
    KValue v;
    v.op = n.op->code == ops::kRandomUniform ? KOp::random_uniform : KOp::random_normal;
    v.type = RegType::f32;
    v.a = operand(n, 0, n.shape, full, RegType::i64);
    v.b = counter;
    v.full = full;
    const int id = builder_.add(v, full ? cols_now_ : 1);
    return n.dtype == DType::f32 ? id : cast(id, reg_type(n.dtype), n.dtype);
  }

  // ---- results -----------------------------------------------------------------------------------------------------------

  void store(int i) {
    const GraphNode& n = node(i);
    if (!c_.fusion.stored[static_cast<std::size_t>(i)] || role(i) == Role::column) return;
    const bool full = role(i) == Role::full;
    cols_now_ = full ? cols_of(n.shape) : 1;
    KValue v;
    v.op = KOp::store;
    v.a = full ? builder_.widen(value_of(i), cols_now_) : value_of(i);
    v.type = builder_.value(v.a).type;
    v.full = full;
    ProgramBuilder::Access a;
    a.access.buffer = c_.buffer_of(i);
    a.access.dtype = n.dtype;
    a.access.stream = full && c_.streams(i);
    a.shape = n.shape;
    a.strides = contiguous_strides(n.shape);
    a.full = full;
    a.cols = full ? cols_now_ : 1;
    v.access = builder_.add_access(a);
    builder_.add(v, full ? cols_now_ : 1);
  }

  void describe(PlanStep& step) {
    for (const KValue& v : step.program.values) {
      if (v.access < 0) continue;
      const int b = step.program.accesses[static_cast<std::size_t>(v.access)].buffer;
      auto& list = v.op == KOp::load ? step.reads : step.writes;
      if (std::find(list.begin(), list.end(), b) == list.end()) list.push_back(b);
    }
    std::string_view origin;
    for (const int m : unit_.members) {
      const GraphNode& n = node(m);
      const std::string_view what = n.origin.empty() ? n.op->name : n.origin;
      if (what == origin) continue;
      origin = what;
      if (step.label.size() < 60) step.label += (step.label.empty() ? "" : "+") + std::string(what);
      if (!step.scope) step.scope = n.scope;
    }
    for (const int m : unit_.members) {
      const GraphNode& n = node(m);
      step.flops += static_cast<double>(n.op->kind == OpKind::reduce ? node(n.inputs[0]).shape.numel() : n.shape.numel());
      if (c_.fusion.stored[static_cast<std::size_t>(m)]) step.bytes += static_cast<double>(bytes_of(n.shape, n.dtype));
    }
    std::vector<int> seen;
    for (const int m : unit_.members)
      for (const int in : node(m).inputs) {
        const int base = view(in).base;
        if (mine(base) || base == unit_.single || node(base).op->kind == OpKind::scalar || inlined(base)) continue;
        if (std::find(seen.begin(), seen.end(), base) != seen.end()) continue;
        seen.push_back(base);
        const bool rows_only = node(m).op->kind == OpKind::gather;
        step.bytes += static_cast<double>(rows_only ? bytes_of(node(m).shape, node(m).dtype) : bytes_of(node(base).shape, node(base).dtype));
      }
  }

  const LowerContext& c_;
  const Unit& unit_;
  std::int64_t rows_;
  ProgramBuilder builder_;
  std::int64_t cols_now_ = 1;
  std::int64_t batch_ = 1, chunks_ = 1;
  int columns_ = 0, tile_ = -1;
  bool raw_index_ = false;
  std::map<int, int> values_;
  std::map<std::pair<std::pair<int, std::int64_t>, std::pair<std::vector<std::int64_t>, std::vector<std::int64_t>>>, int> loads_;
  std::vector<PlanStep> steps_, endings_;
};

// ---- products and kernel ops ---------------------------------------------------------------------------------------------

MatmulOperand matmul_operand(const LowerContext& c, int in, int batch_rank) {
  const View& v = c.views[static_cast<std::size_t>(in)];
  const GraphNode& n = c.graph.nodes[static_cast<std::size_t>(in)];
  const GraphNode& base = c.graph.nodes[static_cast<std::size_t>(v.base)];
  const int r = n.shape.rank();
  MatmulOperand o;
  o.buffer = c.buffer_of(v.base);
  o.offset = v.offset;
  o.row_stride = n.shape[r - 2] == 1 ? n.shape[r - 1] : v.strides[r - 2];
  o.col_stride = n.shape[r - 1] == 1 ? 1 : v.strides[r - 1];
  o.constant = base.op->kind == OpKind::leaf && c.graph.leaves[static_cast<std::size_t>(base.leaf)].frozen;
  for (int d = 0; d < batch_rank; ++d) {
    const int at = r - 2 - batch_rank + d;
    o.batch_strides.push_back(at < 0 || n.shape[at] == 1 ? 0 : v.strides[at]);
  }
  return o;
}

PlanStep lower_matmul(const LowerContext& c, const Unit& unit) {
  const GraphNode& n = c.graph.nodes[static_cast<std::size_t>(unit.single)];
  auto shape_of = [&](int k) -> const Shape& { return c.graph.nodes[static_cast<std::size_t>(n.inputs[static_cast<std::size_t>(k)])].shape; };
  PlanStep step;
  step.kind = PlanStep::Kind::matmul;
  step.label = n.op == &matmul_lora_def ? "matmul+lora" : "matmul";
  step.scope = n.scope;
  MatmulStep& m = step.matmul;
  m.dtype = n.dtype;
  m.m = n.shape.dim(-2);
  m.n = n.shape.dim(-1);
  m.k = shape_of(0).dim(-1);
  const int batch_rank = n.shape.rank() - 2;
  for (int d = 0; d < batch_rank; ++d) m.batch.push_back(n.shape[d]);
  m.a = matmul_operand(c, n.inputs[0], batch_rank);
  m.b = matmul_operand(c, n.inputs[1], batch_rank);
  step.reads = {m.a.buffer, m.b.buffer};
  if (n.inputs.size() == 4) {
    m.k2 = shape_of(2).dim(-1);
    m.a2 = matmul_operand(c, n.inputs[2], batch_rank);
    m.b2 = matmul_operand(c, n.inputs[3], batch_rank);
    step.reads.push_back(m.a2.buffer);
    step.reads.push_back(m.b2.buffer);
  }
  const double element = static_cast<double>(size_of(n.dtype));
  step.flops = 2.0 * static_cast<double>(n.shape.numel()) * static_cast<double>(m.k + m.k2);
  step.bytes = element * static_cast<double>(shape_of(0).numel() + shape_of(1).numel());
  const bool stored = c.fusion.stored[static_cast<std::size_t>(unit.single)];
  if (unit.members.empty()) {
    m.out = c.buffer_of(unit.single);
    step.writes = {m.out};
    step.bytes += element * static_cast<double>(n.shape.numel());
    return step;
  }
  UnitLowering lowering(c, unit);
  std::vector<PlanStep> parts = lowering.run();
  PlanStep& fused = parts.back();
  if (parts.size() != 1) throw InternalError("an epilogue needs copies");
  m.epilogue = true;
  m.tile = lowering.tile();
  m.out = stored ? c.buffer_of(unit.single) : -1;
  step.program = std::move(fused.program);
  step.label += "+" + fused.label;
  for (const int b : fused.reads)
    if (b != m.tile) step.reads.push_back(b);
  step.writes = fused.writes;
  if (m.out >= 0) step.writes.push_back(m.out);
  step.flops += fused.flops;
  step.bytes += fused.bytes;
  return step;
}

/// The types of all outputs, from the op's own inference on stand-ins for the inputs.
InferResult infer_again(const LowerContext& c, const GraphNode& n) {
  const RecordHook hook = exchange_record_hook(nullptr);
  Tensors inputs;
  for (const int in : n.inputs) {
    const GraphNode& x = c.graph.nodes[static_cast<std::size_t>(in)];
    inputs.push_back(x.op->kind == OpKind::scalar ? (x.integral ? scalar(0) : scalar(0.0)) : record_typed(*n.op, x.dtype, x.shape, {}));
  }
  InferResult result;
  n.op->infer(OpCall{*n.op, inputs, n.attrs}, result);
  exchange_record_hook(hook);
  return result;
}

PlanStep lower_kernel(const LowerContext& c, const Unit& unit) {
  const GraphNode& n = c.graph.nodes[static_cast<std::size_t>(unit.single)];
  PlanStep step;
  step.kind = PlanStep::Kind::kernel;
  step.label = n.op->name;
  step.scope = n.scope;
  KernelStep& k = step.kernel;
  k.op = n.op;
  k.cpu = c.caps.kernel(n.op);
  if (!k.cpu) throw UserError(ErrorKind::device, std::string(n.op->name) + ": no kernel for this device and no decomposition", std::string(n.op->name));
  k.attrs = n.attrs;
  for (const int in : n.inputs) {
    const View& v = c.views[static_cast<std::size_t>(in)];
    const GraphNode& x = c.graph.nodes[static_cast<std::size_t>(in)];
    k.inputs.push_back({c.buffer_of(v.base), x.dtype, x.shape, v.strides, v.offset});
    step.reads.push_back(k.inputs.back().buffer);
    step.bytes += static_cast<double>(bytes_of(x.shape, x.dtype));
  }
  // Kernels index their outputs, so those that nobody reads are there too, without memory.
  const InferResult types = infer_again(c, n);
  for (int i = 0; i < types.count; ++i) {
    const TensorType& t = types.types[static_cast<std::size_t>(i)];
    k.outputs.push_back({-1, t.dtype, t.shape, contiguous_strides(t.shape), 0});
  }
  auto bind = [&](int id, std::size_t at) {
    KernelStep::Operand& o = k.outputs.at(at);
    o.buffer = c.buffer_of(id);
    step.writes.push_back(o.buffer);
    step.bytes += static_cast<double>(bytes_of(o.shape, o.dtype));
  };
  if (types.count == 1) {
    bind(unit.single, 0);
    return step;
  }
  for (std::size_t i = static_cast<std::size_t>(unit.single) + 1; i < c.graph.nodes.size(); ++i) {
    const GraphNode& o = c.graph.nodes[i];
    if (o.op->kind == OpKind::output && o.inputs[0] == unit.single) bind(static_cast<int>(i), static_cast<std::size_t>(o.attrs[0]));
  }
  return step;
}

}  // namespace

std::vector<PlanStep> lower_unit(const LowerContext& c, const Unit& unit) {
  if (unit.single < 0) return UnitLowering(c, unit).run();
  const GraphNode& n = c.graph.nodes[static_cast<std::size_t>(unit.single)];
  if (n.op->kind == OpKind::matmul) return {lower_matmul(c, unit)};
  return {lower_kernel(c, unit)};
}

std::vector<int> last_stages(const KernelProgram& p) {
  std::vector<int> last(p.values.size());
  for (std::size_t i = 0; i < p.values.size(); ++i) last[i] = p.values[i].stage;
  for (std::size_t i = p.values.size(); i-- > 0;) {
    const KValue& v = p.values[i];
    const bool once = v.keep || !v.full || v.op == KOp::store || is_column_op(v.op);
    const int evaluated = once ? v.stage : last[i];
    const int gather = v.access >= 0 ? p.accesses[static_cast<std::size_t>(v.access)].gather : -1;
    for (const int id : {v.a, v.b, v.c, gather})
      if (id >= 0) last[static_cast<std::size_t>(id)] = std::max(last[static_cast<std::size_t>(id)], evaluated);
  }
  return last;
}

}  // namespace metal_candle
