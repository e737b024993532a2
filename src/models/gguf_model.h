// How a GGUF file says what config.json and the names of a transformers model say.
#pragma once

#include "metal_candle/gguf.hpp"
#include "models/family.h"

namespace metal_candle::models {

/// The tensor of the file that holds a weight of the model, and what it takes to make it that weight.
struct GgufSource {
  std::string name;
  std::int64_t permuted_heads = 0;  // > 0: rows of a rotated projection, in the order of neighbouring pairs
  bool add_one = false;             // stored with one added
};
GgufSource gguf_source(const ModelConfig& config, std::string_view path);

}  // namespace metal_candle::models
