// Random numbers that depend on a key and a counter only (Philox 4x32, 10 rounds; Salmon et al. 2011).
//
// The key's halves are the Philox key, the counter's halves its first two counter words, the other two are 0.
//   uniform = (word0 >> 8) · 2^-24
//   normal  = sqrt(-2 ln u) · cos(π · int32(word1) · 2^-31),  u = (word0 >> 1) · 2^-31 + 2^-32        (Box-Muller)
#pragma once

#include <cstdint>

namespace metal_candle::cpu::vm {

inline constexpr std::uint32_t kPhiloxM0 = 0xD2511F53u, kPhiloxM1 = 0xCD9E8D57u;
inline constexpr std::uint32_t kPhiloxW0 = 0x9E3779B9u, kPhiloxW1 = 0xBB67AE85u;

}  // namespace metal_candle::cpu::vm
