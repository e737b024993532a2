// Running a body: tasks, blocks of rows, rows in turns.
#include <limits>
#include <optional>

#include "backend/cpu/vm/runner.h"
#include "backend/cpu/vm/scalar.h"
#include "backend/cpu/vm/shape.h"
#include "metal_candle/error.hpp"

namespace metal_candle::cpu {
namespace vm {
namespace {

char* aligned(void* p) {
  return reinterpret_cast<char*>((reinterpret_cast<std::uintptr_t>(p) + 63) & ~std::uintptr_t{63});
}

class Task {
 public:
  Task(const Body& body, void* const* buffers, const std::uint64_t* slots, void* scratch, std::atomic<int>* index_error)
      : b_(body), buffers_(buffers), runner_(body, buffers, slots, aligned(scratch), index_error) {
    if (b_.in_turns) second_.emplace(body, buffers, slots, aligned(scratch) + b_.scratch, index_error);
  }
  Runner& runner() { return runner_; }

  void run(std::int64_t index) {
    const std::int64_t part = index / b_.col_tasks, c0 = index % b_.col_tasks * b_.task_cols;
    const std::int64_t c1 = c0 + b_.task_cols;
    if (!b_.column_sums.empty()) {
      column_task(part, c0, c1);
    } else {
      const std::int64_t begin = part * b_.task_rows, end = std::min(b_.rows, begin + b_.task_rows);
      if (b_.in_turns) turns(begin, end);
      else rows(begin, end, c0, c1);
    }
    if (b_.streams) hwy::FlushStream();
  }

  void rows(std::int64_t begin, std::int64_t end, std::int64_t c0, std::int64_t c1) {
    Fetch fetch;
    for (std::int64_t r = begin; r < end;) {
      const std::int64_t n = std::min({static_cast<std::int64_t>(b_.block_rows), end - r, b_.inner - r % b_.inner});
      runner_.open(r, static_cast<int>(n), c0, c1);
      const std::int64_t next = std::min({n, end - r - n, b_.inner - r % b_.inner - n});
      if (b_.ahead_of == Body::kRows) runner_.fetch_rows(fetch, next, b_.stages[0].cols, b_.row_calls);
      while (!runner_.done()) {
        if (b_.ahead_of == Body::kColumns && runner_.at_block()) runner_.fetch_columns(fetch);
        runner_.piece(fetch);
      }
      r += n;
    }
  }

  /// The last stage of a row, which writes past the caches, in turns with the other stages of the next row: memory
  /// takes what is written while the next row is computed, and gives what is read after it.
  void turns(std::int64_t begin, std::int64_t end) {
    const int last = static_cast<int>(b_.stages.size()) - 1;
    Runner *now = &runner_, *before = &*second_;
    Fetch fetch;
    for (std::int64_t r = begin; r < end; ++r, std::swap(now, before)) {
      now->open(r, 1, 0, b_.task_cols);
      const bool next = r + 1 < end && (r + 1) % b_.inner != 0;
      now->fetch_rows(fetch, next ? 1 : 0, b_.stages[0].cols, b_.row_calls);
      const std::int64_t others = r == begin ? 0 : b_.last_pieces;
      for (std::int64_t done = 1, other = 0; now->stage() < last; ++done) {
        now->piece(fetch);
        for (; other * b_.first_pieces < done * others; ++other) before->piece(fetch);
      }
    }
    fetch.clear();
    while (!before->done()) before->piece(fetch);
  }

 private:
  /// Accumulates over one chunk of a batch entry's rows, then writes the partial result.
  void column_task(std::int64_t part, std::int64_t c0, std::int64_t c1) {
    const std::int64_t entry = part / b_.chunks, chunk = part % b_.chunks, n = b_.rows / b_.batch;
    for (const ColumnSum& sum : b_.column_sums) set_identity(sum, c0, std::min(c1, sum.cols));
    const auto first = [&](std::int64_t k) { return (k * n + b_.chunks - 1) / b_.chunks; };
    rows(entry * n + first(chunk), entry * n + first(chunk + 1), c0, c1);
    for (const ColumnSum& sum : b_.column_sums) {
      const Access& to = *sum.to;
      const std::int64_t at = to.offset + part * sum.cols + c0;
      store_dense(sum.type, runner_.scratch() + sum.offset + c0 * reg_size(sum.type), to.dtype,
                  static_cast<char*>(buffers_[to.buffer]) + at * to.size, std::min(c1, sum.cols) - c0);
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
    char* to = runner_.scratch() + sum.offset + c0 * reg_size(sum.type);
    switch (sum.type) {
      case RegType::f32: fill_identity(sum.op, reinterpret_cast<float*>(to), c1 - c0); break;
      case RegType::f64: fill_identity(sum.op, reinterpret_cast<double*>(to), c1 - c0); break;
      case RegType::i32: fill_identity(sum.op, reinterpret_cast<std::int32_t*>(to), c1 - c0); break;
      case RegType::i64: fill_identity(sum.op, reinterpret_cast<std::int64_t*>(to), c1 - c0); break;
    }
  }

  const Body& b_;
  void* const* buffers_;
  Runner runner_;
  std::optional<Runner> second_;
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
  return static_cast<std::size_t>(body_->scratch) * (body_->in_turns ? 2 : 1) + 64;
}

void RowProgram::run(void* const* buffers, const std::uint64_t* slots, std::int64_t task, void* scratch,
                     std::atomic<int>* index_error) const {
  vm::Task(*body_, buffers, slots, scratch, index_error).run(task);
}

bool RowProgram::tileable(const KernelProgram& program) {
  return program.stages.size() == 1 && std::none_of(program.values.begin(), program.values.end(), [](const KValue& v) {
           return vm::is_row_reduce(v.op) || vm::is_column_reduce(v.op);
         });
}

void RowProgram::run_tile(void* const* buffers, const std::uint64_t* slots, std::int64_t row0, std::int64_t rows,
                          std::int64_t col0, std::int64_t cols, const float* tile, std::int64_t ld,
                          void* scratch) const {
  vm::Task task(*body_, buffers, slots, scratch, nullptr);
  task.runner().set_tile(tile, ld, row0, col0);
  task.rows(row0, row0 + rows, col0, col0 + cols);
  if (body_->streams) hwy::FlushStream();
}

}  // namespace metal_candle::cpu
