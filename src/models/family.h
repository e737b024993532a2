// What makes one family of models differ from another: a row each, in the file that holds its forward pass.
#pragma once

#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "metal_candle/model.hpp"

namespace metal_candle::models {

using WeightShapes = std::vector<std::pair<std::string, Shape>>;

/// What every layer of a pass sees.
struct Pass {
  const ModelConfig& config;
  const nn::Weights& weights;
  const nn::Rope& rope;
  const Batch& batch;
  nn::KeyValues* cache;  // or null
};

struct Family {
  std::string_view name;
  // The pass: from ids to what the first layer gets, a layer, the norm before the head.
  LazyTensor (*embed)(const Pass&);
  LazyTensor (*layer)(const Pass&, int index, const LazyTensor& x);
  LazyTensor (*finish)(const Pass&, const LazyTensor& x);
  /// The norms of a layer beside those of queries and keys, by name.
  std::span<const std::string_view> layer_norms;
  /// What GGUF files call them, and whether rotated rows lie there as neighbouring pairs instead of halves.
  std::span<const std::string_view> gguf_norms;
  bool gguf_pairs_neighbours = false;
  bool norms_add_one = false;  // a norm's weight is what one is added to

  // What the family's config.json means, and what transformers' class takes where it is silent.
  std::string_view architecture;  // "LlamaForCausalLM"
  std::string_view activation_key = "hidden_act", activation = "silu";
  bool tied = false;      // tie_word_embeddings
  bool qkv_bias = false;  // there whatever config.json says
  bool asks_attention_bias = false, asks_mlp_bias = false;
  bool qk_norm = false;
  bool softcaps = false;    // attn_logit_softcapping, final_logit_softcapping, query_pre_attn_scalar are read
  bool skips_rope = false;  // no_rope_layers, no_rope_layer_interval are read
  // How sliding_window is meant; unrotated: when use_sliding_window says so, of the layers that are not rotated.
  enum class Window { none, all, when_used, alternate, unrotated } window = Window::none;
  std::int64_t positions = 32768, head_width = 0;  // max_position_embeddings, head_dim (0: hidden_size / heads)
  double rope_base = 10000;
  int bos = -1, eos = -1, pad = -1;
};

/// Throws UserError naming the families that there are.
const Family& family_named(std::string_view name);
std::span<const Family> llama_families();
std::span<const Family> gemma_families();

/// What layers add to: in f32 also where weights are narrower. Sums of many small terms lose most by rounding, and cost
/// least to keep.
LazyTensor residual(const LazyTensor& x);
/// "model.layers.3": where a layer's weights are.
std::string layer_path(int index);
/// The attention of a layer as its config says it.
nn::AttentionShape attention_shape(const ModelConfig& config, int layer);

}  // namespace metal_candle::models
