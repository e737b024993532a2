// Running a body: blocks of rows, stages, blocks of columns, instructions.
#include <cstring>

#include "hwy/cache_control.h"

#include "backend/cpu/vm/body.h"
#include "backend/cpu/vm/scalar.h"
#include "backend/cpu/vm/shape.h"
#include "metal_candle/error.hpp"

namespace metal_candle::cpu {
namespace vm {
namespace {

class Runner {
 public:
  Runner(const Body& body, void* const* buffers, const std::uint64_t* slots, void* scratch, BadIndex* bad_index)
      : b_(body),
        scratch_(reinterpret_cast<char*>((reinterpret_cast<std::uintptr_t>(scratch) + 63) & ~std::uintptr_t{63})) {
    bases_ = reinterpret_cast<Base*>(scratch_);
    origins_ = reinterpret_cast<char**>(bases_ + b_.moving.size() + 1);
    bases_[0] = {scratch_, 0};
    for (std::size_t i = 0; i < b_.moving.size(); ++i) bases_[1 + i].stride = b_.moving[i].stride;
    f_.bases = bases_;
    f_.buffers = buffers;
    f_.bad_index = bad_index;
    f_.row_pitch = b_.pitch;
    if (!b_.constants.empty()) std::memcpy(scratch_ + b_.constants_offset, b_.constants.data(), b_.constants.size());
    for (const SlotUse& use : b_.slots) put_slot(use, slots[use.slot]);
  }

  void start() {
    f_.rows = f_.cols = 1;
    f_.row0 = f_.col0 = 0;
    execute(b_.init);
  }

  void task(std::int64_t index, Runner* second) {
    start();
    if (second != nullptr) second->start();
    const std::int64_t part = index / b_.col_tasks, c0 = index % b_.col_tasks * b_.task_cols;
    const std::int64_t c1 = c0 + b_.task_cols;
    if (b_.column_sums.empty()) {
      const std::int64_t begin = part * b_.task_rows, end = std::min(b_.rows, begin + b_.task_rows);
      if (second != nullptr) overlapping_rows(begin, end, *second);
      else if (b_.even) even_rows(begin, end);
      else rows(begin, end, c0, c1);
    } else {
      column_task(part, c0, c1);
    }
    if (b_.streams) hwy::FlushStream();
  }

  /// Where the tile would begin, were it a whole result: element (0, 0).
  void set_tile(const void* tile, std::int64_t ld, std::int64_t row0, std::int64_t col0) {
    tile_ = reinterpret_cast<char*>(reinterpret_cast<std::uintptr_t>(tile) -
                                    static_cast<std::uintptr_t>((row0 * ld + col0) * 4));
    tile_row_ = ld * 4;
  }

  void rows(std::int64_t begin, std::int64_t end, std::int64_t c0, std::int64_t c1) {
    for (std::int64_t r = begin; r < end;) {
      const std::int64_t n = std::min({static_cast<std::int64_t>(b_.block_rows), end - r, b_.inner - r % b_.inner});
      ahead_rows_ = std::min({n, end - r - n, b_.inner - r % b_.inner - n});
      block(r, static_cast<int>(n), c0, c1);
      r += n;
    }
  }

  /// Rows that differ in addresses alone. Between rows that are stored past the caches whatever else is written waits:
  /// here little is.
  void even_rows(std::int64_t begin, std::int64_t end) {
    open(begin, 1);
    f_.col0 = 0;
    for (const StageCode& stage : b_.stages) {
      if (stage.idle) continue;
      f_.cols = static_cast<int>(stage.cols);
      f_.stage_cols = stage.cols;
      place(stage);
      for (int i = stage.moving.begin; i < stage.moving.end; ++i) bases_[1 + i].ptr = origins_[i];
    }
    f_.rows = 1;
    Frame row_values = f_;
    row_values.cols = 1;
    const Base* ahead = b_.ahead.empty() ? nullptr : &bases_[1 + b_.ahead[0]];
    const std::int64_t distance = ahead == nullptr ? 0 : b_.ahead_of == Body::kColumns ? kFar : ahead->stride;
    for (std::int64_t r = begin; r < end; ++r) {
      f_.row0 = row_values.row0 = r;
      f_.fetch_next = ahead != nullptr && (r + 1 < end || b_.ahead_of == Body::kColumns);
      if (f_.fetch_next) f_.fetch = ahead->ptr + distance;
      for (const StageCode& stage : b_.stages) {
        execute(stage.pre, row_values);
        execute(stage.loop, f_);
        execute(stage.post, row_values);
      }
      for (std::size_t i = 0; i < b_.moving.size(); ++i)
        if (b_.moving[i].access != nullptr) bases_[1 + i].ptr += bases_[1 + i].stride;
    }
  }

  /// What the last stage of a row stores past the caches, the reductions of the next row store as they go along: memory
  /// takes it while they compute.
  void overlapping_rows(std::int64_t begin, std::int64_t end, Runner& second) {
    Runner *now = this, *before = &second;
    const StageCode& last = b_.stages.back();
    for (std::int64_t r = begin; r < end; ++r, std::swap(now, before)) {
      now->open(r, 1);
      now->ahead_rows_ = r + 1 < end && (r + 1) % b_.inner != 0;
      now->f_.rest = r == begin ? Rest{} : before->rest_of_row();
      if (r != begin && now->f_.rest.from == nullptr) before->walk(last, 0, last.cols);
      for (const StageCode& stage : b_.stages) {
        now->enter(stage, 0);
        if (&stage == &last) break;
        now->walk(stage, 0, stage.cols);
        now->execute_rows(stage.post, 1);
        now->f_.rest.begin += stage.cols >> b_.rest_shift;
      }
      if (r != begin) before->execute_rows(last.post, 1);
    }
    before->walk(last, 0, last.cols);
    before->execute_rows(last.post, 1);
  }

 private:
  static constexpr std::int64_t kFar = 8 << 10;  // bytes; what lies behind the last column is asked for in vain

  void put_slot(const SlotUse& use, std::uint64_t bits) {
    char* to = scratch_ + use.offset;
    double real;
    std::memcpy(&real, &bits, 8);
    const float single = static_cast<float>(real);
    const auto narrow = static_cast<std::int32_t>(static_cast<std::int64_t>(bits));
    switch (use.type) {
      case RegType::f32: std::memcpy(to, &single, 4); break;
      case RegType::f64:
      case RegType::i64: std::memcpy(to, &bits, 8); break;
      case RegType::i32: std::memcpy(to, &narrow, 4); break;
    }
  }

  void execute(Range range, const Frame& f) {
    const Instr* end = b_.code.data() + range.end;
    for (const Instr* i = b_.code.data() + range.begin; i != end; ++i) i->fn(*i, f);
  }
  void execute(Range range) { execute(range, f_); }

  void execute_rows(Range range, int rows) {
    if (range.begin == range.end) return;
    f_.rows = 1;
    f_.cols = rows;
    execute(range);
  }

  void block(std::int64_t row, int n, std::int64_t c0, std::int64_t c1) {
    open(row, n);
    for (const StageCode& stage : b_.stages) {
      if (stage.idle) continue;
      enter(stage, c0);
      if (stage.loop.begin != stage.loop.end) walk(stage, c0, std::min(stage.cols, c1));
      if (c0 == 0) execute_rows(stage.post, n);
    }
  }

  void open(std::int64_t row, int n) {
    f_.row0 = row;
    rows_ = n;
    for (int d = b_.dims - 1; d >= 0; --d) {
      index_[d] = row % b_.extents[d];
      row /= b_.extents[d];
    }
  }
  void enter(const StageCode& stage, std::int64_t c0) {
    f_.col0 = c0;
    f_.stage_cols = stage.cols;
    f_.fetch_next = stage.fetches && (ahead_rows_ > 0 || b_.ahead_of == Body::kColumns);
    execute_rows(stage.pre, rows_);
    place(stage);
    f_.rows = rows_;
  }
  void walk(const StageCode& stage, std::int64_t c, std::int64_t end) {
    do {  // at least once: a reduction over no columns has a value, too
      columns(stage, c, std::min<std::int64_t>(stage.piece, end - c), end);
      c += stage.piece;
    } while (c < end);
  }
  /// The row's last stage as something that another row's reductions do. Nothing if its results do not begin at a line.
  Rest rest_of_row() {
    const StageCode& last = b_.stages.back();
    const Instr& in = b_.code[static_cast<std::size_t>(last.loop.begin)];
    move_to(last, 0);
    float* to = at<float>(in.out, f_);
    if (reinterpret_cast<std::uintptr_t>(to) % 64 != 0) return {};
    return {at<const float>(in.a, f_), to, *at<const float>(in.b, f_), 0, b_.rest_op, b_.rest_shift};
  }
  void move_to(const StageCode& stage, std::int64_t c) {
    for (int i = stage.moving.begin; i < stage.moving.end; ++i) bases_[1 + i].ptr = origins_[i] + c * b_.moving[i].step;
  }
  /// n columns from c of a stage that ends at `end`.
  void columns(const StageCode& stage, std::int64_t c, std::int64_t n, std::int64_t end) {
    f_.col0 = c;
    f_.cols = static_cast<int>(n);
    move_to(stage, c);
    if (!b_.in_passing) return columns_with_fetches(stage, c, end);
    if (f_.fetch_next) {
      const int i = b_.ahead[0];
      f_.fetch = origins_[i] + c * 4 + (b_.ahead_of == Body::kColumns ? kFar : bases_[1 + i].stride);
    }
    execute(stage.loop);
  }
  HWY_NOINLINE void columns_with_fetches(const StageCode& stage, std::int64_t c, std::int64_t end) {
    if (!b_.ahead.empty() && find_ahead(stage, rows_, c, end)) {
      execute_fetching(stage);
    } else {
      execute(stage.loop);
    }
  }

  /// What is read after this block, if it is known: the next block's columns, or the share of the next rows that falls
  /// to this block, so that all stages of a row together fetch the next one.
  bool find_ahead(const StageCode& stage, int n, std::int64_t c, std::int64_t end) {
    const std::int64_t stages = static_cast<std::int64_t>(b_.stages.size()) - b_.ahead_from;
    const std::int64_t number = &stage - b_.stages.data() - b_.ahead_from;
    if (number < 0) return false;
    if (b_.ahead_of == Body::kColumns && number == 0 && c + b_.block_cols < end) {
      ahead_ = {0, n, c + b_.block_cols, std::min(c + 2 * b_.block_cols, end)};
      return true;
    }
    if (ahead_rows_ <= 0 || stage.cols == 0) return false;
    ahead_ = {n, static_cast<int>(ahead_rows_), c, c + f_.cols};
    if (b_.ahead_of == Body::kRows) {
      const bool alone = b_.ahead_stage >= 0;
      if (alone && number + b_.ahead_from != b_.ahead_stage) return false;
      const std::int64_t cols = b_.stages[static_cast<std::size_t>(b_.ahead_from)].cols;
      const std::int64_t before = alone ? 0 : number * stage.cols;
      const std::int64_t all = alone ? stage.cols : stages * stage.cols;
      ahead_.begin = cols * (before + c) / all;
      ahead_.end = cols * (before + c + f_.cols) / all;
    } else if (number + 1 != stages || c != 0) {
      return false;
    }
    return true;
  }
  /// In smaller blocks, with a share of the cache lines before each instruction: asked for all at once they keep other
  /// requests waiting.
  void execute_fetching(const StageCode& stage) {
    constexpr int kPiece = 512;
    const Range range = stage.loop;
    const int whole = f_.cols, pieces = f_.rows > 1 ? 1 : (whole + kPiece - 1) / kPiece;
    const int parts = (range.end - range.begin) * pieces;
    const std::int64_t col0 = f_.col0;
    for (int part = 0, piece = 0; piece < pieces; ++piece) {
      if (pieces > 1) {
        f_.col0 = col0 + piece * kPiece;
        f_.cols = std::min(kPiece, whole - piece * kPiece);
        for (int i = stage.moving.begin; i < stage.moving.end; ++i)
          bases_[1 + i].ptr = origins_[i] + f_.col0 * b_.moving[i].step;
      }
      for (const Instr* i = b_.code.data() + range.begin; i != b_.code.data() + range.end; ++i) {
        fetch(part++, parts);
        i->fn(*i, f_);
      }
    }
  }
  // Inline: g++ 12 takes a function that only prefetches for one without effect, and drops its calls.
  HWY_INLINE void fetch(int part, int parts) {
    for (int i : b_.ahead) {
      const Moving& m = b_.moving[i];
      const std::int64_t stride = bases_[1 + i].stride;
      const std::int64_t all = (ahead_.end - ahead_.begin) * m.step;
      const std::int64_t begin = (all * part / parts) & ~std::int64_t{63};
      const std::int64_t end = part + 1 == parts ? all : (all * (part + 1) / parts) & ~std::int64_t{63};
      const char* p = origins_[i] + ahead_.begin * m.step + ahead_.skip * stride;
      for (int r = 0; r < ahead_.rows; ++r, p += stride) {
        for (std::int64_t at = begin; at < end; at += 64) __builtin_prefetch(p + at, 0, 3);
      }
    }
  }

  /// The operands of a stage at the block's first row and column 0.
  void place(const StageCode& stage) {
    for (int i = stage.moving.begin; i < stage.moving.end; ++i) {
      const Moving& m = b_.moving[i];
      char*& origin = origins_[i];
      if (!m.access) {
        origin = scratch_ + m.offset;
        continue;
      }
      const Access& a = *m.access;
      if (tile_ != nullptr && a.buffer == b_.tile_buffer) {
        origin = tile_ + f_.row0 * tile_row_;
        bases_[1 + i].stride = tile_row_;
        continue;
      }
      std::int64_t at = a.offset;
      for (int d = 0; d < a.dims; ++d) at += index_[d] * a.strides[d];
      origin = static_cast<char*>(f_.buffers[a.buffer]) + at * a.size;
    }
  }

  /// Accumulates over one chunk of a batch entry's rows, then writes the partial result.
  void column_task(std::int64_t part, std::int64_t c0, std::int64_t c1) {
    const std::int64_t entry = part / b_.chunks, chunk = part % b_.chunks, n = b_.rows / b_.batch;
    for (const ColumnSum& sum : b_.column_sums) set_identity(sum, c0, std::min(c1, sum.cols));
    const auto first = [&](std::int64_t k) { return (k * n + b_.chunks - 1) / b_.chunks; };
    rows(entry * n + first(chunk), entry * n + first(chunk + 1), c0, c1);
    for (const ColumnSum& sum : b_.column_sums) {
      const Access& to = *sum.to;
      const std::int64_t at = to.offset + part * sum.cols + c0;
      store_dense(sum.type, scratch_ + sum.offset + c0 * reg_size(sum.type), to.dtype,
                  static_cast<char*>(f_.buffers[to.buffer]) + at * to.size, std::min(c1, sum.cols) - c0);
    }
  }

  template <class E>
  static void fill_identity(Reduce op, E* to, std::int64_t n) {
    using Limits = std::numeric_limits<E>;
    const E low = Limits::has_infinity ? -Limits::infinity() : Limits::min();
    const E high = Limits::has_infinity ? Limits::infinity() : Limits::max();
    std::fill(to, to + n, op == Reduce::sum ? E(0) : op == Reduce::prod ? E(1) : op == Reduce::max ? low : high);
  }
  void set_identity(const ColumnSum& sum, std::int64_t c0, std::int64_t c1) {
    char* to = scratch_ + sum.offset + c0 * reg_size(sum.type);
    switch (sum.type) {
      case RegType::f32: fill_identity(sum.op, reinterpret_cast<float*>(to), c1 - c0); break;
      case RegType::f64: fill_identity(sum.op, reinterpret_cast<double*>(to), c1 - c0); break;
      case RegType::i32: fill_identity(sum.op, reinterpret_cast<std::int32_t*>(to), c1 - c0); break;
      case RegType::i64: fill_identity(sum.op, reinterpret_cast<std::int64_t*>(to), c1 - c0); break;
    }
  }

  const Body& b_;
  char* scratch_;
  Base* bases_;
  char** origins_;
  Frame f_{};
  struct Ahead {
    int skip, rows;
    std::int64_t begin, end;  // columns
  } ahead_{};
  std::int64_t ahead_rows_ = 0;  // rows of the block after this one
  int rows_ = 0;                 // of the block
  std::int64_t index_[kMaxDims];
  char* tile_ = nullptr;
  std::int64_t tile_row_ = 0;  // bytes
};

}  // namespace
}  // namespace vm

RowProgram::RowProgram() = default;
RowProgram::~RowProgram() = default;

std::unique_ptr<RowProgram> RowProgram::lower(const KernelProgram& program, TileUse tile) {
  if (tile.buffer >= 0 && !tileable(program)) throw InternalError("a program with reductions cannot run on tiles");
  std::unique_ptr<RowProgram> p(new RowProgram);
  p->body_ = vm::lower_body(program, tile);
  return p;
}

std::int64_t RowProgram::tasks() const { return body_->tasks; }

std::size_t RowProgram::scratch_bytes() const {
  return static_cast<std::size_t>(body_->scratch) * (body_->overlaps ? 2 : 1) + 64;
}

void RowProgram::run(void* const* buffers, const std::uint64_t* slots, std::int64_t task, void* scratch,
                     BadIndex* bad_index) const {
  vm::Runner runner(*body_, buffers, slots, scratch, bad_index);
  if (!body_->overlaps) return runner.task(task, nullptr);
  vm::Runner second(*body_, buffers, slots, static_cast<char*>(scratch) + body_->scratch, bad_index);
  runner.task(task, &second);
}

bool RowProgram::tileable(const KernelProgram& program) {
  return program.stages.size() == 1 && std::none_of(program.values.begin(), program.values.end(), [](const KValue& v) {
           return vm::is_row_reduce(v.op) || vm::is_column_reduce(v.op);
         });
}

void RowProgram::run_tile(void* const* buffers, const std::uint64_t* slots, std::int64_t row0, std::int64_t rows,
                          std::int64_t col0, std::int64_t cols, const void* tile, std::int64_t ld,
                          void* scratch) const {
  vm::Runner runner(*body_, buffers, slots, scratch, nullptr);
  if (body_->flat_cols > 0) {
    // Rows that lie one behind the other in the tile and in all that is read and written are one.
    const std::int64_t n = body_->flat_cols, at_once = ld == n && cols == n ? rows : 1;
    for (std::int64_t r = 0; r < rows; r += at_once) {
      const std::int64_t begin = (row0 + r) * n + col0;
      runner.set_tile(static_cast<const char*>(tile) + r * ld * 4, ld, 0, begin);
      runner.start();
      runner.rows(0, 1, begin, begin + at_once * cols);
    }
  } else {
    runner.set_tile(tile, ld, row0, col0);
    runner.start();
    runner.rows(row0, row0 + rows, col0, col0 + cols);
  }
  if (body_->streams) hwy::FlushStream();
}

}  // namespace metal_candle::cpu
