// The models of the language-model benchmarks: shapes of real ones, random weights.
#pragma once

#include <metal_candle/model.hpp>
#include <string>

namespace bench {

struct LanguageShape {
  std::string name, peer;  // as people and as bench/peers call it
  metal_candle::ModelConfig config;
};

inline LanguageShape smol() {
  metal_candle::ModelConfig c;
  c.family = "llama";
  c.vocabulary = 49152, c.hidden = 576, c.intermediate = 1536, c.layers = 30;
  c.heads = 9, c.key_heads = 3, c.head_width = 64;
  c.max_positions = 8192, c.rope_base = 1e5, c.norm_eps = 1e-5, c.tied_embeddings = true;
  return {"SmolLM2-135M", "smol", c};
}

inline LanguageShape qwen() {
  metal_candle::ModelConfig c;
  c.family = "qwen2";
  c.vocabulary = 151936, c.hidden = 896, c.intermediate = 4864, c.layers = 24;
  c.heads = 14, c.key_heads = 2, c.head_width = 64;
  c.max_positions = 32768, c.rope_base = 1e6, c.norm_eps = 1e-6, c.tied_embeddings = true, c.qkv_bias = true;
  return {"Qwen2.5-0.5B", "qwen", c};
}

}  // namespace bench
