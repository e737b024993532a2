#include "backend/cpu/kernels/sort.h"

#include <algorithm>
#include <bit>

#include "backend/cpu/kernels/sort_key.h"
#include "backend/cpu/kernels/tasks.h"

namespace metal_candle::cpu {
namespace {

struct Lanes {
  std::int64_t count = 1, length, inner = 1;
  explicit Lanes(const KernelCall& c) {
    const Shape& shape = c.inputs[0].shape;
    const int axis = static_cast<int>(c.attrs[0]);
    length = shape[axis];
    for (int i = 0; i < shape.rank(); ++i) {
      if (i != axis) count *= shape[i];
      if (i > axis) inner *= shape[i];
    }
  }
  std::int64_t start(std::int64_t lane) const { return lane / inner * inner * length + lane % inner; }
};

// A comparison sort does some twenty times the work of a copy.
std::int64_t tasks(const KernelCall& c, int) {
  const Lanes lanes(c);
  return task_count(lanes.length * lanes.count * 64, lanes.count);
}

// Comparing and moving, for each time that a lane is halved.
double work(const KernelCall& c) {
  const Lanes lanes(c);
  return 12.0 * static_cast<double>(lanes.length * lanes.count) *
         std::bit_width(static_cast<std::uint64_t>(lanes.length));
}

std::size_t scratch(const KernelCall& c) {
  return static_cast<std::size_t>(Lanes(c).length) * key_size(c.inputs[0].dtype);
}

template <class T>
void sort_lane(const KernelCall& c, const Lanes& lanes, std::int64_t lane) {
  const std::int64_t start = lanes.start(lane), step = lanes.inner, n = lanes.length;
  const T* x = c.inputs[0].as<const T>() + start;
  auto* keys = static_cast<SortKey<T>*>(c.scratch);
  const bool descending = c.attrs[1] != 0;
  for (std::int64_t i = 0; i < n; ++i) keys[i] = sort_key(x[i * step], static_cast<std::uint32_t>(i), descending);
  std::sort(keys, keys + n);
  if (T* values = c.outputs[0].as<T>())
    for (std::int64_t i = 0; i < n; ++i) values[start + i * step] = x[place_of(keys[i]) * step];
  if (auto* indices = c.outputs[1].as<std::int32_t>())
    for (std::int64_t i = 0; i < n; ++i) indices[start + i * step] = static_cast<std::int32_t>(place_of(keys[i]));
}

void run(const KernelCall& c, int, std::int64_t task) {
  const Lanes lanes(c);
  const Range range = part(lanes.count, tasks(c, 0), task);
  visit(c.inputs[0].dtype, [&]<class T>() {
    for (std::int64_t lane = range.begin; lane < range.end; ++lane) sort_lane<T>(c, lanes, lane);
  });
}

}  // namespace

const CpuKernel sort_kernel{.run = run, .tasks = tasks, .scratch = scratch, .work = work};

}  // namespace metal_candle::cpu
