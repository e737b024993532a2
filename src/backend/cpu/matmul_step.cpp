#include "backend/cpu/matmul_step.h"

#include <algorithm>

#include "backend/cpu/plain_product.h"
#include "metal_candle/error.hpp"

namespace metal_candle::cpu {
namespace {

// What a packed weight saves: with few rows, where it is read once, a product takes 1.2 to 6 times as long without. With
// many rows it is packed on the fly otherwise: 512 rows ran 8 to 15 % slower so. But a training step reads weights both
// ways, and at its many rows a copy of all weights costs more (0.44 GB and half a second of a first step, SmolLM2-135M in
// f32) than it gains: only 16-bit weights that would have to be turned around on the way have one, and no large ones.
constexpr std::int64_t kPackElements = 1024;
constexpr std::int64_t kFewRows = 256, kLargeWeight = 32 << 20;
// A squeezed weight spares a quarter of the wait for memory, which is all that few rows do: 1.27 x the tokens a second. Many
// rows compute, and take up to 4 % longer; a model's prompts read what its single tokens read, so that there is one form.
constexpr std::int64_t kDecodedRows = 14, kCachedBytes = 32 << 20, kModelBytes = 64 << 20;
constexpr std::int64_t kFetchPiece = 2 << 10;  // bytes; short against a task

Packing packing_of(std::int64_t rows, std::int64_t elements, std::int64_t element_bytes, bool turned) {
  const bool second = turned && element_bytes == 2 && elements * element_bytes <= kLargeWeight;
  return rows <= kFewRows || second ? Packing::always : Packing::spared;
}

/// Whether a product of the plan reads this weight the other way around.
bool read_both_ways(const Plan& plan, int buffer, bool turned) {
  const auto other_way = [&](const MatmulOperand& b) {
    return b.constant && b.buffer == buffer && (b.col_stride != 1) != turned;
  };
  return std::any_of(plan.steps.begin(), plan.steps.end(), [&](const PlanStep& s) {
    return s.kind == PlanStep::Kind::matmul && (other_way(s.matmul.b) || other_way(s.matmul.b2));
  });
}

/// Whether the plan's products read more weights than caches hold, so that each waits for memory again.
bool worth_squeezing(const Plan& plan, std::int64_t rows) {
  if (rows > kFewRows) return false;
  std::int64_t bytes = 0;
  for (const PlanStep& s : plan.steps)
    if (s.kind == PlanStep::Kind::matmul && s.matmul.b.constant && s.matmul.m <= kFewRows)
      bytes += s.matmul.n * s.matmul.k * static_cast<std::int64_t>(size_of(s.matmul.dtype));
  return bytes >= (rows <= kDecodedRows ? kCachedBytes : kModelBytes);
}

bool is_half(DType dtype) { return dtype == DType::bf16 || dtype == DType::f16; }

GemmType gemm_type(DType dtype) {
  switch (dtype) {
    case DType::f32: return GemmType::f32;
    case DType::bf16: return GemmType::bf16;
    case DType::f16: return GemmType::f16;
    case DType::i32: return GemmType::i32;
    default: return GemmType::f64;
  }
}

GemmType operand_type(const MatmulStep& s) {
  if (!s.bytes) return gemm_type(s.dtype);
  if (s.bytes->a_signed) return s.bytes->b_signed ? GemmType::i8 : GemmType::i8_u8;
  return s.bytes->b_signed ? GemmType::u8_i8 : GemmType::u8;
}

std::size_t round_up(std::size_t x) { return (x + 63) / 64 * 64; }

/// What a tile's sink needs.
struct TileContext {
  const RowProgram* program;
  const std::vector<FetchedRows>* fetched;
  const RunFrame* frame;
  std::int64_t m, first_batch;
  void* scratch;
};

void run_epilogue(void* user, const GemmTile& t) {
  const auto& c = *static_cast<const TileContext*>(user);
  const std::int64_t row0 = (c.first_batch + t.batch) * c.m + t.row0;
  c.program->run_tile(c.frame->buffers, c.frame->slots, row0, t.rows, t.col0, t.cols, t.data, t.ld, c.scratch);
}

void fetch_for_epilogue(void* user, const GemmTile& t) {
  const auto& c = *static_cast<const TileContext*>(user);
  const std::int64_t row0 = (c.first_batch + t.batch) * c.m + t.row0;
  for (const FetchedRows& f : *c.fetched) {
    const char* p = static_cast<const char*>(c.frame->buffers[f.buffer]) + f.offset + row0 * f.row + t.col0 * f.element;
    const std::int64_t bytes = t.cols * f.element;
    for (std::int64_t r = 0; r < t.rows; ++r, p += f.row)
      for (std::int64_t at = 0; at < bytes; at += 64) __builtin_prefetch(p + at, 0, 2);
  }
}

/// Bytes from one row of the program to the next, 0 where rows do not lie at one distance.
std::int64_t row_bytes(const KernelProgram& p, const KAccess& a) {
  std::int64_t inner = 0, rows = 1;
  for (std::size_t d = p.row_dims.size(); d-- > 0; rows *= p.row_dims[d]) {
    if (p.row_dims[d] == 1) continue;
    if (rows == 1) inner = a.row_strides[d];
    else if (a.row_strides[d] != inner * rows) return 0;
  }
  return inner * static_cast<std::int64_t>(size_of(a.dtype));
}

/// The program with the product read densely from memory, as `dtype`.
KernelProgram reading_memory(KernelProgram p, int tile, std::int64_t n, DType dtype) {
  for (KAccess& a : p.accesses) {
    if (a.buffer != tile) continue;
    a.dtype = dtype;
    a.offset = 0;
    a.col_stride = 1;
    a.row_strides.resize(p.row_dims.size());
    std::int64_t stride = n;
    for (std::size_t d = p.row_dims.size(); d-- > 0; stride *= p.row_dims[d]) a.row_strides[d] = stride;
  }
  return p;
}

}  // namespace

MatmulCallStep::MatmulCallStep(const Plan& plan, const PlanStep& step)
    : step_(step.matmul),
      dtype_(step.matmul.dtype),
      type_(operand_type(step.matmul)),
      product_dtype_(dtype_),
      shape_(simplify(step.matmul)) {
  plain_ = dtype_ == DType::i64;
  if (!is_float(dtype_) && !plain_ && dtype_ != DType::i32)
    throw InternalError("matmul of " + std::string(name(dtype_)));
  if (step_.epilogue) lower_epilogue(plan, step.program);
  if (!plain_) {
    choose_packing(plan);
    plan_product();
  }
  double work = 2.0 * static_cast<double>(shape_.batch) * static_cast<double>(shape_.m) * static_cast<double>(shape_.n);
  work *= static_cast<double>(shape_.k[0] + shape_.k[1]);
  nanoseconds_ = estimate(step.bytes, std::max(step.flops, work), plain_ ? 2 : dtype_ == DType::f64 ? 25 : 50);
}

bool MatmulCallStep::tile_epilogue(const KernelProgram& p) const {
  if (plain_ || dtype_ == DType::f64 || gathers(p) || !RowProgram::tileable(p) || p.stages[0].cols != step_.n)
    return false;
  return std::all_of(p.values.begin(), p.values.end(), [&](const KValue& v) {
    return v.op != KOp::load || p.accesses[static_cast<std::size_t>(v.access)].buffer != step_.tile || v.full;
  });
}

void MatmulCallStep::lower_epilogue(const Plan& plan, const KernelProgram& program) {
  if (is_half(dtype_)) product_dtype_ = DType::f32;
  const KernelProgram p = reading_memory(program, step_.tile, step_.n, product_dtype_);
  if (!tile_epilogue(p)) {
    second_ = std::make_unique<ProgramStep>(p, 0.0);
    return;
  }
  args_ = {.m = shape_.m, .n = shape_.n, .type = type_, .segments = {}, .sink = run_epilogue};
  const GemmTiling likely = plan_gemm(args_);
  const int lanes = family_of(current_kernels(), args_.type).lanes;
  const int cols = likely.swapped ? 64 : lanes << likely.width;
  tile_program_ = RowProgram::lower(p, {step_.tile, cols, !likely.swapped && cols == step_.n});
  find_fetched(plan, p);
}

void MatmulCallStep::find_fetched(const Plan& plan, const KernelProgram& p) {
  std::vector<int> seen;  // by memory: what is written in place is read as well
  for (const KAccess& a : p.accesses) {
    if (a.buffer == step_.tile || a.gather >= 0 || a.col_stride != 1 || a.stream || a.row_strides.empty()) continue;
    const std::int64_t row = row_bytes(p, a);
    if (row == 0) continue;
    int memory = a.buffer;
    while (plan.buffers[static_cast<std::size_t>(memory)].same_as >= 0)
      memory = plan.buffers[static_cast<std::size_t>(memory)].same_as;
    if (std::find(seen.begin(), seen.end(), memory) != seen.end()) continue;
    seen.push_back(memory);
    const auto element = static_cast<std::int64_t>(size_of(a.dtype));
    fetched_.push_back({a.buffer, a.offset * element, row, element});
  }
}

void MatmulCallStep::choose_packing(const Plan& plan) {
  for (std::size_t i = 0; i < 2; ++i) {
    const auto& side = shape_.sides[2 * i + 1];
    Weight& w = weights_[i];
    const std::int64_t elements = shape_.k[i] * shape_.n;
    if (!side.constant || shape_.empty() || elements < kPackElements) continue;
    const PlanBuffer& buffer = plan.buffers[static_cast<std::size_t>(side.buffer)];
    if (buffer.where != PlanBuffer::Where::leaf || shape_.extents.size() > WeightView::kMaxDims) continue;
    const bool turned = side.col_stride != 1;
    w.packing = packing_of(shape_.m, elements, element(), turned);
    if (w.packing == Packing::spared && read_both_ways(plan, side.buffer, turned)) continue;
    w.leaf = buffer.index;
    w.view = {.n = shape_.n,
              .k = shape_.k[i],
              .row_stride = side.row_stride,
              .col_stride = side.col_stride,
              .type = type_,
              .isa = gemm_isa_name()};
    w.view.squeezed = i == 0 && worth_squeezing(plan, shape_.m) && squeezes_b(w.view.shape());
    place_entries(i);
    for (std::size_t d = 0; d < shape_.extents.size(); ++d) {
      if (side.strides[d] == 0) continue;
      w.view.extents[w.view.dims] = shape_.extents[d];
      w.view.strides[w.view.dims++] = side.strides[d];
    }
  }
}

/// Where a batch's packed matrices lie.
void MatmulCallStep::place_entries(std::size_t i) {
  Weight& w = weights_[i];
  std::int64_t bytes = static_cast<std::int64_t>(w.view.entry_bytes());
  w.strides.assign(shape_.extents.size(), 0);
  for (std::size_t d = shape_.extents.size(); d-- > 0;) {
    if (shape_.sides[2 * i + 1].strides[d] == 0) continue;
    w.strides[d] = bytes;
    bytes *= shape_.extents[d];
  }
}

void MatmulCallStep::plan_product() {
  const bool batched = !shape_.extents.empty();
  args_ = {};
  args_.m = shape_.m;
  args_.n = shape_.n;
  args_.type = type_;
  args_.batch = batched ? shape_.extents.back() : 1;
  outer_ = shape_.empty() ? 0 : shape_.batch / args_.batch;
  for (std::size_t i = 0; i < 2; ++i) {
    GemmSegment& g = args_.segments[i];
    const auto &a = shape_.sides[2 * i], &b = shape_.sides[2 * i + 1];
    g.k = shape_.k[i];
    g.a = {nullptr, a.row_stride, a.col_stride};
    g.b = {nullptr, b.row_stride, b.col_stride};
    g.b_packed = weights_[i].leaf >= 0;
    g.b_squeezed = g.b_packed && weights_[i].view.squeezed;
    if (!batched) continue;
    g.a_batch = a.strides.back();
    g.b_batch = g.b_packed ? weights_[i].strides.back() : b.strides.back();
  }
  args_.c_type = gemm_type(product_dtype_);
  args_.c_row_stride = shape_.n;
  args_.c_batch = shape_.m * shape_.n;
  if (tile_program_) args_.sink = run_epilogue;
  if (!fetched_.empty()) args_.fetch = fetch_for_epilogue;
  tiling_ = shape_.empty() ? GemmTiling{} : plan_gemm(args_);
  gemm_scratch_ = round_up(tiling_.scratch_bytes);
  const Weight& w = weights_[0];
  fetch_bytes_ = w.leaf >= 0 && streams() ? static_cast<std::int64_t>(w.view.entry_bytes()) : 0;
}

std::int64_t MatmulCallStep::tasks(int round) const {
  if (round == 1) return second_->tasks(0);
  if (shape_.empty()) return 0;
  if (!plain_) return outer_ * tiling_.jobs;
  const std::int64_t rows = plain_rows(shape_);
  return shape_.batch * ((shape_.m + rows - 1) / rows);
}

std::size_t MatmulCallStep::scratch_bytes() const {
  const std::size_t program = tile_program_ ? tile_program_->scratch_bytes() : 0;
  return std::max(gemm_scratch_ + program, second_ ? second_->scratch_bytes() : 0);
}

std::size_t MatmulCallStep::shared_bytes() const {
  if (!second_) return 0;
  return static_cast<std::size_t>(shape_.batch * shape_.m * shape_.n) * size_of(product_dtype_);
}

void MatmulCallStep::foretell(const Bindings& bindings, PackingForecast& forecast) const {
  for (std::size_t i = 0; i < 2; ++i) {
    const auto leaf = static_cast<std::size_t>(weights_[i].leaf);
    if (weights_[i].leaf < 0) continue;
    const Storage& storage = *bindings.leaves[leaf];
    const char* first = static_cast<const char*>(bindings.leaf_data[leaf]) + shape_.sides[2 * i + 1].offset * element();
    WeightView view = weights_[i].view;
    view.offset = first - static_cast<const char*>(storage.data);
    forecast.add(storage, view, weights_[i].packing);
  }
}

bool MatmulCallStep::bind(const RunFrame& frame) {
  for (std::size_t i = 0; i < 4; ++i)
    if (shape_.sides[i].buffer >= 0) bases_[i] = static_cast<const char*>(frame.buffers[shape_.sides[i].buffer]);
  out_ = static_cast<char*>(second_ ? shared_ : step_.epilogue ? nullptr : frame.buffers[step_.out]);
  // A tile program never reads this address, but computes others from it.
  if (step_.tile >= 0) frame.buffers[step_.tile] = second_ ? shared_ : static_cast<void*>(this);
  threads_ = std::max(1, frame.threads);
  if (frame.same_constants || find_packed(frame)) return true;
  plan_product();
  return false;
}

/// False: a weight that was to be packed has no storage to keep the packed form, or is spared, and is used as it is from
/// now on; or it cannot be squeezed, and is packed as others are.
bool MatmulCallStep::find_packed(const RunFrame& frame) {
  bool as_planned = true;
  for (std::size_t i = 0; i < 2; ++i) {
    Weight& w = weights_[i];
    if (w.leaf < 0) continue;
    packed_[i] = find_packed(frame, i);
    if (packed_[i] != nullptr) continue;
    as_planned = false;
    if (w.view.squeezed) {
      w.view.squeezed = false;
      place_entries(i);
      packed_[i] = find_packed(frame, i);
    }
    if (packed_[i] == nullptr) w.leaf = -1;
  }
  return as_planned;
}

const char* MatmulCallStep::find_packed(const RunFrame& frame, std::size_t i) {
  Weight& w = weights_[i];
  Storage* storage = w.leaf < frame.leaf_count ? frame.leaves[w.leaf] : nullptr;
  if (storage == nullptr || storage->data == nullptr) return nullptr;
  const char* first = bases_[2 * i + 1] + shape_.sides[2 * i + 1].offset * element();
  w.view.offset = first - static_cast<const char*>(storage->data);
  return packed_weight(*storage, w.view, frame.threads, w.packing);
}

void MatmulCallStep::run(const RunFrame& frame, int round, std::int64_t task, void* scratch, std::int64_t before) {
  if (round == 1) second_->run(frame, 0, task, scratch, before);
  else if (plain_) run_plain(task);
  else run_gemm(frame, task, static_cast<char*>(scratch), before);
}

// A packed weight that few rows go over is all that such a product waits for. It is cut in one stretch of jobs for each
// thread. Task t is the next job of stretch t % threads: threads that take tasks in turn go through memory in order, and
// what a kernel asks for behind the end of its job is what it needs next.

/// The first job of a stretch.
std::int64_t MatmulCallStep::stretch(std::int64_t index) const {
  return index * (tiling_.jobs / threads_) + std::min(index, tiling_.jobs % threads_);
}

std::int64_t MatmulCallStep::pieces_to_fetch() const { return fetch_bytes_ / kFetchPiece; }

void MatmulCallStep::fetch(std::int64_t piece) const {
  const std::int64_t begin = fetch_bytes_ * stretch(piece % threads_) / tiling_.jobs + piece / threads_ * kFetchPiece;
  for (std::int64_t at = begin; at < std::min(fetch_bytes_, begin + kFetchPiece); at += 64)
    __builtin_prefetch(packed_[0] + at, 0, 2);
}

void MatmulCallStep::run_gemm(const RunFrame& frame, std::int64_t task, char* scratch, std::int64_t before) {
  const std::int64_t first = task / tiling_.jobs * args_.batch;
  GemmArgs args = args_;
  for (std::size_t i = 0; i < 2; ++i) {
    GemmSegment& g = args.segments[i];
    if (g.k == 0) continue;
    g.a.data = bases_[2 * i] + shape_.offset(shape_.sides[2 * i], first) * element();
    if (!g.b_packed) {
      g.b.data = bases_[2 * i + 1] + shape_.offset(shape_.sides[2 * i + 1], first) * element();
      continue;
    }
    const char* at = packed_[i];
    std::int64_t index = first;
    for (std::size_t d = shape_.extents.size(); d-- > 0; index /= shape_.extents[d])
      at += index % shape_.extents[d] * weights_[i].strides[d];
    g.b.data = at;
  }
  TileContext context{tile_program_.get(), &fetched_, &frame, shape_.m, first, scratch + gemm_scratch_};
  args.user = &context;
  if (!tile_program_) args.c = out_ + first * shape_.m * shape_.n * static_cast<std::int64_t>(size_of(product_dtype_));
  if (streams()) return run_gemm_job(args, tiling_, stretch(task % threads_) + task / threads_, scratch);
  const bool same_product = before >= 0 && before / tiling_.jobs == task / tiling_.jobs;
  run_gemm_job(args, tiling_, task % tiling_.jobs, scratch, same_product ? before % tiling_.jobs : -1);
}

void MatmulCallStep::run_plain(std::int64_t task) {
  const std::int64_t rows = plain_rows(shape_), blocks = (shape_.m + rows - 1) / rows;
  const std::int64_t row = task % blocks * rows;
  plain_product(shape_, bases_, task / blocks, row, std::min(shape_.m, row + rows), out_);
}

std::unique_ptr<Step> lower_matmul(const Plan& plan, const PlanStep& step) {
  return std::make_unique<MatmulCallStep>(plan, step);
}

}  // namespace metal_candle::cpu
