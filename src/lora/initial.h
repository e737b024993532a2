// How adapters begin.
#pragma once

#include <cmath>
#include <string_view>

#include "metal_candle/ops.hpp"
#include "metal_candle/random.hpp"

namespace metal_candle::lora {

/// Uniform within ±1/sqrt(in), [rank, in]: what Kaiming's rule gives for the slope sqrt(5).
inline LazyTensor initial_a(std::int64_t rank, std::int64_t in, Key key) {
  const double bound = in > 0 ? 1 / std::sqrt(static_cast<double>(in)) : 0;
  return rand({rank, in}, {.key = key}) * (2 * bound) - bound;
}

/// A key of a module's own: another module more or less does not change its numbers. (FNV-1a of its name.)
inline Key key_of(Key key, std::string_view module) {
  std::uint64_t hash = 0xcbf29ce484222325u;
  for (const char c : module) hash = (hash ^ static_cast<unsigned char>(c)) * 0x100000001b3u;
  return key.fold(hash);
}

}  // namespace metal_candle::lora
