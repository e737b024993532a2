// Moving f32 registers to and from memory: 16-bit floats, copies, stores that go past the caches. And random numbers.
// Every instruction set.
#include "backend/cpu/vm/targets.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "backend/cpu/vm/memory.cpp"
#include "hwy/foreach_target.h"

#include <bit>
#include <cstring>

#include "backend/cpu/vm/kernel_parts.h"
#include "backend/cpu/vm/native_bf16.h"
#include "backend/cpu/vm/philox.h"
#include "backend/cpu/vm/rows-inl.h"

HWY_BEFORE_NAMESPACE();
namespace metal_candle::cpu::vm::HWY_NAMESPACE {
namespace {

using DU = hn::RebindToUnsigned<DF>;
using DU16 = hn::Rebind<std::uint16_t, DF>;
inline constexpr DU du;
inline constexpr DU16 du16;
// Half precision in hardware; elsewhere Highway's emulation is not exact for denormals, and lanes go one by one.
#define MC_HAVE_F16 (HWY_TARGET == HWY_AVX2 || HWY_TARGET == HWY_AVX3 || HWY_TARGET == HWY_NEON)

struct Brain {
  static HWY_INLINE F widen(const std::uint16_t* p) { return widened_bf16(p); }
  static HWY_INLINE auto round(F x) {
    const auto u = hn::BitCast(du, x.v);
    const auto high = hn::ShiftRight<16>(u);
    const auto odd = hn::And(high, hn::Set(du, 1u));
    const auto rounded = hn::ShiftRight<16>(hn::Add(u, hn::Add(odd, hn::Set(du, 0x7fffu))));
    const auto quiet = hn::Or(high, hn::Set(du, 0x40u));
    return hn::BitCast(di, hn::IfThenElse(hn::RebindMask(du, is_nan(x).m), quiet, rounded));
  }
  static HWY_INLINE void narrow(F x, std::uint16_t* p) { hn::StoreU(hn::DemoteTo(du16, round(x)), du16, p); }
};

struct Half {
#if MC_HAVE_F16
  static HWY_INLINE F widen(const std::uint16_t* p) {
    const hn::Rebind<hwy::float16_t, DF> d16;
    return F(hn::PromoteTo(df, hn::LoadU(d16, reinterpret_cast<const hwy::float16_t*>(p))));
  }
  static HWY_INLINE void narrow(F x, std::uint16_t* p) {
    const hn::Rebind<hwy::float16_t, DF> d16;
    hn::StoreU(hn::DemoteTo(d16, x.v), d16, reinterpret_cast<hwy::float16_t*>(p));
  }
#else
  static HWY_INLINE F widen(const std::uint16_t* p) {
    HWY_ALIGN float x[HWY_MAX_BYTES / 4];
    for (std::size_t i = 0; i < hn::Lanes(df); ++i) x[i] = static_cast<float>(std::bit_cast<f16>(p[i]));
    return hn::Load(df, x);
  }
  static HWY_INLINE void narrow(F v, std::uint16_t* p) {
    HWY_ALIGN float x[HWY_MAX_BYTES / 4];
    hn::Store(v.v, df, x);
    for (std::size_t i = 0; i < hn::Lanes(df); ++i) p[i] = f16(x[i]).bits;
  }
#endif
};

template <class Format>
void widen(const Instr& in, const Frame& f) {
  const int n = static_cast<int>(hn::Lanes(df));
  float* out = at<float>(in.out, f);
  const std::uint16_t* a = at<const std::uint16_t>(in.a, f);
  const int rows = f.rows, cols = f.cols;  // read again after every store otherwise
  const auto out_row = pitch(in.out, f), a_row = pitch(in.a, f);
  for (int r = 0; r < rows; ++r, out = step(out, out_row), a = step(a, a_row)) {
    int c = 0;
    for (; c + 4 * n <= cols; c += 4 * n)
      for (int i = 0; i < 4; ++i) store(Format::widen(a + c + i * n), out + c + i * n);
    for (; c + n <= cols; c += n) store(Format::widen(a + c), out + c);
    if (const int rest = cols - c; rest > 0) {
      std::uint16_t some[HWY_MAX_BYTES / 4] = {};
      for (int i = 0; i < rest; ++i) some[i] = a[c + i];
      store_some(Format::widen(some), out + c, static_cast<std::size_t>(rest));
    }
  }
}

template <class Format>
void narrow(const Instr& in, const Frame& f) {
  const int n = static_cast<int>(hn::Lanes(df));
  std::uint16_t* out = at<std::uint16_t>(in.out, f);
  const float* a = at<const float>(in.a, f);
  for (int r = 0; r < f.rows; ++r, out = step(out, pitch(in.out, f)), a = step(a, pitch(in.a, f))) {
    int c = 0;
    for (; c + n <= f.cols; c += n) Format::narrow(load(a + c), out + c);
    if (const int rest = f.cols - c; rest > 0) {
      std::uint16_t some[HWY_MAX_BYTES / 4];
      Format::narrow(load_some(a + c, static_cast<std::size_t>(rest)), some);
      for (int i = 0; i < rest; ++i) out[c + i] = some[i];
    }
  }
}

struct Same {
  Input<true> a;
  static HWY_INLINE Same of(const Instr& in, const Frame& f) { return {{in.a, f}}; }
  HWY_INLINE F all(int c) const { return a.all(c); }
  HWY_INLINE F some(int c, int n) const { return a.some(c, n); }
  HWY_INLINE void next() { a.next(); }
};
void copy(const Instr& in, const Frame& f) { run_rows<Same>(in, f); }

/// To a 16-bit float and back.
template <class Format>
struct Rounded {
  Input<true> a;
  static HWY_INLINE Rounded of(const Instr& in, const Frame& f) { return {{in.a, f}}; }
  static HWY_INLINE F through(F x) {
    HWY_ALIGN std::uint16_t half[HWY_MAX_BYTES / 4];
    Format::narrow(x, half);
    return Format::widen(half);
  }
  HWY_INLINE F all(int c) const { return through(a.all(c)); }
  HWY_INLINE F some(int c, int n) const { return through(a.some(c, n)); }
  HWY_INLINE void next() { a.next(); }
};
template <>
HWY_INLINE F Rounded<Brain>::through(F x) {
  return F(hn::BitCast(df, hn::ShiftLeft<16>(Brain::round(x))));
}
template <class Format>
void rounded(const Instr& in, const Frame& f) {
  run_rows<Rounded<Format>>(in, f);
}

void stream(const Instr& in, const Frame& f) {
  const int n = static_cast<int>(hn::Lanes(df));
  const Fetcher fetcher(in, f);
  float* out = at<float>(in.out, f);
  const float* a = at<const float>(in.a, f);
  for (int r = 0; r < f.rows; ++r, out = step(out, pitch(in.out, f)), a = step(a, pitch(in.a, f))) {
    int c = head_of(out, 4, f.cols);
    for (int i = 0; i < c; ++i) out[i] = a[i];
    for (; c + 4 * n <= f.cols; c += 4 * n) {
      fetcher.four(c);
      for (int i = 0; i < 4; ++i) hn::Stream(load(a + c + i * n).v, df, out + c + i * n);
    }
    for (; c + n <= f.cols; c += n) hn::Stream(load(a + c).v, df, out + c);
    for (; c < f.cols; ++c) out[c] = a[c];
  }
}

void stream_bf16(const Instr& in, const Frame& f) {
#if HWY_TARGET != HWY_SCALAR
  const int n = static_cast<int>(hn::Lanes(df));
  const hn::Repartition<std::uint16_t, DF> whole;
#endif
  std::uint16_t* out = at<std::uint16_t>(in.out, f);
  const float* a = at<const float>(in.a, f);
  for (int r = 0; r < f.rows; ++r, out = step(out, pitch(in.out, f)), a = step(a, pitch(in.a, f))) {
    int c = head_of(out, 2, f.cols);
    for (int i = 0; i < c; ++i) out[i] = bf16(a[i]).bits;
#if HWY_TARGET != HWY_SCALAR
    HWY_ALIGN std::uint16_t pair[HWY_MAX_BYTES / 2];
    for (; c + 2 * n <= f.cols; c += 2 * n) {
      Brain::narrow(load(a + c), pair);
      Brain::narrow(load(a + c + n), pair + n);
      hn::Stream(hn::Load(whole, pair), whole, out + c);
    }
#endif
    for (; c < f.cols; ++c) out[c] = bf16(a[c]).bits;
  }
}

constexpr int kDraws = 16;

struct Uniform {
  static HWY_INLINE F make(const std::uint32_t* w0, const std::uint32_t*) {
    const VI w = hn::BitCast(di, hn::ShiftRight<8>(hn::LoadU(du, w0)));
    return F(hn::ConvertTo(df, w)) * k(5.9604644775390625e-8f);
  }
};
struct Normal {
  static HWY_INLINE F make(const std::uint32_t* w0, const std::uint32_t* w1) {
    const VI w = hn::BitCast(di, hn::ShiftRight<1>(hn::LoadU(du, w0)));
    const F u = fma(F(hn::ConvertTo(df, w)), k(4.656612873077393e-10f), k(2.3283064365386963e-10f));
    const F turn = F(hn::ConvertTo(df, hn::BitCast(di, hn::LoadU(du, w1)))) * k(9.313225746154785e-10f);
    const F n = round(turn);
    const F cosine = sin_quadrant((turn - n) * k(1.57079637f), hn::Add(hn::NearestInt(n.v), hn::Set(di, 1)));
    return sqrt(k(-2) * log(u)) * cosine;
  }
};

template <class Kind>
void draw(const Instr& in, const Frame& f) {
  const int n = static_cast<int>(hn::Lanes(df));
  const int key_step = in.extra->step_a, counter_step = in.extra->step_b;
  float* out = at<float>(in.out, f);
  const std::uint64_t *a = at<const std::uint64_t>(in.a, f), *b = at<const std::uint64_t>(in.b, f);
  for (int r = 0; r < f.rows; ++r) {
    for (int c = 0; c < f.cols; c += kDraws) {
      std::uint64_t key[kDraws], counter[kDraws];
      std::uint32_t words[4][kDraws];
      for (int i = 0; i < kDraws; ++i) {
        const int from = c + i < f.cols ? c + i : c;
        key[i] = a[from * key_step];
        counter[i] = b[from * counter_step];
      }
      philox(key, counter, words);
      for (int i = 0; i < kDraws && c + i < f.cols; i += n) {
        const int some = f.cols - c - i < n ? f.cols - c - i : n;
        store_some(Kind::make(words[0] + i, words[1] + i), out + c + i, static_cast<std::size_t>(some));
      }
    }
    out = step(out, pitch(in.out, f));
    a = step(a, pitch(in.a, f));
    b = step(b, pitch(in.b, f));
  }
}

}  // namespace

void fill_memory(VectorKernels& table) {
  table.load_bf16 = widen<Brain>;
  table.load_f16 = widen<Half>;
  table.store_bf16 = narrow<Brain>;
  table.store_f16 = narrow<Half>;
  table.copy = copy;
  table.round_bf16 = rounded<Brain>;
  table.round_f16 = rounded<Half>;
  table.stream = stream;
  table.stream_bf16 = stream_bf16;
  table.uniform = draw<Uniform>;
  table.normal = draw<Normal>;
#if HWY_TARGET == HWY_AVX3
  fill_native_bf16(table);
#endif
  table.name = hwy::TargetName(HWY_TARGET);
}

}  // namespace metal_candle::cpu::vm::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace metal_candle::cpu::vm {
HWY_EXPORT(fill_memory);
void fill_memory(VectorKernels& table) { HWY_DYNAMIC_DISPATCH(fill_memory)(table); }
}  // namespace metal_candle::cpu::vm
#endif
