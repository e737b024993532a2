// Micro kernels of bytes on vpdpbusd, for vectors of 512 bits (AVX512_VNNI) and of 256 (AVX_VNNI). As for bf16, the
// functions carry their own target attributes and are reached only after asking the CPU. The instruction multiplies
// unsigned bytes by signed ones and adds four products to a lane of 32 bits, which wraps; another one saturates.
#include <utility>

#include "backend/cpu/gemm/kernels.h"

#if defined(__x86_64__)

#include <cpuid.h>

#include "backend/cpu/intrinsics.h"

HWY_PUSH_ATTRIBUTES("avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,fma")
namespace metal_candle::cpu {
namespace vnni512 {
namespace {

template <bool kSignedLeft>
struct Ops {
  using V = __m512i;
  static constexpr std::int64_t kBytes = 64;
  static constexpr bool kNarrows = false, kTakesLess = true;
  static V zero() { return _mm512_setzero_si512(); }
  static V load(const char* p) { return _mm512_loadu_si512(p); }
  static V broadcast(const char* p) {
    int unit;
    __builtin_memcpy(&unit, p, sizeof unit);
    return _mm512_set1_epi32(unit);
  }
  static V fma(V a, V b, V c) { return kSignedLeft ? _mm512_dpbusd_epi32(c, b, a) : _mm512_dpbusd_epi32(c, a, b); }
  static V minus(V a, std::int32_t b) { return _mm512_sub_epi32(a, _mm512_set1_epi32(b)); }
  static void store(V v, char* p) { _mm512_storeu_si512(p, v); }

  static V top_bits() { return _mm512_set1_epi8(-128); }
  static __mmask16 first(std::int64_t lanes) { return static_cast<__mmask16>((1u << lanes) - 1); }
  static V load_some(const char* p, std::int64_t lanes) { return _mm512_maskz_loadu_epi32(first(lanes), p); }
  static void store_some(V v, char* p, std::int64_t lanes) { _mm512_mask_storeu_epi32(p, first(lanes), v); }
};

#include "backend/cpu/gemm/micro-inl.h"
#include "backend/cpu/gemm/quads-inl.h"

}  // namespace
}  // namespace vnni512
}  // namespace metal_candle::cpu
HWY_POP_ATTRIBUTES

HWY_PUSH_ATTRIBUTES("avx2,avxvnni,fma")
namespace metal_candle::cpu {
namespace vnni256 {
namespace {

template <bool kSignedLeft>
struct Ops {
  using V = __m256i;
  static constexpr std::int64_t kBytes = 32;
  static constexpr bool kNarrows = false, kTakesLess = true;
  static V zero() { return _mm256_setzero_si256(); }
  static V load(const char* p) { return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)); }
  static V broadcast(const char* p) {
    int unit;
    __builtin_memcpy(&unit, p, sizeof unit);
    return _mm256_set1_epi32(unit);
  }
  static V fma(V a, V b, V c) {
    return kSignedLeft ? _mm256_dpbusd_avx_epi32(c, b, a) : _mm256_dpbusd_avx_epi32(c, a, b);
  }
  static V minus(V a, std::int32_t b) { return _mm256_sub_epi32(a, _mm256_set1_epi32(b)); }
  static void store(V v, char* p) { _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), v); }

  static V top_bits() { return _mm256_set1_epi8(-128); }
  static V first(std::int64_t lanes) {
    return _mm256_cmpgt_epi32(_mm256_set1_epi32(static_cast<int>(lanes)), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
  }
  static V load_some(const char* p, std::int64_t lanes) {
    return _mm256_maskload_epi32(reinterpret_cast<const int*>(p), first(lanes));
  }
  static void store_some(V v, char* p, std::int64_t lanes) {
    _mm256_maskstore_epi32(reinterpret_cast<int*>(p), first(lanes), v);
  }
};

#include "backend/cpu/gemm/micro-inl.h"  // NOLINT(readability-duplicate-include)
#include "backend/cpu/gemm/quads-inl.h"  // NOLINT(readability-duplicate-include)

}  // namespace
}  // namespace vnni256
}  // namespace metal_candle::cpu
HWY_POP_ATTRIBUTES

namespace metal_candle::cpu {
namespace {

bool has_avx_vnni() {
  unsigned a = 0, b = 0, c = 0, d = 0;  // not every compiler's __builtin_cpu_supports knows the name
  return __builtin_cpu_supports("avx2") && __get_cpuid_count(7, 1, &a, &b, &c, &d) != 0 && (a >> 4 & 1) != 0;
}

}  // namespace

bool add_vnni(KernelSet& set) {
  static const bool wide = __builtin_cpu_supports("avx512vnni") && __builtin_cpu_supports("avx512bw") &&
                           __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq");
  static const bool narrow = has_avx_vnni();
  if (set.f32.lanes == 16 && wide) vnni512::add_quads<vnni512::Ops<true>, vnni512::Ops<false>, 24, 14, 6, 2>(set);
  else if (set.f32.lanes == 8 && narrow) vnni256::add_quads<vnni256::Ops<true>, vnni256::Ops<false>, 12, 6, 2, 1>(set);
  else return false;
  return true;
}

}  // namespace metal_candle::cpu

#else

namespace metal_candle::cpu {
bool add_vnni(KernelSet&) { return false; }
}  // namespace metal_candle::cpu

#endif
