#include "backend/cpu/vm/shape.h"

#include <algorithm>

#include "metal_candle/error.hpp"

namespace metal_candle::cpu::vm {

bool is_row_reduce(KOp op) { return op >= KOp::reduce_sum && op <= KOp::reduce_argmin; }
bool is_column_reduce(KOp op) { return op >= KOp::col_sum && op <= KOp::col_prod; }
bool is_store(KOp op) { return op == KOp::store; }
bool has_result(KOp op) { return !is_store(op) && !is_column_reduce(op); }
Reduce reduce_of(KOp op) {
  const KOp first = is_row_reduce(op) ? KOp::reduce_sum : KOp::col_sum;
  return static_cast<Reduce>(static_cast<int>(op) - static_cast<int>(first));
}

namespace {

/// Drops row dimensions of one element and merges those that all accesses walk as one.
void collapse_rows(const KernelProgram& p, ProgramShape& s) {
  std::vector<int> group;  // last source dimension of each merged one
  for (int d = 0; d < static_cast<int>(p.row_dims.size()); ++d) {
    if (p.row_dims[d] == 1) continue;
    const bool merges = !group.empty() && std::all_of(p.accesses.begin(), p.accesses.end(), [&](const KAccess& a) {
      return a.row_strides.empty() || a.row_strides[group.back()] == a.row_strides[d] * p.row_dims[d];
    });
    if (merges) {
      group.back() = d;
      s.extents[s.dims - 1] *= p.row_dims[d];
    } else {
      if (s.dims == kMaxDims) throw InternalError("kernel program: too many row dimensions");
      group.push_back(d);
      s.extents[s.dims++] = p.row_dims[d];
    }
  }
  for (const KAccess& from : p.accesses) {
    Access a;
    a.buffer = from.buffer;
    a.dtype = from.dtype;
    a.size = dtype_size(from.dtype);
    a.offset = from.offset;
    a.col_stride = from.col_stride;
    a.dims = s.dims;
    for (int d = 0; d < s.dims; ++d) {
      a.extents[d] = s.extents[d];
      a.strides[d] = from.row_strides.empty() ? 0 : from.row_strides[group[d]];
    }
    a.stream = from.stream;
    a.gather_stride = from.gather_stride;
    a.gather_extent = from.gather_extent;
    s.accesses.push_back(a);
  }
}

Kind load_kind(const KernelProgram& p, const ProgramShape& s, const KValue& v, const TileUse& tile) {
  const Access& a = s.accesses[v.access];
  const int gather = p.accesses[v.access].gather;
  const Kind index = gather < 0 ? Kind::uniform : s.kinds[gather];
  if (v.full && a.buffer == tile.buffer) return Kind::full;
  if (v.full && (a.col_stride != 0 || index == Kind::full)) return Kind::full;
  const bool moves = std::any_of(a.strides, a.strides + a.dims, [](std::int64_t stride) { return stride != 0; });
  return moves || index != Kind::uniform ? Kind::row : Kind::uniform;
}

void find_kinds(const KernelProgram& p, ProgramShape& s, const TileUse& tile) {
  for (const KValue& v : p.values) {
    Kind kind = Kind::uniform;
    switch (v.op) {
      case KOp::literal:
      case KOp::slot: break;
      case KOp::load: kind = load_kind(p, s, v, tile); break;
      case KOp::row_index: kind = Kind::row; break;
      case KOp::col_index: kind = Kind::full; break;
      default:
        for (int operand : {v.a, v.b, v.c}) {
          if (operand >= 0) kind = std::max(kind, s.kinds[operand]);
        }
        if (is_row_reduce(v.op)) kind = Kind::row;
    }
    s.kinds.push_back(kind);
    if (v.access >= 0 && p.accesses[v.access].gather >= 0) {
      Access& a = s.accesses[v.access];
      const int gather = p.accesses[v.access].gather;
      a.gather = s.kinds[gather] == Kind::full ? Access::kByElement : Access::kByRow;
      a.gather64 = p.values[gather].type == RegType::i64;
    }
  }
}

/// Whether rows and columns are one contiguous walk for every access, so that blocks need not respect rows.
bool can_flatten(const KernelProgram& p, const ProgramShape& s) {
  if (s.row_reduces || s.column_reduces || p.stages.size() != 1 || s.dims > 1) return false;
  const std::int64_t cols = s.stage_cols[0];
  for (std::size_t i = 0; i < p.values.size(); ++i) {
    const KValue& v = p.values[i];
    if (v.op == KOp::row_index || v.op == KOp::col_index) return false;
    if (has_result(v.op) && s.kinds[i] == Kind::row) return false;
    if (v.op == KOp::store && !p.values[v.a].full) return false;
    if (v.access < 0 || (v.op == KOp::load && s.kinds[i] == Kind::uniform)) continue;
    const Access& a = s.accesses[v.access];
    if (a.gather != Access::kNone) return false;
    if (a.dims == 1 && a.strides[0] != cols * a.col_stride) return false;
  }
  return true;
}

void flatten(ProgramShape& s) {
  s.flat = true;
  s.stage_cols[0] *= s.rows;
  s.rows = 1;
  s.dims = 0;
  for (Access& a : s.accesses) a.dims = 0;
}

}  // namespace

ProgramShape analyze(const KernelProgram& p, const TileUse& tile) {
  ProgramShape s;
  s.rows = p.rows;
  for (const KStage& stage : p.stages) s.stage_cols.push_back(stage.cols);
  for (const KValue& v : p.values) {
    s.row_reduces |= is_row_reduce(v.op);
    s.column_reduces |= is_column_reduce(v.op);
  }
  collapse_rows(p, s);
  find_kinds(p, s, tile);
  if ((tile.buffer < 0 || tile.whole_rows) && can_flatten(p, s)) flatten(s);
  return s;
}

namespace {

int round_up(std::int64_t n, int to) { return static_cast<int>((n + to - 1) / to * to); }

/// A load or store whose rows are closer together than its columns: square blocks use whole cache lines.
bool is_transposed(const Access& a) {
  return a.dims > 0 && a.col_stride != 0 && a.col_stride != 1 &&
         std::abs(a.strides[a.dims - 1]) < std::abs(a.col_stride);
}

}  // namespace

void choose_block(const KernelProgram& p, const ProgramShape& s, int elements, const TileUse& tile, Body& body) {
  const bool free_columns = !s.row_reduces && p.stages.size() == 1;
  const bool transposed = std::any_of(s.accesses.begin(), s.accesses.end(), is_transposed);
  const bool any_full = std::find(s.kinds.begin(), s.kinds.end(), Kind::full) != s.kinds.end();
  body.rows = s.rows;
  body.dims = s.dims;
  std::copy(s.extents, s.extents + s.dims, body.extents);
  body.block_cols = elements;
  if (tile.buffer >= 0 && !s.flat)
    body.block_cols = std::min(elements, round_up(std::clamp(tile.cols, 1, 128), kLanes));
  body.flat_cols = s.flat ? p.stages[0].cols : 0;
  if (free_columns && transposed) body.block_cols = std::min(elements, 64);
  if (free_columns && s.column_reduces) body.block_cols = std::min(elements, 256);
  const std::int64_t widest = *std::max_element(s.stage_cols.begin(), s.stage_cols.end());
  body.pitch = round_up(std::clamp<std::int64_t>(widest, 1, body.block_cols), kLanes);
  std::int64_t rows = any_full ? std::max(1, elements / body.pitch) : elements;
  body.inner = std::max<std::int64_t>(s.rows, 1);
  if (s.dims > 1) {  // stay within the innermost dimension when that leaves blocks of some size
    const std::int64_t last = s.extents[s.dims - 1];
    if (last * body.pitch >= elements / 2 || last >= rows) body.inner = last;
  }
  body.block_rows = static_cast<int>(std::clamp<std::int64_t>(rows, 1, body.inner));
}

namespace {

/// Nanoseconds an element on a fast core, roughly.
double map_cost(Cost cost, RegType type) {
  const bool single = type == RegType::f32, wide = type == RegType::f64;
  switch (cost) {
    case Cost::simple:
    case Cost::divide: return single ? 0.02 : 0.15;
    case Cost::root:
    case Cost::series: return wide ? 12 : 0.12;
    case Cost::power: return wide ? 30 : 3;
  }
  return 0;
}
double value_cost(const KValue& v) {
  switch (v.op) {
    case KOp::load:
    case KOp::store: return 0.08;
    case KOp::map: return map_cost(info(static_cast<Elementwise>(v.code)).cost, v.type);
    case KOp::random_uniform:
    case KOp::random_normal: return v.type == RegType::f64 ? 30 : 1.5;
    case KOp::literal:
    case KOp::slot: return 0;
    default: return v.type == RegType::f32 ? 0.03 : 0.2;
  }
}

}  // namespace

void choose_tasks(const KernelProgram& p, const ProgramShape& s, Body& body) {
  constexpr double kTask = 15000;  // nanoseconds
  constexpr std::int64_t kMost = 4096, kFew = 256;
  double work = 0;
  bool row_store = false;
  std::int64_t widest = 0;
  for (std::size_t stage = 0; stage < p.stages.size(); ++stage) {
    double cost = 0;
    for (int i = p.stages[stage].begin; i < p.stages[stage].end; ++i) {
      cost += value_cost(p.values[i]);
      row_store |= is_store(p.values[i].op) && !p.values[p.values[i].a].full;
    }
    work += cost * static_cast<double>(std::max<std::int64_t>(s.stage_cols[stage], 4)) * static_cast<double>(s.rows);
    widest = std::max(widest, s.stage_cols[stage]);
  }
  const bool free_columns = !s.row_reduces && p.stages.size() == 1;
  std::int64_t wanted = std::clamp<std::int64_t>(static_cast<std::int64_t>(work / kTask), 1, kMost);
  // A task begins with what nobody has fetched, and ends waiting for its last stores.
  if (body.streams) wanted = std::min(wanted, kFew);
  body.batch = p.batch;
  body.chunks = p.col_chunks;
  if (s.column_reduces) {
    body.row_tasks = p.batch * p.col_chunks;
  } else {
    const std::int64_t blocks = (s.rows + body.block_rows - 1) / body.block_rows;
    const std::int64_t each = std::max<std::int64_t>(1, blocks / wanted);
    body.task_rows = each * body.block_rows;
    body.row_tasks = s.rows == 0 ? 0 : (s.rows + body.task_rows - 1) / body.task_rows;
  }
  body.task_cols = std::max<std::int64_t>(widest, 1);
  if (free_columns && body.row_tasks > 0 && wanted > body.row_tasks) {
    const int grain = s.column_reduces ? 1024 : body.block_cols;
    const std::int64_t ways = wanted / body.row_tasks;
    body.task_cols = std::max<std::int64_t>(1, (widest / ways + grain - 1) / grain) * grain;
    body.col_tasks = std::max<std::int64_t>(1, (widest + body.task_cols - 1) / body.task_cols);
  }
  body.tasks = body.row_tasks * body.col_tasks;
  if (widest == 0 && !row_store) body.tasks = 0;
}

}  // namespace metal_candle::cpu::vm
