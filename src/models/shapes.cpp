// The families by name, the weights that a configuration asks for, and whether it makes sense.
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <limits>

#include "metal_candle/error.hpp"
#include "models/family.h"

namespace metal_candle {
namespace models {
namespace {

std::vector<const Family*> all() {
  std::vector<const Family*> rows;
  for (const auto list : {llama_families(), gemma_families()})
    for (const Family& f : list) rows.push_back(&f);
  return rows;
}

}  // namespace

const Family& family_named(std::string_view name) {
  for (const Family* f : all())
    if (f->name == name) return *f;
  throw UserError(ErrorKind::argument, fmt::format("model: the family \"{}\" is not known; known are {}", name,
                                                   fmt::join(model_families(), ", ")));
}

LazyTensor residual(const LazyTensor& x) {
  return x.dtype() == DType::bf16 || x.dtype() == DType::f16 ? cast(x, DType::f32) : x;
}

std::string layer_path(int index) { return fmt::format("model.layers.{}", index); }

nn::AttentionShape attention_shape(const ModelConfig& c, int layer) {
  const bool windowed = !c.windowed.empty() && c.windowed[static_cast<std::size_t>(layer)];
  return {.heads = c.heads,
          .key_heads = c.key_heads,
          .width = c.head_width,
          .scale = c.attention_scale,
          .softcap = c.attention_softcap,
          .window = windowed ? c.window : 0,
          .rotated = c.rotated.empty() || c.rotated[static_cast<std::size_t>(layer)],
          .qk_norm_eps = c.qk_norm ? c.norm_eps : -1};
}

}  // namespace models

const std::vector<std::string>& model_families() {
  static const std::vector<std::string> names = [] {
    std::vector<std::string> list;
    for (const models::Family* f : models::all()) list.emplace_back(f->name);
    return list;
  }();
  return names;
}

std::int64_t ModelConfig::context() const {
  if (rope.kind != nn::RopeScaling::Kind::dynamic) return max_positions;
  return static_cast<std::int64_t>(std::min(static_cast<double>(max_positions) * rope.factor, 2147483647.0));
}

void ModelConfig::check() const {
  models::family_named(family);
  const auto refuse = [](const std::string& why) {
    throw UserError(ErrorKind::argument, "model configuration: " + why);
  };
  constexpr std::int64_t kMost = std::numeric_limits<std::int32_t>::max();
  for (const auto& [field, value] :
       {std::pair("vocabulary", vocabulary), std::pair("hidden", hidden), std::pair("intermediate", intermediate),
        std::pair("layers", layers), std::pair("heads", heads), std::pair("key_heads", key_heads),
        std::pair("head_width", head_width), std::pair("max_positions", max_positions)})
    if (value <= 0 || value > kMost) refuse(fmt::format("{} is {}", field, value));
  if (heads % key_heads != 0) refuse(fmt::format("{} heads are no multiple of {} key heads", heads, key_heads));
  if (head_width % 2 != 0) refuse(fmt::format("a head width of {} is odd", head_width));
  if (!(norm_eps > 0)) refuse(fmt::format("a norm epsilon of {}", norm_eps));
  if (layers > 1 << 16) refuse(fmt::format("{} layers", layers));
  if (!windowed.empty() && static_cast<std::int64_t>(windowed.size()) != layers)
    refuse(fmt::format("windows are said of {} layers, there are {}", windowed.size(), layers));
  if (!rotated.empty() && static_cast<std::int64_t>(rotated.size()) != layers)
    refuse(fmt::format("rotation is said of {} layers, there are {}", rotated.size(), layers));
  if (std::find(windowed.begin(), windowed.end(), true) != windowed.end() && window <= 0)
    refuse(fmt::format("a window of {}", window));
}

std::vector<std::pair<std::string, Shape>> weight_shapes(const ModelConfig& c) {
  const models::Family& family = models::family_named(c.family);
  models::WeightShapes out;
  const auto linear = [&](const std::string& path, std::int64_t rows, std::int64_t columns, bool bias) {
    out.emplace_back(path + ".weight", Shape{rows, columns});
    if (bias) out.emplace_back(path + ".bias", Shape{rows});
  };
  const auto norm = [&](const std::string& path, std::int64_t width) {
    out.emplace_back(path + ".weight", Shape{width});
  };
  const std::int64_t q = c.heads * c.head_width, kv = c.key_heads * c.head_width;
  linear("model.embed_tokens", c.vocabulary, c.hidden, false);
  for (int i = 0; i < c.layers; ++i) {
    const std::string path = models::layer_path(i), attn = path + ".self_attn", mlp = path + ".mlp";
    linear(attn + ".q_proj", q, c.hidden, c.qkv_bias);
    linear(attn + ".k_proj", kv, c.hidden, c.qkv_bias);
    linear(attn + ".v_proj", kv, c.hidden, c.qkv_bias);
    linear(attn + ".o_proj", c.hidden, q, c.output_bias);
    if (c.qk_norm) norm(attn + ".q_norm", c.head_width), norm(attn + ".k_norm", c.head_width);
    linear(mlp + ".gate_proj", c.intermediate, c.hidden, c.mlp_bias);
    linear(mlp + ".up_proj", c.intermediate, c.hidden, c.mlp_bias);
    linear(mlp + ".down_proj", c.hidden, c.intermediate, c.mlp_bias);
    for (const std::string_view name : family.layer_norms) norm(path + "." + std::string(name), c.hidden);
  }
  norm("model.norm", c.hidden);
  if (!c.tied_embeddings) linear("lm_head", c.vocabulary, c.hidden, false);
  return out;
}

}  // namespace metal_candle
