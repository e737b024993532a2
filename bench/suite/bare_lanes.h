// Sixteen elements at a time, for the loops of bare_block.cpp: f32 or bf16 in memory, f32 in registers. AVX-512 with
// AVX512_BF16 only; include within a region that is compiled for them. Not for subnormal numbers.
struct F32Lanes {
  using T = float;
  static constexpr mc::cpu::GemmType kGemm = mc::cpu::GemmType::f32;
  static constexpr mc::DType kDtype = mc::DType::f32;
  static __m512 load(const T* p) { return _mm512_loadu_ps(p); }
  static void store(__m512 x, T* p) { _mm512_storeu_ps(p, x); }
};

struct Bf16Lanes {
  using T = mc::bf16;
  static constexpr mc::cpu::GemmType kGemm = mc::cpu::GemmType::bf16;
  static constexpr mc::DType kDtype = mc::DType::bf16;
  static __m512 load(const T* p) {
    const __m256i halves = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(halves), 16));
  }
  static void store(__m512 x, T* p) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), (__m256i)_mm512_cvtneps_pbh(x));
  }
};

inline __m512 lanes(float x) { return _mm512_set1_ps(x); }

/// 1 / (1 + exp(-x)), to a few units in the last place.
inline __m512 sigmoid(__m512 x) {
  const __m512 t = _mm512_mul_ps(_mm512_max_ps(x, lanes(-80)), lanes(-1.44269504f));
  const __m512 whole = _mm512_roundscale_ps(t, 0), f = _mm512_sub_ps(t, whole);
  __m512 p = _mm512_fmadd_ps(lanes(1.8775767e-3f), f, lanes(8.9893397e-3f));
  p = _mm512_fmadd_ps(p, f, lanes(5.5826318e-2f));
  p = _mm512_fmadd_ps(p, f, lanes(0.24015361f));
  p = _mm512_fmadd_ps(p, f, lanes(0.69315308f));
  const __m512 e = _mm512_scalef_ps(_mm512_fmadd_ps(p, f, lanes(0.99999994f)), whole);
  const __m512 d = _mm512_add_ps(e, lanes(1)), guess = _mm512_rcp14_ps(d);
  return _mm512_mul_ps(guess, _mm512_fnmadd_ps(d, guess, lanes(2)));
}
