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
};

struct Family {
  std::string_view name;
  // The pass: from ids to what the first layer gets, a layer, the norm before the head.
  LazyTensor (*embed)(const Pass&);
  LazyTensor (*layer)(const Pass&, int index, const LazyTensor& x);
  LazyTensor (*finish)(const Pass&, const LazyTensor& x);
  /// The norms of a layer beside those of queries and keys, by name.
  std::span<const std::string_view> layer_norms;
  bool norms_add_one = false;  // a norm's weight is what one is added to

  // What transformers' class takes where config.json is silent, and what it never asks.
  bool tied = false;         // tie_word_embeddings
  bool qkv_bias = false;     // there whatever config.json says
  bool asks_biases = false;  // attention_bias and mlp_bias are read
  bool qk_norm = false;
  enum class Window { none, all, from_layer, alternate } window = Window::none;  // which layers have one
};

/// Throws UserError naming the families that there are.
const Family& family_named(std::string_view name);
std::span<const Family> llama_families();
std::span<const Family> gemma_families();

/// "model.layers.3": where a layer's weights are.
std::string layer_path(int index);
/// The attention of a layer as its config says it.
nn::AttentionShape attention_shape(const ModelConfig& config, int layer);

}  // namespace metal_candle::models
