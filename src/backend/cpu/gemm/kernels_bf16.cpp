// bf16 micro kernels on vdpbf16ps (AVX512_BF16). Highway 1.0 has no target for it, so the functions carry their own
// target attribute and are reached only after asking the CPU.
#include <utility>

#include "backend/cpu/gemm/kernels.h"

#if defined(__x86_64__)

#include <hwy/base.h>
#include <immintrin.h>

HWY_PUSH_ATTRIBUTES("avx512f,avx512bw,avx512vl,avx512dq,avx512bf16,fma")  // GCC's pragma or clang's
namespace metal_candle::cpu {
namespace {

struct Ops {
  using V = __m512;
  static constexpr std::int64_t kBytes = 64;
  static constexpr bool kNarrows = true, kTakesLess = false;
  static V zero() { return _mm512_setzero_ps(); }
  static V load(const char* p) { return _mm512_loadu_ps(p); }
  static V broadcast(const char* p) {
    int pair;
    __builtin_memcpy(&pair, p, sizeof pair);
    return _mm512_castsi512_ps(_mm512_set1_epi32(pair));
  }
  static V fma(V a, V b, V c) { return _mm512_dpbf16_ps(c, (__m512bh)a, (__m512bh)b); }
  static void store(V v, char* p) { _mm512_storeu_ps(p, v); }
  // The conversions take subnormal sums for zero, but vdpbf16ps leaves none.
  static void narrow(V v, char* p) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), (__m256i)_mm512_cvtneps_pbh(v));
  }
  static void narrow_pair(V low, V high, char* p) { _mm512_storeu_si512(p, (__m512i)_mm512_cvtne2ps_pbh(high, low)); }
};

#include "backend/cpu/gemm/micro-inl.h"

/// The same sums over rows of B in place: rows 2s and 2s + 1 are read side by side and shuffled to step s's pairs. No
/// second stretch of the chain.
template <class Ops, int kRows, int kVectors>
void micro_kernel_in_rows(const MicroArgs& p) {
  alignas(64) static constexpr std::uint16_t kFront[32] = {0,  32, 1,  33, 2,  34, 3,  35, 4,  36, 5,
                                                           37, 6,  38, 7,  39, 8,  40, 9,  41, 10, 42,
                                                           11, 43, 12, 44, 13, 45, 14, 46, 15, 47};
  const __m512i front = _mm512_load_si512(kFront), back = _mm512_add_epi16(front, _mm512_set1_epi16(16));
  __m512 acc[kRows][kVectors];
#pragma GCC unroll 32
  for (int r = 0; r < kRows; ++r)
#pragma GCC unroll 2
    for (int v = 0; v < kVectors; ++v)
      acc[r][v] = p.accumulate ? Ops::load(p.c + r * p.c_row + v * Ops::kBytes) : Ops::zero();
  const std::int64_t a_row = p.a_row, a_step = p.a_step, b_step = p.b_step, odd = p.b_odd, ahead = p.ahead;
  constexpr int kBases = (kRows + 2) / 3;
  const char *a[kBases], *b = p.b, *fetched = p.next_b;
#pragma GCC unroll 16
  for (int i = 0; i < kBases; ++i) a[i] = p.a + 3 * i * a_row;
  for (std::int64_t step = p.steps; step > 0; --step, b += b_step) {
    __builtin_prefetch(b + ahead);
    __builtin_prefetch(b + ahead + odd);
    if (fetched != nullptr) {
      __builtin_prefetch(fetched);
      fetched += odd;
    }
    __m512i even_row, odd_row;
    if constexpr (kVectors == 2) {
      even_row = _mm512_loadu_si512(b);
      odd_row = _mm512_loadu_si512(b + odd);
    } else {
      even_row = _mm512_castsi256_si512(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(b)));
      odd_row = _mm512_castsi256_si512(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(b + odd)));
    }
    __m512 bv[kVectors];
    bv[0] = _mm512_castsi512_ps(_mm512_permutex2var_epi16(even_row, front, odd_row));
    if constexpr (kVectors == 2) bv[1] = _mm512_castsi512_ps(_mm512_permutex2var_epi16(even_row, back, odd_row));
#pragma GCC unroll 32
    for (int r = 0; r < kRows; ++r) {
      const __m512 av = Ops::broadcast(a[r / 3] + (r % 3) * a_row);
#pragma GCC unroll 2
      for (int v = 0; v < kVectors; ++v) acc[r][v] = Ops::fma(av, bv[v], acc[r][v]);
    }
#pragma GCC unroll 16
    for (int i = 0; i < kBases; ++i) a[i] += a_step;
  }
#pragma GCC unroll 32
  for (int r = 0; r < kRows; ++r)
#pragma GCC unroll 2
    for (int v = 0; v < kVectors; ++v) {
      char* const c = p.c + r * p.c_row;
      if (p.narrow) Ops::narrow(acc[r][v], c + v * Ops::kBytes / 2);
      else Ops::store(acc[r][v], c + v * Ops::kBytes);
    }
}

template <int kVectors, int... kRow>
const MicroKernel* kernels_in_rows(std::integer_sequence<int, kRow...>) {
  static constexpr MicroKernel kernels[] = {&micro_kernel_in_rows<Ops, kRow + 1, kVectors>...};
  return kernels;
}

}  // namespace
}  // namespace metal_candle::cpu
HWY_POP_ATTRIBUTES

namespace metal_candle::cpu {
const MicroFamily& bf16_dot_family() {
  static const bool usable = __builtin_cpu_supports("avx512bf16") && __builtin_cpu_supports("avx512bw") &&
                             __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq");
  static const MicroFamily family = [] {
    if (!usable) return MicroFamily{};
    MicroFamily f = make_family<Ops, 24, 14, 6, 2>(16, 4, 2);
    f.in_rows[0] = kernels_in_rows<1>(std::make_integer_sequence<int, 24>());
    f.in_rows[1] = kernels_in_rows<2>(std::make_integer_sequence<int, 14>());
    f.squeezed = squeezed_form();
    return f;
  }();
  return family;
}
}  // namespace metal_candle::cpu

#else

namespace metal_candle::cpu {
const MicroFamily& bf16_dot_family() {
  static const MicroFamily none{};
  return none;
}
}  // namespace metal_candle::cpu

#endif
