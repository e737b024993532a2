#include "backend/cpu/kernels/scatter_add.h"

#include <cstring>
#include <type_traits>
#include <utility>

#include "backend/cpu/bad_index.h"
#include "backend/cpu/kernels/tasks.h"
#include "backend/cpu/kernels/types.h"

namespace metal_candle::cpu {
namespace {

constexpr std::int64_t kColumns = 512;    // accumulated at a time, on the stack
constexpr std::int64_t kMostRanges = 64;  // every range reads all indices

struct Plan {
  std::int64_t rows, columns = 1, updates, ranges;
  explicit Plan(const KernelCall& c) {
    const KernelTensor& out = c.outputs[0];
    rows = out.shape[0];
    for (int i = 1; i < out.shape.rank(); ++i) columns *= out.shape[i];
    updates = c.inputs[1].shape.numel();
    const auto bytes = (rows + updates) * columns * static_cast<std::int64_t>(size_of(out.dtype));
    ranges = task_count(bytes, rows, kMostRanges);
    if (columns == 0) ranges = 0;
  }
  std::int64_t longest_range() const { return ranges == 0 ? 0 : (rows + ranges - 1) / ranges; }
};

std::int64_t tasks(const KernelCall& c, int) { return Plan(c).ranges; }

std::size_t scratch(const KernelCall& c) {
  const Plan plan(c);
  return static_cast<std::size_t>(plan.longest_range() + plan.updates) * sizeof(std::int64_t);
}

/// Per row of a range the first update, per update the next one of the same row; -1 ends.
struct Chains {
  std::int64_t *first, *next;
  Chains(const KernelCall& c, const Plan& plan, Range range, bool report) {
    first = static_cast<std::int64_t*>(c.scratch);
    next = first + plan.longest_range();
    std::fill(first, first + (range.end - range.begin), -1);
    const KernelTensor& indices = c.inputs[1];
    for (std::int64_t i = plan.updates - 1; i >= 0; --i) {
      const std::int64_t index = read_index(indices.data, indices.dtype, i);
      const std::int64_t row = index < 0 ? index + plan.rows : index;
      if (row < 0 || row >= plan.rows) {
        if (report) c.fail(BadIndex{index, plan.rows}.str().c_str());
        continue;
      }
      if (row < range.begin || row >= range.end) continue;
      next[i] = std::exchange(first[row - range.begin], i);
    }
  }
};

// Unsigned integers wrap where signed ones would overflow.
template <class T>
using Sum = std::conditional_t<is_half<T>, float, std::conditional_t<std::is_integral_v<T>, std::uint64_t, T>>;

template <class T>
void add_chain(T* to, const T* base, const T* updates, const Chains& chains, std::int64_t head, std::int64_t columns) {
  Sum<T> sums[kColumns];
  for (std::int64_t from = 0; from < columns; from += kColumns) {
    const std::int64_t n = std::min(kColumns, columns - from);
    for (std::int64_t j = 0; j < n; ++j) sums[j] = static_cast<Sum<T>>(base[from + j]);
    for (std::int64_t i = head; i >= 0; i = chains.next[i]) {
      const T* update = updates + i * columns + from;
      for (std::int64_t j = 0; j < n; ++j) sums[j] = static_cast<Sum<T>>(sums[j] + static_cast<Sum<T>>(update[j]));
    }
    for (std::int64_t j = 0; j < n; ++j) to[from + j] = static_cast<T>(sums[j]);
  }
}

template <class T>
void run_range(const KernelCall& c, const Plan& plan, Range range, const Chains& chains) {
  const T *base = c.inputs[0].as<const T>(), *updates = c.inputs[2].as<const T>();
  T* out = c.outputs[0].as<T>();
  for (std::int64_t row = range.begin; row < range.end; ++row) {
    const std::int64_t head = chains.first[row - range.begin], at = row * plan.columns;
    if (head >= 0) add_chain(out + at, base + at, updates, chains, head, plan.columns);
    else if (out != base) std::memcpy(out + at, base + at, static_cast<std::size_t>(plan.columns) * sizeof(T));
  }
}

void run(const KernelCall& c, int, std::int64_t task) {
  const Plan plan(c);
  const Range range = part(plan.rows, plan.ranges, task);
  const Chains chains(c, plan, range, task == 0);
  visit(c.outputs[0].dtype, [&]<class T>() { run_range<T>(c, plan, range, chains); });
}

}  // namespace

const CpuKernel scatter_add_kernel{.run = run, .tasks = tasks, .scratch = scratch, .in_place_input = 0};

}  // namespace metal_candle::cpu
