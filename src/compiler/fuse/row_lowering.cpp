#include "compiler/fuse/row_lowering.h"

#include <algorithm>
#include <map>
#include <set>

namespace metal_candle {

DType memory_dtype(RegType t) {
  switch (t) {
    case RegType::f32: return DType::f32;
    case RegType::f64: return DType::f64;
    case RegType::i32: return DType::i32;
    case RegType::i64: break;
  }
  return DType::i64;
}

std::size_t bytes_of(const Shape& shape, DType dtype) {
  return static_cast<std::size_t>(shape.numel()) * size_of(dtype);
}

RowLowering::RowLowering(const LowerContext& context, const Unit& unit)
    : c_(context), unit_(unit), builder_(program_rows(), context.caps.keep_row_bytes) {}

std::vector<PlanStep> RowLowering::run() {
  // The product whose tiles the program runs on is a load from the tile.
  if (unit_.single >= 0) tile_ = c_.new_tile();
  for (const int m : unit_.members) value_of(m);
  for (const int m : unit_.members) store(m);
  if (unit_.single >= 0) store_product();
  PlanStep step;
  step.kind = PlanStep::Kind::fused;
  step.program = builder_.finish(batch_, chunks_);
  describe(step);
  steps_.push_back(std::move(step));
  for (PlanStep& s : endings_) steps_.push_back(std::move(s));
  return std::move(steps_);
}

bool RowLowering::mine(int i) const {
  const auto& unit_of = c_.fusion.unit_of;
  const int own = unit_of[static_cast<std::size_t>(unit_.members[0])];
  return unit_of[static_cast<std::size_t>(i)] == own && i != unit_.single;
}

std::int64_t RowLowering::program_rows() const {
  if (unit_.single < 0) return unit_.rows;
  const Shape& s = node(unit_.single).shape;
  return s.numel() / s.dim(-1);
}

/// Columns of a full place of `shape`; 1 while the split is open.
std::int64_t RowLowering::cols_of(const Shape& shape) const {
  const std::int64_t rows = program_rows();
  return rows == 0 ? 1 : std::max<std::int64_t>(shape.numel() / rows, 1);
}

void RowLowering::store(int i) {
  if (!stored(i) || role(i) == Role::column) return;
  const bool full = role(i) == Role::full;
  cols_now_ = full ? cols_of(node(i).shape) : 1;
  store(i, full ? builder_.widen(value_of(i), cols_now_) : value_of(i), full);
}

/// A product that somebody else reads as well goes from its tiles to memory.
void RowLowering::store_product() {
  const int i = unit_.single;
  if (!stored(i)) return;
  const Shape& shape = node(i).shape;
  cols_now_ = cols_of(shape);
  store(i, load(i, contiguous_strides(shape), shape, true), true);
}

void RowLowering::store(int i, int value, bool full) {
  const GraphNode& n = node(i);
  KValue v;
  v.op = KOp::store;
  v.a = value;
  v.type = builder_.value(v.a).type;
  v.full = full;
  Access a;
  a.access.buffer = c_.buffer_of(i);
  a.access.dtype = n.dtype;
  a.access.stream = full && c_.streams(i);
  a.shape = n.shape;
  a.strides = contiguous_strides(n.shape);
  a.full = full;
  a.cols = cols_now_;
  v.access = builder_.add_access(a);
  builder_.add(v, cols_now_);
}

// ---- what the step says of itself -----------------------------------------------------------------------------------

void RowLowering::describe(PlanStep& step) const {
  describe_buffers(step);
  std::string_view origin;
  for (const int m : unit_.members) {
    const GraphNode& n = node(m);
    const std::string_view what = n.origin.empty() ? n.op->name : n.origin;
    if (what == origin) continue;
    origin = what;
    if (!step.scope || step.scope->empty()) step.scope = n.scope;
    if (step.label.size() >= 60) continue;
    if (!step.label.empty()) step.label += '+';
    step.label += what;
  }
  describe_traffic(step);
}

void RowLowering::describe_buffers(PlanStep& step) const {
  for (const KValue& v : step.program.values) {
    if (v.access < 0) continue;
    const int b = step.program.accesses[static_cast<std::size_t>(v.access)].buffer;
    auto& list = v.op == KOp::load ? step.reads : step.writes;
    if (std::find(list.begin(), list.end(), b) == list.end()) list.push_back(b);
  }
}

namespace {

std::vector<std::int64_t> listed(const Shape& s) { return {s.dims().begin(), s.dims().end()}; }

/// The places that a view looks at: along an axis without a stride there is one.
Shape reached(Shape shape, const Shape& strides) {
  for (int d = 0; d < shape.rank(); ++d)
    if (strides[d] == 0) shape[d] = std::min<std::int64_t>(shape[d], 1);
  return shape;
}

}  // namespace

void RowLowering::describe_traffic(PlanStep& step) const {
  for (const int m : unit_.members) {
    const GraphNode& n = node(m);
    const Shape& space = n.op->kind == OpKind::reduce ? node(n.inputs[0]).shape : n.shape;
    step.flops += static_cast<double>(space.numel());
    if (stored(m)) step.bytes += static_cast<double>(bytes_of(n.shape, n.dtype));
  }
  std::set<LoadKey> seen;
  std::map<int, double> read;  // by base
  for (const int m : unit_.members)
    for (const int in : node(m).inputs) {
      const View& v = view(in);
      if (mine(v.base) || v.base == unit_.single || node(v.base).op->kind == OpKind::scalar) continue;
      if (node(m).op->kind == OpKind::gather && in == node(m).inputs[0]) {
        step.bytes += static_cast<double>(bytes_of(node(m).shape, node(m).dtype));  // the rows that are named
      } else if (const Shape& shape = node(in).shape;
                 !inlined(v.base) && seen.insert({v.base, v.offset, listed(shape), listed(v.strides)}).second) {
        read[v.base] += static_cast<double>(bytes_of(reached(shape, v.strides), node(in).dtype));
      }
    }
  for (const auto& [base, bytes] : read)
    step.bytes += std::min(bytes, static_cast<double>(bytes_of(node(base).shape, node(base).dtype)));
}

}  // namespace metal_candle
