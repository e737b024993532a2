#include "backend/cpu/kernels/concat.h"

#include "backend/cpu/kernels/box.h"
#include "backend/cpu/kernels/tasks.h"

namespace metal_candle::cpu {
namespace {

std::int64_t tasks_of(const KernelTensor& part) {
  const std::int64_t n = part.shape.numel();
  return task_count(n * static_cast<std::int64_t>(size_of(part.dtype)), n);
}

std::int64_t tasks(const KernelCall& c, int) {
  std::int64_t total = 0;
  for (const KernelTensor& part : c.inputs) total += tasks_of(part);
  return total;
}

void run(const KernelCall& c, int, std::int64_t task) {
  const KernelTensor& out = c.outputs[0];
  const int axis = static_cast<int>(c.attrs[0]);
  const std::size_t item = size_of(out.dtype);
  std::int64_t offset = 0;
  for (const KernelTensor& in : c.inputs) {
    const std::int64_t count = tasks_of(in);
    if (task < count) {
      const Box box(in.shape, out.strides, in.strides);
      const Range range = part(box.numel, count, task);
      copy_box(box, at(out.data, offset * out.strides[axis], item), in.data, item, range.begin, range.end);
      return;
    }
    task -= count;
    offset += in.shape[axis];
  }
}

}  // namespace

const CpuKernel concat_kernel{.run = run, .tasks = tasks, .takes_strides = true};

}  // namespace metal_candle::cpu
