#include "backend/cpu/kernels/set_rows.h"

#include <cstring>

#include "backend/cpu/kernels/tasks.h"
#include "backend/cpu/kernels/types.h"
#include "metal_candle/dtype.hpp"

namespace metal_candle::cpu {
namespace {

constexpr std::int64_t kMostCopies = 4;  // in place, where it matters, the rows are few and one task has them all

struct Rows {
  std::int64_t count, updates;
  std::size_t bytes;  // of one
  explicit Rows(const KernelCall& c) : count(c.outputs[0].shape[0]), updates(c.inputs[1].shape.numel()) {
    std::int64_t columns = 1;
    for (int i = 1; i < c.outputs[0].shape.rank(); ++i) columns *= c.outputs[0].shape[i];
    bytes = static_cast<std::size_t>(columns) * size_of(c.outputs[0].dtype);
  }
};

std::int64_t tasks(const KernelCall& c, int) {
  const Rows rows(c);
  return task_count(static_cast<std::int64_t>(rows.bytes) * rows.count, rows.count, kMostCopies);
}

void run(const KernelCall& c, int, std::int64_t task) {
  const Rows rows(c);
  const Range range = part(rows.count, tasks(c, 0), task);
  const char *base = c.inputs[0].as<const char>(), *from = c.inputs[2].as<const char>();
  char* out = c.outputs[0].as<char>();
  const auto place = [&](std::int64_t row) { return static_cast<std::size_t>(row) * rows.bytes; };
  if (out != base) std::memcpy(out + place(range.begin), base + place(range.begin), place(range.end - range.begin));
  const KernelTensor& indices = c.inputs[1];
  for (std::int64_t i = 0; i < rows.updates; ++i) {
    const std::int64_t row = read_index(indices.data, indices.dtype, i);
    if (row >= range.begin && row < range.end) std::memcpy(out + place(row), from + place(i), rows.bytes);
  }
}

}  // namespace

const CpuKernel set_rows_kernel{.run = run, .tasks = tasks, .in_place_input = 0};

}  // namespace metal_candle::cpu
