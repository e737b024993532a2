#include "backend/cpu/kernels/attention_product.h"

#include <algorithm>
#include <cstring>

#include "backend/cpu/gemm/kernels.h"
#include "backend/cpu/kernels/attention_rows.h"
#include "backend/cpu/kernels/types.h"

namespace metal_candle::cpu::attention {
namespace {

constexpr int kRows = 6;  // with four vectors of columns where there are 32 registers, with two where there are 16

int widest(const MicroFamily& f) {
  int width = kWidths - 1;
  while (width > 0 && f.max_rows[width] < kRows) --width;
  return width;
}

/// As few parts of at most `most` as there can be, but for the last one of one size.
std::int64_t equal_parts(std::int64_t n, std::int64_t most) {
  const std::int64_t parts = std::max<std::int64_t>(1, (n + most - 1) / most);
  return (n + parts - 1) / parts;
}

}  // namespace

bool multiplies_pairs() { return current_kernels().bf16.lanes == 16; }

std::int64_t tall_rows(bool pairs) { return (pairs ? current_kernels().bf16 : current_kernels().f32).max_rows[1]; }

void multiply(const Product& p) {
  const MicroFamily& f = p.pairs ? current_kernels().bf16 : current_kernels().f32;
  int width = p.tall ? 1 : widest(f);
  const std::int64_t rows = p.tall ? equal_parts(p.m, f.max_rows[1]) : kRows;
  for (std::int64_t column = 0; column < p.n;) {
    while (column + (std::int64_t{f.lanes} << width) > p.n) --width;
    MicroArgs args{.steps = p.k,
                   .a = nullptr,
                   .a_row = p.a_row * 4,
                   .a_step = p.a_step * 4,
                   .b = reinterpret_cast<const char*>(p.b) + column * (p.b_in_rows ? 2 : 4),
                   .b_step = p.b_step * 4,
                   .b_panel = f.panel_cols() * 4,
                   .b_odd = p.b_step * 2,
                   .c = nullptr,
                   .c_row = p.c_row * 4,
                   .accumulate = p.accumulate,
                   .ahead = 16 * p.b_step * 4};
    const MicroKernel* const kernels = p.b_in_rows ? f.in_rows[width] : f.by_width[width];
    for (std::int64_t row = 0; row < p.m; row += rows) {
      args.a = reinterpret_cast<const char*>(p.a + row * p.a_row);
      args.c = reinterpret_cast<char*>(p.c + row * p.c_row + column);
      args.next_a = p.next_a && column == 0 ? reinterpret_cast<const char*>(p.next_a + row * p.a_row) : nullptr;
      kernels[std::min(rows, p.m - row) - 1](args);
    }
    column += std::int64_t{f.lanes} << width;
  }
}

void load(const Rows& rows, float* target, std::int64_t width) {
  if (rows.component == 1 || rows.d <= 1)
    return row_kernels().load(rows.data, rows.dtype, rows.stride, rows.n, rows.d, target, width);
  for (std::int64_t i = 0; i < rows.n; ++i, target += width) {
    visit(rows.dtype, [&]<class T>() {
      const T* source = reinterpret_cast<const T*>(rows.data) + i * rows.stride;
      for (std::int64_t j = 0; j < rows.d; ++j) target[j] = static_cast<float>(source[j * rows.component]);
    });
    std::fill(target + rows.d, target + width, 0.0f);
  }
}

void load_halves(const Rows& rows, float* target, std::int64_t width) {
  auto* to = reinterpret_cast<std::uint16_t*>(target);
  const auto* from = reinterpret_cast<const std::uint16_t*>(rows.data);
  for (std::int64_t i = 0; i < rows.n; ++i, from += rows.stride, to += width) {
    if (rows.component == 1) std::memcpy(to, from, static_cast<std::size_t>(rows.d) * 2);
    else
      for (std::int64_t j = 0; j < rows.d; ++j) to[j] = from[j * rows.component];
    std::fill(to + rows.d, to + width, std::uint16_t{0});
  }
}

void prefetch(const Rows& rows) {
  const auto size = static_cast<std::int64_t>(size_of(rows.dtype));
  if (rows.component != 1) return;
  for (std::int64_t i = 0; i < rows.n; ++i)
    for (std::int64_t byte = 0; byte < rows.d * size; byte += 64)
      __builtin_prefetch(rows.data + i * rows.stride * size + byte, 0, 2);
}

void Ahead::add(const Rows& rows) {
  if (count_ < static_cast<int>(std::size(rows_)) && rows.n > 0) rows_[count_++] = rows;
}

std::int64_t Ahead::left() const {
  std::int64_t n = 0;
  for (int i = at_; i < count_; ++i) n += rows_[i].n;
  return n;
}

void Ahead::ask(std::int64_t rows) {
  while (rows > 0 && at_ < count_) {
    Rows& next = rows_[at_];
    Rows some = next;
    some.n = std::min(rows, next.n);
    prefetch(some);
    rows -= some.n;
    next.n -= some.n;
    next.data += some.n * next.stride * static_cast<std::int64_t>(size_of(next.dtype));
    if (next.n == 0) ++at_;
  }
}

void store(const float* source, std::int64_t n, DType dtype, void* target) {
  if (dtype == DType::f32) std::memcpy(target, source, static_cast<std::size_t>(n) * 4);
  else current_kernels().narrow(dtype == DType::bf16 ? GemmType::bf16 : GemmType::f16, source, n, 1, n, target, n);
}

}  // namespace metal_candle::cpu::attention
