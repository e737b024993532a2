#include "backend/cpu/kernels/topk.h"

#include <algorithm>
#include <bit>

#include "backend/cpu/kernels/sort_key.h"
#include "backend/cpu/kernels/tasks.h"

namespace metal_candle::cpu {
namespace {

constexpr std::int64_t kRangeLength = 16384;

struct Plan {
  std::int64_t rows = 1, length, k, ranges;
  explicit Plan(const KernelCall& c) {
    const Shape& shape = c.inputs[0].shape;
    length = shape[shape.rank() - 1];
    for (int i = 0; i + 1 < shape.rank(); ++i) rows *= shape[i];
    k = c.attrs[0];
    ranges = k == 0 ? 0 : std::max<std::int64_t>(1, std::min(length / kRangeLength, length / (4 * k)));
  }
};

std::int64_t tasks(const KernelCall& c, int pass) {
  const Plan plan(c);
  return pass == 0 ? plan.rows * plan.ranges : plan.k == 0 ? 0 : plan.rows;
}

// A key and a comparison an element, and a heap of the best of each range that most of its elements leave alone.
double work(const KernelCall& c) {
  const Plan plan(c);
  const double heaps = static_cast<double>(plan.ranges * plan.k) * std::bit_width(static_cast<std::uint64_t>(plan.k));
  return static_cast<double>(plan.rows) * (4.0 * static_cast<double>(plan.length) + 24.0 * heaps);
}

std::size_t shared(const KernelCall& c) {
  const Plan plan(c);
  return static_cast<std::size_t>(plan.rows * plan.ranges * plan.k) * key_size(c.inputs[0].dtype);
}

// The best k of a range, as a heap whose top is the worst of them: most elements fail one comparison with it.
template <class T>
void select(const KernelCall& c, const Plan& plan, std::int64_t task) {
  const Range range = part(plan.length, plan.ranges, task % plan.ranges);
  const T* x = c.inputs[0].as<const T>() + task / plan.ranges * plan.length;
  auto* best = static_cast<SortKey<T>*>(c.shared) + task * plan.k;
  auto* end = best + plan.k;
  const auto key = [&](std::int64_t i) { return sort_key(x[i], static_cast<std::uint32_t>(i), true); };
  for (std::int64_t i = 0; i < plan.k; ++i) best[i] = key(range.begin + i);
  std::make_heap(best, end);
  for (std::int64_t i = range.begin + plan.k; i < range.end; ++i) {
    const auto candidate = key(i);
    if (!(candidate < *best)) continue;
    std::pop_heap(best, end);
    end[-1] = candidate;
    std::push_heap(best, end);
  }
}

template <class T>
void merge(const KernelCall& c, const Plan& plan, std::int64_t row) {
  const T* x = c.inputs[0].as<const T>() + row * plan.length;
  auto* keys = static_cast<SortKey<T>*>(c.shared) + row * plan.ranges * plan.k;
  std::partial_sort(keys, keys + plan.k, keys + plan.ranges * plan.k);
  const std::int64_t to = row * plan.k;
  if (T* values = c.outputs[0].as<T>())
    for (std::int64_t i = 0; i < plan.k; ++i) values[to + i] = x[place_of(keys[i])];
  if (auto* indices = c.outputs[1].as<std::int32_t>())
    for (std::int64_t i = 0; i < plan.k; ++i) indices[to + i] = static_cast<std::int32_t>(place_of(keys[i]));
}

void run(const KernelCall& c, int pass, std::int64_t task) {
  const Plan plan(c);
  visit(c.inputs[0].dtype, [&]<class T>() {
    if (pass == 0) select<T>(c, plan, task);
    else merge<T>(c, plan, task);
  });
}

}  // namespace

const CpuKernel topk_kernel{.run = run, .tasks = tasks, .passes = 2, .shared = shared, .work = work};

}  // namespace metal_candle::cpu
