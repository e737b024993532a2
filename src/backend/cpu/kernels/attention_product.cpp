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

}  // namespace

bool multiplies_pairs() { return current_kernels().bf16.lanes == 16; }

void multiply(const Product& p) {
  const MicroFamily& f = p.pairs ? current_kernels().bf16 : current_kernels().f32;
  int width = widest(f);
  for (std::int64_t column = 0; column < p.n;) {
    while (column + (std::int64_t{f.lanes} << width) > p.n) --width;
    MicroArgs args{.steps = p.k,
                   .a = nullptr,
                   .a_row = p.a_row * 4,
                   .a_step = p.a_step * 4,
                   .b = reinterpret_cast<const char*>(p.b + column),
                   .b_step = p.b_step * 4,
                   .b_panel = f.panel_cols() * 4,
                   .c = nullptr,
                   .c_row = p.c_row * 4,
                   .accumulate = p.accumulate,
                   .ahead = 16 * p.b_step * 4};
    for (std::int64_t row = 0; row < p.m; row += kRows) {
      args.a = reinterpret_cast<const char*>(p.a + row * p.a_row);
      args.c = reinterpret_cast<char*>(p.c + row * p.c_row + column);
      f.by_width[width][std::min<std::int64_t>(kRows, p.m - row) - 1](args);
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

void store(const float* source, std::int64_t n, DType dtype, void* target) {
  if (dtype == DType::f32) std::memcpy(target, source, static_cast<std::size_t>(n) * 4);
  else current_kernels().narrow(dtype == DType::bf16 ? GemmType::bf16 : GemmType::f16, source, n, 1, n, target, n);
}

}  // namespace metal_candle::cpu::attention
