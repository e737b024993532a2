// A packed bf16 weight in three quarters of its bytes, and micro kernels on vdpbf16ps that read it: what is read once
// from memory, as every weight of a decoded token is, takes that much less time.
//
// A bf16's low byte (the exponent's last bit and the mantissa) is kept as it is. Its high byte, sign and seven bits of
// the exponent, takes one of few values in a panel: four bits say which of 16. The rare weights with another one, one of
// thousands, are listed with their places in front of the panel. So nothing is lost, and sums have the bits that they
// have on packed weights.
//
//   16 bytes   the high byte for each code: eight exponents, first positive, then negative
//   8 bytes    bytes in front of the groups
//   8 bytes each: the exceptions in order, group << 32 | place << 16 | weight; one more behind all groups
//   for each group of two steps: 64 low bytes of each, 64 bytes with a code of each
#include <algorithm>
#include <cstring>
#include <utility>

#include "backend/cpu/gemm/kernels.h"
#include "backend/cpu/intrinsics.h"

#if defined(__x86_64__)

HWY_PUSH_ATTRIBUTES("avx512f,avx512bw,avx512vl,avx512dq,avx512bf16,fma")  // GCC's pragma or clang's
namespace metal_candle::cpu {
namespace {

constexpr std::int64_t kGroupBytes = 192, kPackedGroup = 256, kGroupWeights = 128;
constexpr std::int64_t kTopBytes = 16, kFirstException = 24;
constexpr std::uint64_t kBehindAll = std::uint64_t{0x7fffffff} << 32;

/// Room for one exception in 512 weights, and the end.
constexpr std::int64_t front_bytes(std::int64_t steps) { return (kFirstException + 8 + steps + 63) / 64 * 64; }

std::uint64_t word_at(const char* p) {
  std::uint64_t word;
  std::memcpy(&word, p, sizeof word);
  return word;
}
std::int64_t group_of(std::uint64_t exception) { return static_cast<std::int64_t>(exception >> 32); }

template <int kRows>
struct Sums {
  __m512 of[kRows][2];

  /// One more step of all chains.
  __attribute__((always_inline)) void add(const char* const* a, std::int64_t a_row, __m512i low, __m512i high) {
#pragma GCC unroll 16
    for (int r = 0; r < kRows; ++r) {
      int pair;
      std::memcpy(&pair, a[r / 3] + (r % 3) * a_row, sizeof pair);
      const auto both = (__m512bh)_mm512_set1_epi32(pair);
      of[r][0] = _mm512_dpbf16_ps(of[r][0], both, (__m512bh)low);
      of[r][1] = _mm512_dpbf16_ps(of[r][1], both, (__m512bh)high);
    }
  }
};

/// High bytes of a step: `codes` in the low halves of bytes.
__attribute__((always_inline)) inline __m512i tops_of(__m512i table, __m512i codes) {
  return _mm512_shuffle_epi8(table, _mm512_and_si512(codes, _mm512_set1_epi8(15)));
}

/// A group with exceptions as it lies in a packed panel; the exception behind it.
const char* restore(const char* group, __m512i table, const char* exception, char* packed) {
  const __m512i codes = _mm512_loadu_si512(group + 128);
  const __m512i tops[2] = {tops_of(table, codes), tops_of(table, _mm512_srli_epi16(codes, 4))};
  for (int s = 0; s < 2; ++s) {
    const __m512i low = _mm512_loadu_si512(group + 64 * s);
    _mm512_storeu_si512(packed + 128 * s, _mm512_unpacklo_epi8(low, tops[s]));
    _mm512_storeu_si512(packed + 128 * s + 64, _mm512_unpackhi_epi8(low, tops[s]));
  }
  const std::int64_t here = group_of(word_at(exception));
  for (; group_of(word_at(exception)) == here; exception += 8) {
    const std::uint64_t e = word_at(exception);
    const auto weight = static_cast<std::uint16_t>(e);
    std::memcpy(packed + 2 * (e >> 16 & 0xffff), &weight, sizeof weight);
  }
  return exception;
}

template <int kRows>
void squeezed_kernel(const MicroArgs& p) {
  constexpr int kBases = (kRows + 2) / 3;
  const std::int64_t a_row = p.a_row, a_step = p.a_step, ahead = p.ahead, c_row = p.c_row;
  Sums<kRows> sums;
#pragma GCC unroll 16
  for (int r = 0; r < kRows; ++r)
#pragma GCC unroll 2
    for (int v = 0; v < 2; ++v)
      sums.of[r][v] = p.accumulate ? _mm512_loadu_ps(p.c + r * c_row + v * 64) : _mm512_setzero_ps();
  const char* a[kBases];
#pragma GCC unroll 8
  for (int i = 0; i < kBases; ++i) a[i] = p.a + 3 * i * a_row;
  const __m512i table = _mm512_broadcast_i32x4(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p.b)));
  const auto front = static_cast<std::int64_t>(word_at(p.b + kTopBytes));
  std::int64_t group = p.first / 2;
  const std::int64_t end = group + p.steps / 2;
  const char *b = p.b + front + group * kGroupBytes, *exception = p.b + kFirstException, *fetched = p.next_a;
  for (std::int64_t at = 0; group == 0 && at < front; at += 64) __builtin_prefetch(p.b + ahead + at);
  while (group_of(word_at(exception)) < group) exception += 8;
  const auto advance = [&]() __attribute__((always_inline)) {
#pragma GCC unroll 8
    for (int i = 0; i < kBases; ++i) a[i] += a_step;
  };
  for (;;) {
    const std::int64_t next = group_of(word_at(exception)), until = next < end ? next : end;
    for (; group < until; ++group, b += kGroupBytes) {
#pragma GCC unroll 4
      for (int line = 0; line < 3; ++line) __builtin_prefetch(b + ahead + 64 * line);
      if constexpr (kRows >= 6) {
        if (fetched != nullptr && group % 8 == 0) {
          for (int r = 0; r < kRows; ++r) __builtin_prefetch(fetched + r * a_row);
          fetched += 64;
        }
      }
      const __m512i codes = _mm512_loadu_si512(b + 128);
      const __m512i first = tops_of(table, codes), low = _mm512_loadu_si512(b);
      sums.add(a, a_row, _mm512_unpacklo_epi8(low, first), _mm512_unpackhi_epi8(low, first));
      advance();
      const __m512i second = tops_of(table, _mm512_srli_epi16(codes, 4)), high = _mm512_loadu_si512(b + 64);
      sums.add(a, a_row, _mm512_unpacklo_epi8(high, second), _mm512_unpackhi_epi8(high, second));
      advance();
    }
    if (group == end) break;
    alignas(64) char packed[kPackedGroup];
    exception = restore(b, table, exception, packed);
#pragma GCC unroll 2
    for (int s = 0; s < 2; ++s) {
      sums.add(a, a_row, _mm512_load_si512(packed + 128 * s), _mm512_load_si512(packed + 128 * s + 64));
      advance();
    }
    ++group, b += kGroupBytes;
  }
#pragma GCC unroll 16
  for (int r = 0; r < kRows; ++r) {
    char* const c = p.c + r * c_row;
    if (p.narrow) {
      _mm512_storeu_si512(c, (__m512i)_mm512_cvtne2ps_pbh(sums.of[r][1], sums.of[r][0]));
    } else {
      _mm512_storeu_ps(c, sums.of[r][0]);
      _mm512_storeu_ps(c + 64, sums.of[r][1]);
    }
  }
}

/// The exponents that codes stand for: eight in a row, or zero (with the subnormals around it) and seven in a row.
struct Window {
  int first = 0;
  bool zero = false;  // in place of the first
};

/// Whichever has most of a sample, one of so many groups. Of those that have as much not the lowest, so that what is larger
/// than anything in the sample has a code as well.
Window window_of(const char* panel, std::int64_t groups, std::int64_t every) {
  std::int32_t counts[4][128] = {};  // so that none waits for the one before
  for (std::int64_t g = 0; g < groups; g += every)
    for (std::int64_t i = 0; i < kGroupWeights; ++i) ++counts[i % 4][panel[g * kPackedGroup + 2 * i + 1] & 127];
  std::int32_t below[129] = {};
  for (int i = 0; i < 128; ++i) below[i + 1] = below[i] + counts[0][i] + counts[1][i] + counts[2][i] + counts[3][i];
  Window best;
  std::int32_t most = -1;
  int lowest = 0;
  for (const bool zero : {false, true})
    for (int first = 0; first <= 120; ++first) {
      const std::int32_t had = below[first + 8] - below[first + (zero ? 1 : 0)] + (zero ? below[1] : 0);
      if (had > most) most = had, lowest = first;
      else if (had < most || first != lowest + 1 || zero != best.zero) continue;
      best = {first, zero};
    }
  return best;
}

void write_front(const Window& w, std::int64_t front, char* target) {
  for (int code = 0; code < 16; ++code) {
    const int exponent = w.zero && code % 8 == 0 ? 0 : w.first + code % 8;
    target[code] = static_cast<char>(exponent | (code & 8) << 4);
  }
  std::memcpy(target + kTopBytes, &front, sizeof front);
}

/// Codes of a step's weights, of which `exceptions` have none.
struct Coded {
  __m512i low, codes;
  std::uint64_t exceptions;
};
Coded encode(const char* step, const Window& w) {
  const __m512i byte = _mm512_set1_epi16(255);
  const __m512i words[2] = {_mm512_loadu_si512(step), _mm512_loadu_si512(step + 64)};
  const __m512i low = _mm512_packus_epi16(_mm512_and_si512(words[0], byte), _mm512_and_si512(words[1], byte));
  const __m512i high = _mm512_packus_epi16(_mm512_srli_epi16(words[0], 8), _mm512_srli_epi16(words[1], 8));
  const __m512i exponents = _mm512_and_si512(high, _mm512_set1_epi8(127));
  const __m512i codes = _mm512_sub_epi8(exponents, _mm512_set1_epi8(static_cast<char>(w.first)));
  __mmask64 known = _mm512_cmplt_epu8_mask(codes, _mm512_set1_epi8(8)), zeros = 0;
  if (w.zero) {
    zeros = _mm512_testn_epi8_mask(exponents, exponents);
    known &= _mm512_test_epi8_mask(codes, codes) & ~zeros;
  }
  const __m512i signs = _mm512_and_si512(_mm512_srli_epi16(high, 4), _mm512_set1_epi8(8));
  return {low, _mm512_or_si512(_mm512_maskz_mov_epi8(known, codes), signs), ~(known | zeros)};
}

/// Where a byte of a step's 64 lies among its weights: low and high halves of 128 bits in turns came from two vectors.
std::uint64_t place_of(int byte) { return static_cast<std::uint64_t>((byte & 8) * 4 + (byte >> 4) * 8 + (byte & 7)); }

bool squeeze_into(const Window& window, const char* panel, std::int64_t steps, char* target) {
  const std::int64_t groups = steps / 2, front = front_bytes(steps);
  write_front(window, front, target);
  char *exception = target + kFirstException, *const last = target + front - 8;
  char* to = target + front;
  for (std::int64_t g = 0; g < groups; ++g, panel += kPackedGroup, to += kGroupBytes) {
    __m512i codes[2];
    for (int s = 0; s < 2; ++s) {
      Coded coded = encode(panel + 128 * s, window);
      codes[s] = coded.codes;
      _mm512_storeu_si512(to + 64 * s, coded.low);
      for (; coded.exceptions != 0; coded.exceptions &= coded.exceptions - 1) {
        if (exception == last) return false;
        const std::uint64_t place = static_cast<std::uint64_t>(64 * s) + place_of(__builtin_ctzll(coded.exceptions));
        std::uint16_t weight;
        std::memcpy(&weight, panel + 2 * place, sizeof weight);
        const std::uint64_t e = static_cast<std::uint64_t>(g) << 32 | place << 16 | weight;
        std::memcpy(exception, &e, sizeof e);
        exception += 8;
      }
    }
    _mm512_storeu_si512(to + 128, _mm512_or_si512(codes[0], _mm512_slli_epi16(codes[1], 4)));
  }
  std::memcpy(exception, &kBehindAll, sizeof kBehindAll);
  return true;
}

/// Looking at all of a panel takes longer than the rest, so first it is tried with a sample of a dozen groups.
bool squeeze_panel(const char* panel, std::int64_t steps, char* target) {
  constexpr std::int64_t kSampled = 10;
  const std::int64_t groups = steps / 2, every = groups / kSampled;
  if (every > 1 && squeeze_into(window_of(panel, groups, every), panel, steps, target)) return true;
  return squeeze_into(window_of(panel, groups, 1), panel, steps, target);
}

std::int64_t squeezed_bytes(std::int64_t steps) { return front_bytes(steps) + steps / 2 * kGroupBytes; }

template <int... kRow>
const MicroKernel* squeezed_kernels(std::integer_sequence<int, kRow...>) {
  static constexpr MicroKernel kernels[] = {&squeezed_kernel<kRow + 1>...};
  return kernels;
}

}  // namespace
}  // namespace metal_candle::cpu
HWY_POP_ATTRIBUTES

namespace metal_candle::cpu {
SqueezedForm squeezed_form() {
  return {squeezed_kernels(std::make_integer_sequence<int, 14>()), &squeezed_bytes, &squeeze_panel};
}
}  // namespace metal_candle::cpu

#endif
