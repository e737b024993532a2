// The loops are plain C++ over blocks of fixed size, compiled once for every instruction set: that is all the compiler
// needs to make vectors of them.
#define HWY_DISABLED_TARGETS (HWY_SSSE3 | HWY_AVX3_DL | HWY_SVE | HWY_SVE2 | HWY_SVE_256 | HWY_SVE2_128)

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "io/dequantize.cpp"
#include <hwy/foreach_target.h>

#include <hwy/highway.h>

#include <algorithm>
#include <bit>
#include <cstring>
#include <iterator>
#include <type_traits>

#include "base/thread_pool.h"
#include "io/dequantize.h"
#include "metal_candle/error.hpp"

HWY_BEFORE_NAMESPACE();
namespace metal_candle::io {
namespace HWY_NAMESPACE {
namespace {

using Byte = std::uint8_t;
using Decode = void (*)(const Byte* from, std::size_t blocks, void* out);

inline std::uint16_t word_at(const Byte* p) { return static_cast<std::uint16_t>(p[0] | p[1] << 8); }

/// Without branches, so that loops over it become vectors. A half's subnormals become normal numbers by the product.
inline float from_half(std::uint16_t half) {
  const std::uint32_t sign = static_cast<std::uint32_t>(half & 0x8000u) << 16, rest = half & 0x7fffu;
  const std::uint32_t finite = std::bit_cast<std::uint32_t>(std::bit_cast<float>(rest << 13) * 0x1p112f);
  return std::bit_cast<float>(sign | (rest >= 0x7c00u ? 0x7f800000u | rest << 13 : finite));
}

inline void store(float value, float& to) { to = value; }

inline void store(float value, bf16& to) {
  const auto u = std::bit_cast<std::uint32_t>(value);
  const bool nan = (u & 0x7fffffffu) > 0x7f800000u;
  to.bits = static_cast<std::uint16_t>((nan ? u | 0x400000u : u + 0x7fffu + (u >> 16 & 1u)) >> 16);
}

/// To nearest even: normal halves by rounding the float's bits, subnormal ones by an addition that shifts them in
/// place.
inline void store(float value, f16& to) {
  const auto u = std::bit_cast<std::uint32_t>(value);
  const std::uint32_t sign = u >> 16 & 0x8000u, rest = u & 0x7fffffffu;
  const std::uint32_t normal = (rest - (112u << 23) + 0xfffu + (rest >> 13 & 1u)) >> 13;
  const std::uint32_t subnormal = std::bit_cast<std::uint32_t>(std::bit_cast<float>(rest) + 0.5f) - 0x3f000000u;
  const std::uint32_t finite = rest < (113u << 23) ? subnormal : std::min(normal, 0x7c00u);
  to.bits = static_cast<std::uint16_t>(sign | (rest > 0x7f800000u ? 0x7e00u : finite));
}

// A format: how many values in how many bytes, and one block's decoding. Multiplication and addition round apart.

struct F32 {
  static constexpr int kValues = 1, kBytes = 4;
  template <class T>
  static void decode(const Byte* p, T* out) {
    float value;
    std::memcpy(&value, p, sizeof value);
    store(value, *out);
  }
};

struct F16 {
  static constexpr int kValues = 1, kBytes = 2;
  template <class T>
  static void decode(const Byte* p, T* out) {
    store(from_half(word_at(p)), *out);
  }
};

struct BF16 {
  static constexpr int kValues = 1, kBytes = 2;
  template <class T>
  static void decode(const Byte* p, T* out) {
    store(std::bit_cast<float>(static_cast<std::uint32_t>(word_at(p)) << 16), *out);
  }
};

#undef MC_LOOK_UP
#if HWY_TARGET != HWY_SCALAR
namespace hn = hwy::HWY_NAMESPACE;

/// A block of four-bit codes has sixteen values: they are computed once, and looked up a byte at a time. `value` gives
/// them from a vector of codes.
template <class Value>
void look_up(const Byte* codes, const Value& value, bf16* out) {
  const hn::CappedTag<float, 16> df;
  const hn::RebindToSigned<decltype(df)> di;
  const hn::Rebind<Byte, decltype(df)> dn;
  alignas(16) Byte low[16], high[16];
  for (std::size_t i = 0; i < 16; i += hn::Lanes(df)) {
    const auto u = hn::BitCast(di, value(df, hn::Iota(df, static_cast<float>(i))));
    const auto odd = hn::And(hn::ShiftRight<16>(u), hn::Set(di, 1));
    const auto rounded = hn::ShiftRight<16>(hn::Add(u, hn::Add(odd, hn::Set(di, 0x7fff))));
    const auto nan = hn::ShiftRight<16>(hn::Or(u, hn::Set(di, 0x400000)));
    const auto is_nan = hn::Gt(hn::And(u, hn::Set(di, 0x7fffffff)), hn::Set(di, 0x7f800000));
    const auto bits = hn::IfThenElse(is_nan, nan, rounded), byte = hn::Set(di, 255);
    hn::StoreU(hn::DemoteTo(dn, hn::And(bits, byte)), dn, low + i);
    hn::StoreU(hn::DemoteTo(dn, hn::And(hn::ShiftRight<8>(bits), byte)), dn, high + i);
  }
  const hn::Full128<Byte> d;
  const auto lows = hn::Load(d, low), highs = hn::Load(d, high), both = hn::LoadU(d, codes);
  Byte* to = reinterpret_cast<Byte*>(out);
  for (const auto code : {hn::And(both, hn::Set(d, 15)), hn::ShiftRight<4>(both)}) {
    const auto l = hn::TableLookupBytes(lows, code), h = hn::TableLookupBytes(highs, code);
    hn::StoreU(hn::InterleaveLower(d, l, h), d, to);
    hn::StoreU(hn::InterleaveUpper(d, l, h), d, to + 16);
    to += 32;
  }
}
#define MC_LOOK_UP 1
#else
#define MC_LOOK_UP 0
#endif

struct Q4_0 {
  static constexpr int kValues = 32, kBytes = 18;
  template <class T>
  static void decode(const Byte* p, T* out) {
    const float d = from_half(word_at(p));
#if MC_LOOK_UP
    if constexpr (std::is_same_v<T, bf16>) {
      look_up(
          p + 2, [d](auto df, auto code) { return hn::Mul(hn::Set(df, d), hn::Sub(code, hn::Set(df, 8.0f))); }, out);
      return;
    }
#endif
    for (int i = 0; i < 16; ++i) store(d * static_cast<float>((p[2 + i] & 15) - 8), out[i]);
    for (int i = 0; i < 16; ++i) store(d * static_cast<float>((p[2 + i] >> 4) - 8), out[16 + i]);
  }
};

struct Q4_1 {
  static constexpr int kValues = 32, kBytes = 20;
  template <class T>
  static void decode(const Byte* p, T* out) {
    const float d = from_half(word_at(p)), m = from_half(word_at(p + 2));
#if MC_LOOK_UP
    if constexpr (std::is_same_v<T, bf16>) {
      look_up(
          p + 4, [d, m](auto df, auto code) { return hn::Add(hn::Mul(hn::Set(df, d), code), hn::Set(df, m)); }, out);
      return;
    }
#endif
    for (int i = 0; i < 16; ++i) store(d * static_cast<float>(p[4 + i] & 15) + m, out[i]);
    for (int i = 0; i < 16; ++i) store(d * static_cast<float>(p[4 + i] >> 4) + m, out[16 + i]);
  }
};

/// The fifth bit of value i, in its place.
inline int fifth(std::uint32_t high, int i) { return static_cast<int>(high >> i & 1u) << 4; }

inline std::uint32_t dword_at(const Byte* p) { return word_at(p) | static_cast<std::uint32_t>(word_at(p + 2)) << 16; }

struct Q5_0 {
  static constexpr int kValues = 32, kBytes = 22;
  template <class T>
  static void decode(const Byte* p, T* out) {
    const float d = from_half(word_at(p));
    const std::uint32_t high = dword_at(p + 2);
    for (int i = 0; i < 16; ++i) store(d * static_cast<float>(((p[6 + i] & 15) | fifth(high, i)) - 16), out[i]);
    for (int i = 0; i < 16; ++i) store(d * static_cast<float>((p[6 + i] >> 4 | fifth(high, 16 + i)) - 16), out[16 + i]);
  }
};

struct Q5_1 {
  static constexpr int kValues = 32, kBytes = 24;
  template <class T>
  static void decode(const Byte* p, T* out) {
    const float d = from_half(word_at(p)), m = from_half(word_at(p + 2));
    const std::uint32_t high = dword_at(p + 4);
    for (int i = 0; i < 16; ++i) store(d * static_cast<float>((p[8 + i] & 15) | fifth(high, i)) + m, out[i]);
    for (int i = 0; i < 16; ++i) store(d * static_cast<float>(p[8 + i] >> 4 | fifth(high, 16 + i)) + m, out[16 + i]);
  }
};

struct Q8_0 {
  static constexpr int kValues = 32, kBytes = 34;
  template <class T>
  static void decode(const Byte* p, T* out) {
    const float d = from_half(word_at(p));
    for (int i = 0; i < 32; ++i) store(static_cast<float>(static_cast<std::int8_t>(p[2 + i])) * d, out[i]);
  }
};

/// The eight 6-bit scales and minima that Q4_K and Q5_K keep in twelve bytes, times the block's own.
struct Scales {
  float scale[8], minimum[8];
  explicit Scales(const Byte* p) {
    const float d = from_half(word_at(p)), dmin = from_half(word_at(p + 2));
    const Byte* s = p + 4;
    for (int i = 0; i < 4; ++i) {
      scale[i] = d * static_cast<float>(s[i] & 63);
      minimum[i] = dmin * static_cast<float>(s[4 + i] & 63);
      scale[4 + i] = d * static_cast<float>((s[8 + i] & 15) | (s[i] >> 2 & 48));
      minimum[4 + i] = dmin * static_cast<float>((s[8 + i] >> 4) | (s[4 + i] >> 2 & 48));
    }
  }
};

struct Q4_K {
  static constexpr int kValues = 256, kBytes = 144;
  template <class T>
  static void decode(const Byte* p, T* out) {
    const Scales s(p);
    for (int part = 0; part < 8; part += 2, out += 64) {
      const Byte* q = p + 16 + part * 16;
      for (int i = 0; i < 32; ++i) store(s.scale[part] * static_cast<float>(q[i] & 15) - s.minimum[part], out[i]);
      for (int i = 0; i < 32; ++i)
        store(s.scale[part + 1] * static_cast<float>(q[i] >> 4) - s.minimum[part + 1], out[32 + i]);
    }
  }
};

struct Q5_K {
  static constexpr int kValues = 256, kBytes = 176;
  template <class T>
  static void decode(const Byte* p, T* out) {
    const Scales s(p);
    const Byte* high = p + 16;
    for (int part = 0; part < 8; part += 2, out += 64) {
      const Byte* q = p + 48 + part * 16;
      for (int i = 0; i < 32; ++i)
        store(s.scale[part] * static_cast<float>((q[i] & 15) | fifth(high[i], part)) - s.minimum[part], out[i]);
      for (int i = 0; i < 32; ++i)
        store(s.scale[part + 1] * static_cast<float>((q[i] >> 4) | fifth(high[i], part + 1)) - s.minimum[part + 1],
              out[32 + i]);
    }
  }
};

struct Q6_K {
  static constexpr int kValues = 256, kBytes = 210;
  template <class T>
  static void decode(const Byte* p, T* out) {
    const float d = from_half(word_at(p + 208));
    for (int half = 0; half < 2; ++half, out += 128) {
      const Byte *low = p + half * 64, *high = p + 128 + half * 32, *scales = p + 192 + half * 8;
      for (int part = 0; part < 4; ++part) {  // 32 values each: low nibbles twice, then high ones
        const Byte* q = low + (part & 1) * 32;
        float scale[2];
        for (int i = 0; i < 2; ++i) scale[i] = d * static_cast<float>(static_cast<std::int8_t>(scales[2 * part + i]));
        for (int i = 0; i < 32; ++i) {
          const int four = part < 2 ? q[i] & 15 : q[i] >> 4;
          store(scale[i / 16] * static_cast<float>((four | (high[i] >> (2 * part) & 3) << 4) - 32), out[part * 32 + i]);
        }
      }
    }
  }
};

template <class Format, class T>
void decode(const Byte* from, std::size_t blocks, void* out) {
  T* to = static_cast<T*>(out);
  for (std::size_t b = 0; b < blocks; ++b) Format::decode(from + b * Format::kBytes, to + b * Format::kValues);
}

template <class Format>
constexpr Decode to_each[3] = {&decode<Format, float>, &decode<Format, bf16>, &decode<Format, f16>};

Decode find_decoder(std::uint32_t id, int to) {
  switch (id) {
    case 0: return to_each<F32>[to];
    case 1: return to_each<F16>[to];
    case 2: return to_each<Q4_0>[to];
    case 3: return to_each<Q4_1>[to];
    case 6: return to_each<Q5_0>[to];
    case 7: return to_each<Q5_1>[to];
    case 8: return to_each<Q8_0>[to];
    case 12: return to_each<Q4_K>[to];
    case 13: return to_each<Q5_K>[to];
    case 14: return to_each<Q6_K>[to];
    case 30: return to_each<BF16>[to];
    default: return nullptr;
  }
}

}  // namespace

auto decoder(std::uint32_t id, int to) { return find_decoder(id, to); }

}  // namespace HWY_NAMESPACE
}  // namespace metal_candle::io
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace metal_candle::io {
namespace {

HWY_EXPORT(decoder);

constexpr Encoding kEncodings[] = {
    {0, "F32", 1, 4, true},
    {1, "F16", 1, 2, true},
    {2, "Q4_0", 32, 18, true},
    {3, "Q4_1", 32, 20, true},
    {6, "Q5_0", 32, 22, true},
    {7, "Q5_1", 32, 24, true},
    {8, "Q8_0", 32, 34, true},
    {10, "Q2_K", 256, 84},
    {11, "Q3_K", 256, 110},
    {12, "Q4_K", 256, 144, true},
    {13, "Q5_K", 256, 176, true},
    {14, "Q6_K", 256, 210, true},
    {16, "IQ2_XXS", 256, 66},
    {17, "IQ2_XS", 256, 74},
    {18, "IQ3_XXS", 256, 98},
    {19, "IQ1_S", 256, 50},
    {20, "IQ4_NL", 32, 18},
    {21, "IQ3_S", 256, 110},
    {22, "IQ2_S", 256, 82},
    {23, "IQ4_XS", 256, 136},
    {24, "I8", 1, 1},
    {25, "I16", 1, 2},
    {26, "I32", 1, 4},
    {27, "I64", 1, 8},
    {28, "F64", 1, 8},
    {29, "IQ1_M", 256, 56},
    {30, "BF16", 1, 2, true},
    {34, "TQ1_0", 256, 54},
    {35, "TQ2_0", 256, 66},
    {39, "MXFP4", 32, 17},
};
constexpr std::size_t kTaskValues = std::size_t{1} << 16;  // some tens of microseconds

}  // namespace

const Encoding* find_encoding(std::uint32_t id) {
  const auto* found = std::ranges::find(kEncodings, id, &Encoding::id);
  return found == std::end(kEncodings) ? nullptr : found;
}

const Encoding* find_encoding(std::string_view name) {
  const auto* found = std::ranges::find(kEncodings, name, &Encoding::name);
  return found == std::end(kEncodings) ? nullptr : found;
}

void dequantize(const Encoding& encoding, const std::byte* from, std::size_t blocks, DType as, void* out) {
  const int to = as == DType::f32 ? 0 : as == DType::bf16 ? 1 : 2;
  const auto decode = HWY_DYNAMIC_DISPATCH(decoder)(encoding.id, to);
  if (!decode) throw InternalError("dequantize: no decoder for " + std::string(encoding.name));
  const std::size_t task_blocks = kTaskValues / encoding.values;
  const std::size_t block_out = encoding.values * size_of(as);
  const auto tasks = static_cast<std::uint32_t>((blocks + task_blocks - 1) / task_blocks);
  base::parallel_for(tasks, tasks == 1 ? 1 : base::threads(), [&](std::uint32_t task, int) {
    const std::size_t first = task * task_blocks, count = std::min(task_blocks, blocks - first);
    decode(reinterpret_cast<const std::uint8_t*>(from) + first * encoding.bytes, count,
           static_cast<std::byte*>(out) + first * block_out);
  });
}

}  // namespace metal_candle::io
#endif
