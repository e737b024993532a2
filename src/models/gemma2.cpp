// Gemma 2: norms before and after each half of a layer, their weights counted from one; embeddings scaled by the root
// of the width; scores and logits capped by tanh; every other layer looks through a window.
//
//   x = x + norm(attention(norm(x)));   x = x + norm(mlp(norm(x)))
#include <cmath>

#include "metal_candle/scope.hpp"
#include "models/family.h"

namespace metal_candle::models {
namespace {

constexpr std::string_view kNorms[] = {"input_layernorm", "post_attention_layernorm", "pre_feedforward_layernorm",
                                       "post_feedforward_layernorm"};

constexpr std::string_view kGgufNorms[] = {"attn_norm", "post_attention_norm", "ffn_norm", "post_ffw_norm"};

// The factor is rounded to the model's type first, as in the reference.
LazyTensor embed(const Pass& p) {
  const LazyTensor x = p.weights.embedding("model.embed_tokens", p.batch.ids);
  const auto factor = static_cast<float>(std::sqrt(static_cast<double>(p.config.hidden)));
  const LiteralScope literal;
  return residual(x) * static_cast<double>(x.dtype() == DType::bf16 ? static_cast<float>(bf16(factor)) : factor);
}

LazyTensor layer(const Pass& p, int index, const LazyTensor& input) {
  const std::string path = layer_path(index);
  const Scope scope(path);
  const auto norm = [&](const char* name, const LazyTensor& x) {
    return nn::rms_norm(p.weights, path + name, x, p.config.norm_eps, true);
  };
  const LazyTensor seen = nn::attention(p.weights, path + ".self_attn", norm(".input_layernorm", input),
                                        attention_shape(p.config, index), p.rope, p.batch.offsets, p.cache, index);
  const LazyTensor x = input + norm(".post_attention_layernorm", seen);
  const LazyTensor thought =
      nn::gated_mlp(p.weights, path + ".mlp", norm(".pre_feedforward_layernorm", x), p.config.activation);
  return x + norm(".post_feedforward_layernorm", thought);
}

LazyTensor finish(const Pass& p, const LazyTensor& x) {
  return nn::rms_norm(p.weights, "model.norm", x, p.config.norm_eps, true);
}

constexpr Family kFamilies[] = {{.name = "gemma2",
                                 .embed = embed,
                                 .layer = layer,
                                 .finish = finish,
                                 .layer_norms = kNorms,
                                 .gguf_norms = kGgufNorms,
                                 .norms_add_one = true,
                                 .architecture = "Gemma2ForCausalLM",
                                 .activation_key = "hidden_activation",
                                 .activation = "gelu_pytorch_tanh",
                                 .tied = true,
                                 .asks_attention_bias = true,
                                 .softcaps = true,
                                 .window = Family::Window::alternate,
                                 .positions = 8192,
                                 .head_width = 256,
                                 .bos = 2,
                                 .eos = 1}};

}  // namespace

std::span<const Family> gemma_families() { return kFamilies; }

}  // namespace metal_candle::models
