#include "backend/cpu/kernels/cumsum.h"

#include <type_traits>

#include "backend/cpu/kernels/tasks.h"
#include "backend/cpu/kernels/types.h"

namespace metal_candle::cpu {
namespace {

// A sum runs along one lane; lanes are the (outer, inner) pairs around the axis, cut in blocks of neighbours so that a
// step along the axis reads a run of memory.
constexpr std::int64_t kBlock = 64;

struct Lanes {
  std::int64_t outer = 1, length, inner = 1, blocks;
  explicit Lanes(const KernelCall& c) {
    const Shape& shape = c.inputs[0].shape;
    const int axis = static_cast<int>(c.attrs[0]);
    for (int i = 0; i < axis; ++i) outer *= shape[i];
    for (int i = axis + 1; i < shape.rank(); ++i) inner *= shape[i];
    length = shape[axis];
    blocks = (inner + kBlock - 1) / kBlock;
  }
};

std::int64_t tasks(const KernelCall& c, int) {
  const Lanes lanes(c);
  const auto bytes = c.inputs[0].shape.numel() * static_cast<std::int64_t>(size_of(c.inputs[0].dtype));
  return task_count(bytes, lanes.outer * lanes.blocks);
}

template <class T>
using Sum = std::conditional_t<
    is_half<T>, float,
    std::conditional_t<std::is_same_v<T, float>, double, std::conditional_t<std::is_integral_v<T>, std::uint64_t, T>>>;

template <class T>
void run_block(const KernelCall& c, const Lanes& lanes, std::int64_t block) {
  const std::int64_t first = block % lanes.blocks * kBlock, width = std::min(kBlock, lanes.inner - first);
  const std::int64_t start = block / lanes.blocks * lanes.length * lanes.inner + first;
  const T* from = c.inputs[0].as<const T>() + start;
  T* to = c.outputs[0].as<T>() + start;
  const bool reverse = c.attrs[1] != 0;
  Sum<T> sums[kBlock] = {};
  for (std::int64_t i = 0; i < lanes.length; ++i) {
    const std::int64_t row = (reverse ? lanes.length - 1 - i : i) * lanes.inner;
    for (std::int64_t j = 0; j < width; ++j) {
      sums[j] += static_cast<Sum<T>>(from[row + j]);
      to[row + j] = static_cast<T>(sums[j]);
    }
  }
}

void run(const KernelCall& c, int, std::int64_t task) {
  const Lanes lanes(c);
  const Range range = part(lanes.outer * lanes.blocks, tasks(c, 0), task);
  visit(c.inputs[0].dtype, [&]<class T>() {
    for (std::int64_t block = range.begin; block < range.end; ++block) run_block<T>(c, lanes, block);
  });
}

}  // namespace

const CpuKernel cumsum_kernel{.run = run, .tasks = tasks, .in_place_input = 0};

}  // namespace metal_candle::cpu
