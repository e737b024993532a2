// Llama, and the families that are Llama with a switch or two: Mistral (a window), Qwen 2 (biases on queries, keys and
// values), Qwen 3 (normalised queries and keys). Each layer is
//
//   x = x + attention(norm(x));   x = x + mlp(norm(x))
#include "metal_candle/scope.hpp"
#include "models/family.h"

namespace metal_candle::models {
namespace {

constexpr std::string_view kNorms[] = {"input_layernorm", "post_attention_layernorm"};

LazyTensor embed(const Pass& p) { return p.weights.embedding("model.embed_tokens", p.batch.ids); }

LazyTensor layer(const Pass& p, int index, const LazyTensor& input) {
  const std::string path = layer_path(index);
  const Scope scope(path);
  const auto norm = [&](const char* name, const LazyTensor& x) {
    return nn::rms_norm(p.weights, path + name, x, p.config.norm_eps);
  };
  const LazyTensor x = input + nn::attention(p.weights, path + ".self_attn", norm(".input_layernorm", input),
                                             attention_shape(p.config, index), p.rope, p.batch.offsets);
  return x + nn::gated_mlp(p.weights, path + ".mlp", norm(".post_attention_layernorm", x), p.config.activation);
}

LazyTensor finish(const Pass& p, const LazyTensor& x) {
  return nn::rms_norm(p.weights, "model.norm", x, p.config.norm_eps);
}

using Window = Family::Window;
constexpr Family row(std::string_view name) {
  return {.name = name, .embed = embed, .layer = layer, .finish = finish, .layer_norms = kNorms};
}

constexpr Family llama() {
  Family f = row("llama");
  f.asks_biases = true;
  return f;
}
constexpr Family mistral() {
  Family f = row("mistral");
  f.window = Window::all;
  return f;
}
constexpr Family qwen2() {
  Family f = row("qwen2");
  f.qkv_bias = true;
  f.window = Window::from_layer;
  return f;
}
constexpr Family qwen3() {
  Family f = row("qwen3");
  f.asks_biases = true;
  f.qk_norm = true;
  f.window = Window::from_layer;
  return f;
}

constexpr Family kFamilies[] = {llama(), mistral(), qwen2(), qwen3()};

}  // namespace

std::span<const Family> llama_families() { return kFamilies; }

}  // namespace metal_candle::models
