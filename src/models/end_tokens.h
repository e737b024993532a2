// What ends an answer of a model that came as a GGUF file.
#pragma once

#include <cstdint>
#include <vector>

#include "metal_candle/model.hpp"
#include "metal_candle/tokenizer.hpp"

namespace metal_candle {

/// GGUF files often name one end token where a chat has another: the known ones of the vocabulary are added.
std::vector<std::int32_t> gguf_end_tokens(const Tokenizer& tokenizer, const ModelConfig& config);

}  // namespace metal_candle
