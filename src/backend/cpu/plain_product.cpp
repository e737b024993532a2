#include "backend/cpu/plain_product.h"

#include <algorithm>

namespace metal_candle::cpu {
namespace {

constexpr std::int64_t kTaskWork = 1 << 18;
constexpr std::int64_t kBlock = 64;  // columns whose sums stay in L1

}  // namespace

std::int64_t plain_rows(const MatmulShape& s) {
  return std::clamp<std::int64_t>(kTaskWork / std::max<std::int64_t>(1, s.n * (s.k[0] + s.k[1])), 1,
                                  std::max<std::int64_t>(1, s.m));
}

void plain_product(const MatmulShape& s, const char* const bases[4], std::int64_t entry, std::int64_t row,
                   std::int64_t row_end, char* c) {
  const std::uint64_t* from[4] = {};
  for (std::size_t i = 0; i < 4; ++i)
    if (s.k[i / 2] > 0) from[i] = reinterpret_cast<const std::uint64_t*>(bases[i]) + s.offset(s.sides[i], entry);
  for (std::int64_t r = row; r < row_end; ++r) {
    for (std::int64_t n0 = 0; n0 < s.n; n0 += kBlock) {
      const std::int64_t cols = std::min(kBlock, s.n - n0);
      std::uint64_t sums[kBlock] = {};
      for (std::size_t p = 0; p < 2; ++p) {
        const auto &a = s.sides[2 * p], &b = s.sides[2 * p + 1];
        for (std::int64_t i = 0; i < s.k[p]; ++i) {
          const std::uint64_t x = from[2 * p][r * a.row_stride + i * a.col_stride];
          const std::uint64_t* y = from[2 * p + 1] + i * b.row_stride + n0 * b.col_stride;
          for (std::int64_t j = 0; j < cols; ++j) sums[j] += x * y[j * b.col_stride];
        }
      }
      std::copy_n(sums, cols, reinterpret_cast<std::uint64_t*>(c) + (entry * s.m + r) * s.n + n0);
    }
  }
}

}  // namespace metal_candle::cpu
