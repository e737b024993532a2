// Llama, and the families that are Llama with a switch or two: Mistral (a window), Qwen 2 (biases on queries, keys and
// values), Qwen 3 (normalised queries and keys), SmolLM3 (layers that are not rotated). Each layer is
//
//   x = x + attention(norm(x));   x = x + mlp(norm(x))
#include "metal_candle/scope.hpp"
#include "models/family.h"

namespace metal_candle::models {
namespace {

constexpr std::string_view kNorms[] = {"input_layernorm", "post_attention_layernorm"};
constexpr std::string_view kGgufNorms[] = {"attn_norm", "ffn_norm"};

LazyTensor embed(const Pass& p) { return residual(p.weights.embedding("model.embed_tokens", p.batch.ids)); }

LazyTensor layer(const Pass& p, int index, const LazyTensor& input) {
  const std::string path = layer_path(index);
  const Scope scope(path);
  const auto norm = [&](const char* name, const LazyTensor& x) {
    return nn::rms_norm(p.weights, path + name, x, p.config.norm_eps);
  };
  const LazyTensor x = input + nn::attention(p.weights, path + ".self_attn", norm(".input_layernorm", input),
                                             attention_shape(p.config, index), p.rope, p.batch.offsets, p.cache, index);
  return x + nn::gated_mlp(p.weights, path + ".mlp", norm(".post_attention_layernorm", x), p.config.activation);
}

LazyTensor finish(const Pass& p, const LazyTensor& x) {
  return nn::rms_norm(p.weights, "model.norm", x, p.config.norm_eps);
}

constexpr Family of_these_layers(Family family) {
  family.embed = embed;
  family.layer = layer;
  family.finish = finish;
  family.layer_norms = kNorms;
  family.gguf_norms = kGgufNorms;
  return family;
}

constexpr Family kFamilies[] = {
    of_these_layers({.name = "llama",
                     .gguf_pairs_neighbours = true,
                     .architecture = "LlamaForCausalLM",
                     .asks_attention_bias = true,
                     .asks_mlp_bias = true,
                     .positions = 2048,
                     .bos = 1,
                     .eos = 2}),
    of_these_layers({.name = "mistral",
                     .gguf_pairs_neighbours = true,
                     .architecture = "MistralForCausalLM",
                     .window = Family::Window::all,
                     .positions = 131072,
                     .bos = 1,
                     .eos = 2}),
    of_these_layers(
        {.name = "qwen2", .architecture = "Qwen2ForCausalLM", .qkv_bias = true, .window = Family::Window::when_used}),
    of_these_layers({.name = "qwen3",
                     .architecture = "Qwen3ForCausalLM",
                     .asks_attention_bias = true,
                     .qk_norm = true,
                     .window = Family::Window::when_used,
                     .head_width = 128}),
    of_these_layers({.name = "smollm3",
                     .gguf_pairs_neighbours = true,
                     .architecture = "SmolLM3ForCausalLM",
                     .tied = true,
                     .asks_attention_bias = true,
                     .asks_mlp_bias = true,
                     .skips_rope = true,
                     .window = Family::Window::unrotated,
                     .rope_base = 2e6,
                     .bos = 128000,
                     .eos = 128001,
                     .pad = 128004}),
};

}  // namespace

std::span<const Family> llama_families() { return kFamilies; }

}  // namespace metal_candle::models
