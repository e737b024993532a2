#include "backend/cpu/kernels/pad.h"

#include <cstring>

#include "backend/cpu/kernels/box.h"
#include "backend/cpu/kernels/tasks.h"
#include "backend/cpu/kernels/types.h"

namespace metal_candle::cpu {
namespace {

std::int64_t tasks(const KernelCall& c, int) {
  const KernelTensor& out = c.outputs[0];
  const std::int64_t n = out.shape.numel();
  return task_count(n * static_cast<std::int64_t>(size_of(out.dtype)), n);
}

template <class T>
T value_of(const KernelTensor& scalar) {
  const auto convert = [](auto v) {
    if constexpr (is_half<T>) return T(static_cast<float>(v));
    else return static_cast<T>(v);
  };
  return scalar.dtype == DType::i64 ? convert(*scalar.as<const std::int64_t>()) : convert(*scalar.as<const double>());
}

/// Where row `row` of the output (all axes but the last) lies in x; -1 when it is padding.
std::int64_t source_row(const KernelCall& c, std::int64_t row) {
  const KernelTensor &x = c.inputs[0], &out = c.outputs[0];
  std::int64_t offset = 0;
  for (int i = x.shape.rank() - 2; i >= 0; --i) {
    const std::int64_t index = row % out.shape[i] - c.attrs[i];
    if (index < 0 || index >= x.shape[i]) return -1;
    offset += index * x.strides[i];
    row /= out.shape[i];
  }
  return offset;
}

// The part [begin, end) of one output row: padding, x, padding.
template <class T>
void fill_row(T* to, const T* from, T value, std::int64_t before, std::int64_t inside, Range columns) {
  const std::int64_t first = std::clamp(before, columns.begin, columns.end);
  const std::int64_t last = std::clamp(before + inside, columns.begin, columns.end);
  std::fill(to + columns.begin, to + first, value);
  if (first < last)
    std::memcpy(to + first, from + (first - before), static_cast<std::size_t>(last - first) * sizeof(T));
  std::fill(to + last, to + columns.end, value);
}

template <class T>
void run_typed(const KernelCall& c, Range range) {
  const KernelTensor &x = c.inputs[0], &out = c.outputs[0];
  const T value = value_of<T>(c.inputs[1]);
  const int rank = x.shape.rank();
  if (rank == 0) {
    *out.as<T>() = *x.as<const T>();
    return;
  }
  const std::int64_t columns = out.shape[rank - 1], before = c.attrs[rank - 1], inside = x.shape[rank - 1];
  while (range.begin < range.end) {
    const std::int64_t row = range.begin / columns, start = range.begin % columns;
    const std::int64_t stop = std::min(columns, start + range.end - range.begin);
    const std::int64_t from = source_row(c, row);
    fill_row<T>(out.as<T>() + row * columns, x.as<const T>() + std::max<std::int64_t>(from, 0), value, before,
                from < 0 ? 0 : inside, {start, stop});
    range.begin += stop - start;
  }
}

void run(const KernelCall& c, int, std::int64_t task) {
  const Range range = part(c.outputs[0].shape.numel(), tasks(c, 0), task);
  visit(c.outputs[0].dtype, [&]<class T>() { run_typed<T>(c, range); });
}

}  // namespace

const CpuKernel pad_kernel{.run = run, .tasks = tasks};

}  // namespace metal_candle::cpu
