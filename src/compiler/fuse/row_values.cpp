// What the members of a fused unit compute.
#include <algorithm>
#include <cmath>
#include <iterator>
#include <utility>

#include "compiler/fuse/row_lowering.h"
#include "compiler/fuse/spaces.h"
#include "metal_candle/elementwise.hpp"
#include "metal_candle/error.hpp"
#include "ops/table.h"

namespace metal_candle {
namespace {

KOp plus(KOp first, int code) { return static_cast<KOp>(static_cast<int>(first) + code); }

bool is_half(DType t) { return t == DType::bf16 || t == DType::f16; }

/// Whether an op of the table on numbers of 8 bits can give one that has more. What does not compute (max, relu, sign)
/// gives one of its operands or a number that fits; a literal that does not fit is refused when it is recorded.
bool leaves_range(const GraphNode& n) {
  if (n.dtype != DType::i8 && n.dtype != DType::u8) return false;
  switch (static_cast<Elementwise>(n.op->code)) {
    case Elementwise::neg:
    case Elementwise::abs:
    case Elementwise::square:
    case Elementwise::add:
    case Elementwise::sub:
    case Elementwise::mul: return true;
    default: return false;
  }
}

/// Whether a number a little beside its operand gives another result altogether.
bool decides(const GraphNode& n) {
  switch (static_cast<Elementwise>(n.op->code)) {
    case Elementwise::floor:
    case Elementwise::ceil:
    case Elementwise::round:
    case Elementwise::sign: return true;
    default: return n.dtype == DType::boolean;
  }
}

/// Parts, so that many threads find work and no chain of sums is long; their number depends on shapes only.
std::int64_t parts_of_columns(std::int64_t rows, std::int64_t elements) {
  const std::int64_t for_threads = std::clamp<std::int64_t>(elements / (1 << 16), 1, std::min<std::int64_t>(rows, 16));
  // The parts are a chain, too.
  const std::int64_t longest = std::max<std::int64_t>(1024, static_cast<std::int64_t>(std::sqrt(rows)));
  return std::max(for_threads, rows / longest);
}

}  // namespace

int RowLowering::value_of(int i) {
  const auto found = values_.find(i);
  if (found != values_.end()) return found->second;
  const GraphNode& n = node(i);
  const bool reduces = n.op->kind == OpKind::reduce;
  const Shape& space = reduces ? node(n.inputs[0]).shape : n.shape;
  const bool full = role(i) != Role::row || reduces;
  const std::int64_t outer = std::exchange(cols_now_, full ? cols_of(space) : 1);
  const int id = reduces ? reduce(i) : n.op->kind == OpKind::gather ? gather(n, full) : elementwise(n, full);
  cols_now_ = outer;
  values_[i] = id;
  return id;
}

// ---- reductions -----------------------------------------------------------------------------------------------------

int RowLowering::reduce(int i) {
  const GraphNode& n = node(i);
  const GraphNode& in = node(n.inputs[0]);
  const bool index = n.op->code >= ops::kArgMax;
  int x = operand(n, 0, in.shape, true, reg_type(in.dtype));
  if (index) x = as_stored(x, in.dtype);
  x = builder_.widen(x, cols_now_);
  if (role(i) == Role::column) return column(i, x);
  KValue v;
  v.op = plus(KOp::reduce_sum, n.op->code);
  v.type = index ? RegType::i32 : builder_.value(x).type;
  v.a = x;
  return narrowed(builder_.add(v, cols_now_), n.dtype);
}

/// bf16 sums are rounded where the op says that its result is bf16; wider ones are as they are.
int RowLowering::narrowed(int id, DType dtype) {
  const RegType want = reg_type(dtype);
  return builder_.value(id).type == want ? id : cast(id, want, dtype);
}

int RowLowering::column(int i, int x) {
  const GraphNode& n = node(i);
  const Shape& in = node(n.inputs[0]).shape;
  const std::int64_t batch = column_batch(c_.graph, n);
  const std::int64_t cols = cols_now_, rows_per_batch = in.numel() / cols / batch;
  if (columns_ > 0 && batch != batch_) throw InternalError("column reductions over different rows in one kernel");
  batch_ = batch;
  if (columns_++ == 0) chunks_ = parts_of_columns(rows_per_batch, in.numel() / batch);
  KValue v;
  v.op = plus(KOp::col_sum, n.op->code);
  v.type = builder_.value(x).type;
  v.full = true;
  v.a = x;
  KAccess a;
  a.dtype = n.dtype;
  if (chunks_ > 1) {
    a.dtype = memory_dtype(v.type);
    a.buffer = c_.new_buffer(static_cast<std::size_t>(batch * chunks_ * cols) * size_of(a.dtype));
    endings_.push_back(ending(n, i, a.buffer, a.dtype, cols));
  } else {
    a.buffer = c_.buffer_of(i);
  }
  v.access = builder_.add_access(column_access(n, a));
  return builder_.add(v, cols);
}

/// Dense [batch, chunks, columns] by definition; only the column stride is looked at.
RowLowering::Access RowLowering::column_access(const GraphNode& n, const KAccess& to) const {
  const Shape& in = node(n.inputs[0]).shape;
  Access access;
  access.access = to;
  access.shape = in;
  access.strides = in;
  for (int d = 0; d < in.rank(); ++d) access.strides[d] = 0;
  access.strides[in.rank() - 1] = in[in.rank() - 1] == 1 ? 0 : 1;
  access.full = true;
  access.cols = cols_now_;
  std::int64_t p = 1;
  for (int d = in.rank() - 1; d >= 0 && p < cols_now_; --d) {
    access.strides[d] = p;
    p *= in[d];
  }
  return access;
}

/// Adds up the parts of a column reduction, in order.
PlanStep RowLowering::ending(const GraphNode& n, int i, int parts, DType part, std::int64_t cols) {
  const Shape shape{batch_ * chunks_, cols};
  ProgramBuilder b(batch_ * chunks_, c_.caps.keep_row_bytes);
  Access from;
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
  v.op = plus(KOp::col_sum, n.op->code);
  v.a = b.add(l, cols);
  Access to = from;
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
  step.bytes = static_cast<double>(bytes_of(shape, part));
  return step;
}

// ---- the rest -------------------------------------------------------------------------------------------------------

int RowLowering::gather(const GraphNode& n, bool full) {
  const View& table = view(n.inputs[0]);
  const Shape& extents = node(n.inputs[0]).shape;
  const GraphNode& indices = node(n.inputs[1]);
  const RegType index_type = reg_type(indices.dtype);
  const bool take = n.op->code == ops::kTake;
  const int axis = take ? 0 : static_cast<int>(n.attrs[0]);
  Access a;
  a.access.dtype = n.dtype;
  a.access.buffer = c_.buffer_of(table.base);
  a.access.offset = table.offset;
  a.access.gather_stride = table.strides[axis];
  a.access.gather_extent = extents[axis];
  a.shape = n.shape;
  a.strides = n.shape;
  a.full = full;
  a.cols = full ? cols_now_ : 1;
  if (take) {
    const int lead = indices.shape.rank();
    for (int d = 0; d < n.shape.rank(); ++d) a.strides[d] = d < lead ? 0 : table.strides[d - lead + 1];
    const std::int64_t outer = std::exchange(cols_now_, 1);
    a.access.gather = operand(n, 1, indices.shape, false, index_type);
    cols_now_ = outer;
  } else {
    for (int d = 0; d < n.shape.rank(); ++d) a.strides[d] = d == axis ? 0 : table.strides[d];
    a.access.gather = operand(n, 1, n.shape, full, index_type);
  }
  KValue v;
  v.op = KOp::load;
  v.type = reg_type(n.dtype);
  v.full = full;
  v.access = builder_.add_access(a);
  return builder_.add(v, a.cols);
}

/// Adds `v`, which is full if one of its operands is.
int RowLowering::finished(KValue v) {
  v.full = false;
  for (const int id : {v.a, v.b, v.c})
    if (id >= 0 && builder_.value(id).full) v.full = true;
  return builder_.add(v, v.full ? cols_now_ : 1);
}

int RowLowering::elementwise(const GraphNode& n, bool full) {
  KValue v;
  v.type = reg_type(n.dtype);
  switch (n.op->code) {
    case ops::kWhere:
      v.op = KOp::select;
      v.a = operand(n, 0, n.shape, full, RegType::i32);
      v.b = operand(n, 1, n.shape, full, v.type);
      v.c = operand(n, 2, n.shape, full, v.type);
      return finished(v);
    case ops::kLogicalNot:
      v.op = KOp::logical_not;
      v.a = operand(n, 0, n.shape, full, RegType::i32);
      return finished(v);
    case ops::kCast: return cast_node(n, full);
    case ops::kFull:
    case ops::kIota: {
      const Shape strides = contiguous_strides(n.shape);
      return inline_value(n, View{-1, strides, 0, true}, strides, n.shape, full, v.type);
    }
    case ops::kRandomUniform:
    case ops::kRandomNormal: return random(n, full);
    case ops::kIdentity: return operand(n, 0, n.shape, full, v.type);
    default: return map(n, full);
  }
}

int RowLowering::map(const GraphNode& n, bool full) {
  KValue v;
  v.op = KOp::map;
  v.code = n.op->code;
  v.type = reg_type(n.dtype);
  // Where one input is a number, the other says which type is computed in.
  RegType type = n.inputs.empty() ? v.type : reg_type(node(n.inputs[0]).dtype);
  for (const int in : n.inputs)
    if (node(view(in).base).op->kind != OpKind::scalar) type = reg_type(node(in).dtype);
  if (compares_index(n)) {
    // An index is compared as it is counted, in i64; the other side, mostly one a row, is widened instead.
    raw_index_ = true;
    v.a = wide(operand(n, 0, n.shape, full, type));
    v.b = wide(operand(n, 1, n.shape, full, type));
    raw_index_ = false;
    return finished(v);
  }
  v.a = operand(n, 0, n.shape, full, type);
  if (n.inputs.size() > 1) v.b = operand(n, 1, n.shape, full, type);
  if (decides(n)) round_decided(n, v);
  const int id = finished(v);
  // Registers have 32 bits: what the next op sees must have wrapped as it would in memory.
  return leaves_range(n) ? cast(id, v.type, n.dtype) : id;
}

/// What is decided (a comparison, a whole number, a sign) is decided by what memory would hold. A value and its maximum,
/// or a value here and the same one that another kernel stored, differ in registers and are equal rounded: the maximum of
/// rounded ones is the rounded maximum.
void RowLowering::round_decided(const GraphNode& n, KValue& v) {
  const auto number = [&](int in) { return node(view(in).base).op->kind == OpKind::scalar; };
  // An f32 that was widened may meet one that was computed of unrounded ones: then neither is rounded.
  bool all = true;
  for (const int in : n.inputs) all = all && (number(in) || is_half(held_in(in)));
  if (!all) return;
  int* const operands[] = {&v.a, &v.b};
  for (std::size_t k = 0; k < std::min(n.inputs.size(), std::size(operands)); ++k)
    if (!number(n.inputs[k])) *operands[k] = as_stored(*operands[k], held_in(n.inputs[k]));
}

/// The type that node `in`'s numbers fit in: bf16 or f16 for what was only widened from it.
DType RowLowering::held_in(int in) const {
  const GraphNode& base = node(view(in).base);
  if (base.op != &ops::cast_def || base.dtype != DType::f32) return base.dtype;
  const DType from = node(base.inputs[0]).dtype;
  return is_half(from) ? from : base.dtype;
}

/// `id` rounded to a half type, unless it was loaded from such memory or cast to it.
int RowLowering::as_stored(int id, DType dtype) {
  if (!is_half(dtype)) return id;
  const KValue& v = builder_.value(id);
  if (v.op == KOp::load && builder_.access(v).dtype == dtype) return id;
  if (v.op == KOp::cast && v.to == dtype) return id;
  const auto [known, fresh] = rounded_.try_emplace(id, -1);
  if (fresh) known->second = cast(id, RegType::f32, dtype);
  return known->second;
}

bool RowLowering::compares_index(const GraphNode& n) const {
  if (n.inputs.size() != 2 || n.dtype != DType::boolean) return false;
  if (n.op->code >= static_cast<std::uint16_t>(Elementwise::kCount)) return false;
  bool index = false;
  for (const int in : n.inputs) {
    const GraphNode& base = node(view(in).base);
    if (!is_integer(base.dtype)) return false;
    index |= base.op->kind == OpKind::elementwise && base.op->code == ops::kIota;
  }
  return index;
}

int RowLowering::cast_node(const GraphNode& n, bool full) {
  const GraphNode& from = node(n.inputs[0]);
  int x = operand(n, 0, n.shape, full, reg_type(from.dtype));
  if (!is_float(n.dtype)) x = as_stored(x, held_in(n.inputs[0]));
  // A type that registers hold as it is takes what they hold: bf16 to f32, bool to i32.
  const RegType type = reg_type(n.dtype);
  const bool same =
      from.dtype == n.dtype || (reg_type(from.dtype) == type && (n.dtype == DType::f32 || n.dtype == DType::i32));
  return same ? x : cast(x, type, n.dtype);
}

int RowLowering::random(const GraphNode& n, bool full) {
  // The counter is the element's row-major number; with a key a row it is the column, so that a row's draw does not
  // depend on which row it is.
  Shape strides = contiguous_strides(n.shape);
  if (node(n.inputs[0]).shape.rank() > 0)
    for (int d = 0; d + 1 < strides.rank(); ++d) strides[d] = 0;
  KValue v;
  v.b = builder_.index(n.shape, strides, full, full ? cols_now_ : 1);
  v.op = n.op->code == ops::kRandomUniform ? KOp::random_uniform : KOp::random_normal;
  v.type = reg_type(n.dtype);
  v.a = operand(n, 0, n.shape, full, RegType::i64);
  v.full = full;
  const int id = builder_.add(v, full ? cols_now_ : 1);
  return v.type == RegType::f64 || n.dtype == DType::f32 ? id : cast(id, v.type, n.dtype);
}

}  // namespace metal_candle
