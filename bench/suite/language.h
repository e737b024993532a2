// The models of the language-model benchmarks: shapes of real ones, random weights.
#pragma once

#include <metal_candle/model.hpp>
#include <string>

namespace bench {

struct LanguageShape {
  std::string name, peer;  // as people and as bench/peers call it
  metal_candle::ModelConfig config;
};

LanguageShape smol();  // SmolLM2-135M
LanguageShape qwen();  // Qwen2.5-0.5B

}  // namespace bench
