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
  static constexpr bool kNarrows = true;
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

}  // namespace
}  // namespace metal_candle::cpu
HWY_POP_ATTRIBUTES

namespace metal_candle::cpu {
const MicroFamily& bf16_dot_family() {
  static const bool usable = __builtin_cpu_supports("avx512bf16") && __builtin_cpu_supports("avx512bw") &&
                             __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq");
  static const MicroFamily family = usable ? make_family<Ops, 24, 14, 6, 2>(16, 4, 2) : MicroFamily{};
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
