#include "backend/cpu/kernels/dynamic_slice.h"

#include <algorithm>

#include "backend/cpu/kernels/box.h"
#include "backend/cpu/kernels/tasks.h"
#include "backend/cpu/kernels/types.h"

namespace metal_candle::cpu {
namespace {

constexpr std::int64_t kMostCopies = 64;  // tasks that find nothing to do when the update is in place

std::int64_t bytes_of(const KernelTensor& t) { return t.shape.numel() * static_cast<std::int64_t>(size_of(t.dtype)); }

std::int64_t window_start(const KernelTensor& start, std::int64_t extent, std::int64_t window) {
  return std::clamp<std::int64_t>(read_index(start.data, start.dtype, 0), 0, extent - window);
}

// ---- dynamic_slice --------------------------------------------------------------------------------------------------

std::int64_t slice_tasks(const KernelCall& c, int) {
  return task_count(bytes_of(c.outputs[0]), c.outputs[0].shape.numel());
}

void run_slice(const KernelCall& c, int, std::int64_t task) {
  const KernelTensor &x = c.inputs[0], &out = c.outputs[0];
  const int axis = static_cast<int>(c.attrs[0]);
  const std::size_t item = size_of(x.dtype);
  const std::int64_t start = window_start(c.inputs[1], x.shape[axis], out.shape[axis]);
  const Box box(out.shape, out.strides, x.strides);
  const Range range = part(box.numel, slice_tasks(c, 0), task);
  copy_box(box, out.data, at(x.data, start * x.strides[axis], item), item, range.begin, range.end);
}

// ---- dynamic_update_slice: tasks for the window first, then tasks for what lies around it ---------------------------

std::int64_t window_tasks(const KernelCall& c) { return task_count(bytes_of(c.inputs[1]), c.inputs[1].shape.numel()); }
std::int64_t rest_tasks(const KernelCall& c) {
  return task_count(bytes_of(c.inputs[0]), c.inputs[0].shape.numel(), kMostCopies);
}
std::int64_t update_tasks(const KernelCall& c, int) { return window_tasks(c) + rest_tasks(c); }

// Part `task` of the rows [begin, end) of x along the axis, copied to where they are.
void copy_rest(const KernelCall& c, std::int64_t begin, std::int64_t end, std::int64_t task) {
  const KernelTensor &x = c.inputs[0], &out = c.outputs[0];
  const int axis = static_cast<int>(c.attrs[0]);
  const std::size_t item = size_of(x.dtype);
  Shape extents = x.shape;
  extents[axis] = end - begin;
  const Box box(extents, out.strides, x.strides);
  const Range range = part(box.numel, rest_tasks(c), task);
  copy_box(box, at(out.data, begin * out.strides[axis], item), at(x.data, begin * x.strides[axis], item), item,
           range.begin, range.end);
}

void run_update(const KernelCall& c, int, std::int64_t task) {
  const KernelTensor &x = c.inputs[0], &update = c.inputs[1], &out = c.outputs[0];
  const int axis = static_cast<int>(c.attrs[0]);
  const std::int64_t window = update.shape[axis], start = window_start(c.inputs[2], x.shape[axis], window);
  const std::int64_t windows = window_tasks(c);
  if (task < windows) {
    const std::size_t item = size_of(x.dtype);
    const Box box(update.shape, out.strides, update.strides);
    const Range range = part(box.numel, windows, task);
    copy_box(box, at(out.data, start * out.strides[axis], item), update.data, item, range.begin, range.end);
  } else if (out.data != x.data) {
    copy_rest(c, 0, start, task - windows);
    copy_rest(c, start + window, x.shape[axis], task - windows);
  }
}

}  // namespace

const CpuKernel dynamic_slice_kernel{.run = run_slice, .tasks = slice_tasks, .takes_strides = true};
const CpuKernel dynamic_update_slice_kernel{
    .run = run_update, .tasks = update_tasks, .takes_strides = true, .in_place_input = 0};

}  // namespace metal_candle::cpu
