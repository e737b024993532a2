// How the members of a fused unit get their inputs: numbers, values of the same program, indices, loads.
#include "compiler/fuse/row_lowering.h"
#include "compiler/fuse/spaces.h"
#include "metal_candle/elementwise.hpp"
#include "metal_candle/error.hpp"
#include "ops/table.h"

namespace metal_candle {
namespace {

/// Whether a row of `cols` elements is one element again and again.
bool repeats(const Shape& shape, const Shape& strides, std::int64_t cols) {
  std::int64_t p = 1;
  for (int d = shape.rank() - 1; d >= 0 && p < cols; --d) {
    if (shape[d] != 1 && strides[d] != 0) return false;
    p *= shape[d];
  }
  return p == cols;
}

/// The access to the one element of each row of `cols`.
void make_row(ProgramBuilder::Access& a, std::int64_t cols) {
  std::int64_t p = 1;
  for (int d = a.shape.rank() - 1; d >= 0 && p < cols; --d) {
    p *= a.shape[d];
    a.shape[d] = 1;
  }
  a.full = false;
  a.cols = 1;
}

/// Whether rows of `cols` elements lie at one stride.
bool one_stride(const Shape& shape, const Shape& strides, std::int64_t cols) {
  return columns_cut(shape, cols) && uniform_columns(shape, strides, cols);
}

/// The same where a row ends within an axis: a long one that was cut in parts.
bool one_stride_within(const Shape& shape, const Shape& strides, std::int64_t cols) {
  std::int64_t p = 1;
  int d = shape.rank();
  while (d > 0 && p < cols) {
    if (p == 0 || cols % p != 0) return false;
    p *= shape[--d];
  }
  return p > cols && p % cols == 0 && strides[d] != 0 && uniform_columns(shape, strides, cols);
}

bool is_narrow(DType t) {
  return t == DType::bf16 || t == DType::f16 || t == DType::i8 || t == DType::u8 || t == DType::boolean;
}

std::vector<std::int64_t> as_vector(const Shape& s) { return {s.begin(), s.end()}; }

}  // namespace

int RowLowering::number(const GraphNode& n, RegType type) {
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

int RowLowering::cast(int id, RegType type, DType to) {
  KValue v;
  v.op = KOp::cast;
  v.type = type;
  v.to = to;
  v.a = id;
  v.full = builder_.value(id).full;
  return builder_.add(v, cols_now_);
}

/// Input `k` of `n` as it is needed at places of `shape` (full) or rows of it.
int RowLowering::operand(const GraphNode& n, std::size_t k, const Shape& shape, bool full, RegType type) {
  const int in = n.inputs[k];
  const View& v = view(in);
  const GraphNode& base = node(v.base);
  if (base.op->kind == OpKind::scalar) return number(base, type);
  const Shape strides = broadcast_strides(node(in).shape, v.strides, shape);
  if (inlined(v.base)) return inline_value(base, v, strides, shape, full, type);
  if (mine(v.base)) return value_of(v.base);
  return load(in, strides, shape, full);
}

int RowLowering::inline_value(const GraphNode& base, const View& v, const Shape& strides, const Shape& shape, bool full,
                              RegType type) {
  if (base.op->code == ops::kFull) return inline_full(base, type);
  if (base.op->code == ops::kIota) return inline_iota(base, v, strides, shape, full);
  const auto known = values_.find(v.base);  // arithmetic on numbers
  if (known != values_.end()) return known->second;
  return values_[v.base] = elementwise(base, false);
}

int RowLowering::inline_full(const GraphNode& base, RegType type) {
  const int id = number(node(view(base.inputs[0]).base), reg_type(base.dtype));
  return is_narrow(base.dtype) ? cast(id, type, base.dtype) : id;
}

int RowLowering::inline_iota(const GraphNode& base, const View& v, const Shape& strides, const Shape& shape,
                             bool full) {
  Shape steps;
  std::int64_t first;
  if (!iota_steps(base, v.offset, shape, strides, steps, first))
    throw InternalError("iota behind a view that is not understood");
  if (full && !one_stride(shape, steps, cols_now_)) return written_index(base, shape, steps, first);
  const int id = counted(builder_, shape, steps, first, full, full ? cols_now_ : 1);
  const RegType type = reg_type(base.dtype);
  // What is narrower than a register is what it would be in memory: it wraps, or is rounded.
  if (type == RegType::i64 || (raw_index_ && !is_narrow(base.dtype))) return id;
  return cast(id, type, base.dtype);
}

/// `first` + Σ place·steps.
int RowLowering::counted(ProgramBuilder& b, const Shape& shape, const Shape& steps, std::int64_t first, bool full,
                         std::int64_t cols) {
  KValue v;
  v.a = b.index(shape, steps, full, cols);
  if (first == 0) return v.a;
  KValue start;
  start.op = KOp::literal;
  start.type = RegType::i64;
  start.literal_int = first;
  v.op = KOp::map;
  v.code = static_cast<std::uint16_t>(Elementwise::add);
  v.type = RegType::i64;
  v.b = b.add(start);
  v.full = full;
  return b.add(v, cols);
}

int RowLowering::load(int in, const Shape& strides, const Shape& shape, bool full) {
  const View& v = view(in);
  const bool from_tile = v.base == unit_.single;
  Access a;
  a.access.dtype = from_tile ? DType::f32 : node(in).dtype;
  a.access.offset = v.offset;
  a.access.buffer = from_tile ? tile_ : c_.buffer_of(v.base);
  a.shape = shape;
  a.strides = strides;
  a.full = full;
  a.cols = full ? cols_now_ : 1;
  const LoadKey key{a.access.buffer, v.offset, as_vector(shape), as_vector(strides)};
  const auto found = loads_.find(key);
  if (found != loads_.end() && builder_.value(found->second).full == full) return found->second;
  if (full && !one_stride(shape, strides, cols_now_) && !one_stride_within(shape, strides, cols_now_))
    a = copied(a, in, shape, strides);
  KValue value;
  value.op = KOp::load;
  value.type = reg_type(node(in).dtype);
  // What repeats along its row is loaded once a row.
  if (full && program_rows() > 0 && cols_now_ > 1 && repeats(shape, strides, cols_now_)) {
    make_row(a, cols_now_);
    full = false;
  }
  value.full = full;
  value.access = builder_.add_access(a);
  const int id = builder_.add(value, full ? cols_now_ : 1);
  loads_[key] = id;
  return id;
}

/// Columns must lie at one stride: where they do not, a copy of the operand does.
RowLowering::Access RowLowering::copied(Access a, int in, const Shape& shape, const Shape& strides) {
  ProgramBuilder b(0, 0);
  Access from = a;
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

int RowLowering::written_index(const GraphNode& base, const Shape& shape, const Shape& steps, std::int64_t first) {
  ProgramBuilder b(0, 0);
  KValue c;
  c.op = KOp::cast;
  c.type = reg_type(base.dtype);
  c.to = base.dtype;
  c.full = true;
  c.a = counted(b, shape, steps, first, true, 1);
  const int value = b.add(c);
  KValue l;
  l.op = KOp::load;
  l.type = c.type;
  l.full = true;
  l.access = builder_.add_access(written_first(b, value, base, shape, {}));
  return builder_.add(l, cols_now_);
}

/// A step before this one that stores `value` densely; returns the access that reads it here.
RowLowering::Access RowLowering::written_first(ProgramBuilder& b, int value, const GraphNode& like, const Shape& shape,
                                               std::vector<int> reads) {
  Access to;
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

}  // namespace metal_candle
