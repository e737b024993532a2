// Random numbers that depend on a key and a counter only (Philox 4x32, 10 rounds; Salmon et al. 2011).
//
// The key's halves are the Philox key, the counter's halves its first two counter words, the other two are 0.
//   uniform = (word0 >> 8) · 2^-24
//   normal  = sqrt(-2 ln u) · cos(π · int32(word1) · 2^-31),  u = (word0 >> 1) · 2^-31 + 2^-32        (Box-Muller)
// In f64 words are pairs, (word0, word1) for uniform, (word0, word2) and (word1, word3) for normal, the first one high:
//   uniform = (pair >> 11) · 2^-53
//   normal  = sqrt(-2 ln u) · cos(π · int64(pair1) · 2^-63),  u = (pair0 >> 12) · 2^-52 + 2^-53
// so that the digits of f32 are the first ones of f64.
#pragma once

#include <cstdint>

#include "hwy/base.h"

namespace metal_candle::cpu::vm {

/// The four words for n keys and counters. Plain loops: the compiler makes vectors of them, for the caller's target.
template <int n>
HWY_INLINE void philox(const std::uint64_t (&key)[n], const std::uint64_t (&counter)[n], std::uint32_t (&words)[4][n]) {
  auto& [x0, x1, x2, x3] = words;
  std::uint32_t k0[n], k1[n];
  for (int i = 0; i < n; ++i) {
    k0[i] = static_cast<std::uint32_t>(key[i]);
    k1[i] = static_cast<std::uint32_t>(key[i] >> 32);
    x0[i] = static_cast<std::uint32_t>(counter[i]);
    x1[i] = static_cast<std::uint32_t>(counter[i] >> 32);
    x2[i] = x3[i] = 0;
  }
  for (int round = 0; round < 10; ++round) {
    for (int i = 0; i < n; ++i) {
      const std::uint64_t p0 = std::uint64_t{0xD2511F53u} * x0[i], p1 = std::uint64_t{0xCD9E8D57u} * x2[i];
      const std::uint32_t y0 = static_cast<std::uint32_t>(p1 >> 32) ^ x1[i] ^ k0[i];
      const std::uint32_t y2 = static_cast<std::uint32_t>(p0 >> 32) ^ x3[i] ^ k1[i];
      x1[i] = static_cast<std::uint32_t>(p1);
      x3[i] = static_cast<std::uint32_t>(p0);
      x0[i] = y0;
      x2[i] = y2;
      k0[i] += 0x9E3779B9u;
      k1[i] += 0xBB67AE85u;
    }
  }
}

}  // namespace metal_candle::cpu::vm
