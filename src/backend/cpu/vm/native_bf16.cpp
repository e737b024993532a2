// f32 to bf16 by the processor's own conversion (AVX512_BF16), for which Highway 1.0 has no target. It takes subnormal
// numbers for zero, so vectors that hold one go the way of all other processors: the bits are the same.
#include "backend/cpu/vm/native_bf16.h"

#include "backend/cpu/gemm/kernels.h"
#include "backend/cpu/intrinsics.h"
#include "backend/cpu/vm/instr.h"

#if defined(__x86_64__)

HWY_PUSH_ATTRIBUTES("avx512f,avx512bw,avx512vl,avx512dq,avx512bf16,fma")  // GCC's pragma or clang's
namespace metal_candle::cpu::vm {
namespace {

constexpr int kSubnormal = 0x20;

/// To nearest even, NaN made quiet.
__attribute__((noinline)) __m256i round_any(__m512 x) {
  const __m512i u = _mm512_castps_si512(x), high = _mm512_srli_epi32(u, 16);
  const __m512i odd = _mm512_and_si512(high, _mm512_set1_epi32(1));
  const __m512i sum = _mm512_add_epi32(u, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff)));
  const __m512i quiet = _mm512_or_si512(high, _mm512_set1_epi32(0x40));
  const __mmask16 nan = _mm512_cmp_ps_mask(x, x, _CMP_UNORD_Q);
  return _mm512_cvtepi32_epi16(_mm512_mask_mov_epi32(_mm512_srli_epi32(sum, 16), nan, quiet));
}

inline __m256i round_one(__m512 x) {
  if (__builtin_expect(_mm512_fpclass_ps_mask(x, kSubnormal) != 0, 0)) return round_any(x);
  return (__m256i)_mm512_cvtneps_pbh(x);
}

inline __m512i round_two(__m512 low, __m512 high) {
  const unsigned subnormal = _mm512_fpclass_ps_mask(low, kSubnormal) | _mm512_fpclass_ps_mask(high, kSubnormal);
  if (__builtin_expect(subnormal != 0, 0))
    return _mm512_inserti64x4(_mm512_castsi256_si512(round_any(low)), round_any(high), 1);
  return (__m512i)_mm512_cvtne2ps_pbh(high, low);
}

inline __m512 widened(__m256i half) { return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(half), 16)); }

inline __mmask16 first(int n) { return static_cast<__mmask16>((1u << n) - 1); }

void narrow(const Instr& in, const Frame& f) {
  std::uint16_t* out = at<std::uint16_t>(in.out, f);
  const float* a = at<const float>(in.a, f);
  const int rows = f.rows, cols = f.cols;  // read again after every store otherwise
  const auto out_row = pitch(in.out, f), a_row = pitch(in.a, f);
  for (int r = 0; r < rows; ++r, out = step(out, out_row), a = step(a, a_row)) {
    int c = 0;
    for (; c + 32 <= cols; c += 32)
      _mm512_storeu_si512(out + c, round_two(_mm512_loadu_ps(a + c), _mm512_loadu_ps(a + c + 16)));
    for (; c < cols; c += 16) {
      const __mmask16 there = cols - c < 16 ? first(cols - c) : first(16);
      _mm256_mask_storeu_epi16(out + c, there, round_one(_mm512_maskz_loadu_ps(there, a + c)));
    }
  }
}

void rounded(const Instr& in, const Frame& f) {
  float* out = at<float>(in.out, f);
  const float* a = at<const float>(in.a, f);
  const int rows = f.rows, cols = f.cols;
  const auto out_row = pitch(in.out, f), a_row = pitch(in.a, f);
  for (int r = 0; r < rows; ++r, out = step(out, out_row), a = step(a, a_row)) {
    int c = 0;
    for (; c + 32 <= cols; c += 32) {
      const __m512i both = round_two(_mm512_loadu_ps(a + c), _mm512_loadu_ps(a + c + 16));
      _mm512_storeu_ps(out + c, widened(_mm512_castsi512_si256(both)));
      _mm512_storeu_ps(out + c + 16, widened(_mm512_extracti64x4_epi64(both, 1)));
    }
    for (; c < cols; c += 16) {
      const __mmask16 there = cols - c < 16 ? first(cols - c) : first(16);
      const __m256i half = round_one(_mm512_maskz_loadu_ps(there, a + c));
      _mm512_mask_storeu_ps(out + c, there, widened(half));
    }
  }
}

}  // namespace

void fill_native_bf16(VectorKernels& table) {
  if (bf16_dot_family().lanes == 0) return;
  table.store_bf16 = narrow;
  table.round_bf16 = rounded;
}

namespace {
alignas(64) constexpr std::uint16_t kInTurn[32] = {0, 16, 1, 17, 2,  18, 3,  19, 4,  20, 5,  21, 6,  22, 7,  23,
                                                   8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31};
}

void halve_native(const float* source, std::int64_t n, std::int64_t cols, std::int64_t line, std::uint16_t* rows,
                  float* pairs) {
  const __m512i in_turn = _mm512_load_si512(kInTurn);
  for (std::int64_t i = 0; i < n; i += 2, source += 2 * line) {
    const bool both = i + 1 < n;
    for (std::int64_t c = 0; c < cols; c += 16) {
      const __m512 low = _mm512_loadu_ps(source + c),
                   high = both ? _mm512_loadu_ps(source + line + c) : _mm512_setzero_ps();
      const __m512i halves = round_two(low, high);
      if (rows) {
        _mm256_storeu_si256(reinterpret_cast<__m256i*>(rows + i * line + c), _mm512_castsi512_si256(halves));
        if (both)
          _mm256_storeu_si256(reinterpret_cast<__m256i*>(rows + (i + 1) * line + c),
                              _mm512_extracti64x4_epi64(halves, 1));
      }
      if (pairs) _mm512_storeu_si512(pairs + i / 2 * line + c, _mm512_permutexvar_epi16(in_turn, halves));
    }
  }
}

void pair_native(const std::uint16_t* source, std::int64_t stride, std::int64_t n, std::int64_t cols, float* pairs) {
  const __m512i in_turn = _mm512_load_si512(kInTurn);
  for (std::int64_t i = 0; i < n; i += 2, source += 2 * stride, pairs += cols)
    for (std::int64_t c = 0; c < cols; c += 16) {
      const auto* const at = reinterpret_cast<const __m256i*>(source + c);
      const __m256i low = _mm256_loadu_si256(at);
      const __m256i high = i + 1 < n ? _mm256_loadu_si256(reinterpret_cast<const __m256i*>(source + stride + c))
                                     : _mm256_setzero_si256();
      const __m512i both = _mm512_inserti64x4(_mm512_castsi256_si512(low), high, 1);
      _mm512_storeu_si512(pairs + c, _mm512_permutexvar_epi16(in_turn, both));
    }
}

}  // namespace metal_candle::cpu::vm
HWY_POP_ATTRIBUTES

#else

namespace metal_candle::cpu::vm {
void fill_native_bf16(VectorKernels&) {}
void halve_native(const float*, std::int64_t, std::int64_t, std::int64_t, std::uint16_t*, float*) {}
void pair_native(const std::uint16_t*, std::int64_t, std::int64_t, std::int64_t, float*) {}
}  // namespace metal_candle::cpu::vm

#endif
