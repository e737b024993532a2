// Decoding of ggml's encodings: blocks of small integers with a scale, to f32, bf16 or f16.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>

#include "metal_candle/dtype.hpp"

namespace metal_candle::io {

/// An encoding of GGUF files: `values` elements in `bytes` bytes. `can_load` says whether we decode it.
struct Encoding {
  std::uint32_t id;
  std::string_view name;
  std::uint32_t values, bytes;
  bool can_load = false;
};
/// Null for an id that nothing has.
const Encoding* find_encoding(std::uint32_t id);
const Encoding* find_encoding(std::string_view name);

/// Decodes `blocks` whole blocks, on all threads when there are many, to `out` of type `as` (f32, bf16 or f16). In f32
/// the result is exact: each product and sum is rounded once, in the order of the format's definition, on every
/// processor.
void dequantize(const Encoding& encoding, const std::byte* from, std::size_t blocks, DType as, void* out);

}  // namespace metal_candle::io
