#include "models/gguf_model.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <cmath>

#include "metal_candle/error.hpp"

namespace metal_candle {
namespace models {
namespace {

struct Part {
  std::string_view ours, theirs;
};
constexpr Part kLayerParts[] = {
    {"self_attn.q_proj", "attn_q"},      {"self_attn.k_proj", "attn_k"},      {"self_attn.v_proj", "attn_v"},
    {"self_attn.o_proj", "attn_output"}, {"self_attn.q_norm", "attn_q_norm"}, {"self_attn.k_norm", "attn_k_norm"},
    {"mlp.gate_proj", "ffn_gate"},       {"mlp.up_proj", "ffn_up"},           {"mlp.down_proj", "ffn_down"},
};
constexpr Part kTopParts[] = {
    {"model.embed_tokens", "token_embd"}, {"model.norm", "output_norm"}, {"lm_head", "output"}};

std::string_view layer_part(const Family& family, std::string_view ours) {
  for (const Part& p : kLayerParts)
    if (p.ours == ours) return p.theirs;
  for (std::size_t i = 0; i < family.layer_norms.size(); ++i)
    if (family.layer_norms[i] == ours) return family.gguf_norms[i];
  throw InternalError("a weight without a name in GGUF files");
}

}  // namespace

GgufSource gguf_source(const ModelConfig& config, std::string_view path) {
  const Family& family = family_named(config.family);
  const std::size_t dot = path.rfind('.');
  const std::string_view module = path.substr(0, dot), leaf = path.substr(dot);
  GgufSource source;
  source.add_one = family.norms_add_one && module.ends_with("norm");
  constexpr std::string_view kLayers = "model.layers.";
  if (!module.starts_with(kLayers)) {
    for (const Part& p : kTopParts)
      if (p.ours == module) source.name = fmt::format("{}{}", p.theirs, leaf);
    return source;
  }
  const std::string_view rest = module.substr(kLayers.size());
  const std::size_t end = rest.find('.');
  const std::string_view part = layer_part(family, rest.substr(end + 1));
  source.name = fmt::format("blk.{}.{}{}", rest.substr(0, end), part, leaf);
  if (family.gguf_pairs_neighbours && part == "attn_q") source.permuted_heads = config.heads;
  if (family.gguf_pairs_neighbours && part == "attn_k") source.permuted_heads = config.key_heads;
  return source;
}

}  // namespace models

namespace {

using models::Family;
using Kind = nn::RopeScaling::Kind;

/// Keys below "llama." or whatever the architecture is called.
class Keys {
 public:
  explicit Keys(const Gguf& file)
      : file_(file), prefix_(std::string(file.at("general.architecture").as_string()) + ".") {}
  const GgufValue& at(std::string_view key) const { return file_.at(prefix_ + std::string(key)); }
  const GgufValue* find(std::string_view key) const { return file_.find(prefix_ + std::string(key)); }
  std::int64_t extent(std::string_view key, std::int64_t otherwise) const {
    const GgufValue* v = find(key);
    return v ? v->positive() : otherwise;
  }
  double positive_real(std::string_view key, double otherwise) const {
    const GgufValue* v = find(key);
    if (!v) return otherwise;
    const double x = v->as_double();
    if (!(x > 0) || !std::isfinite(x)) v->fail("a positive number");
    return x;
  }

 private:
  const Gguf& file_;
  std::string prefix_;
};

const Family& family_of(const Gguf& file) {
  const GgufValue& architecture = file.at("general.architecture");
  for (const std::string& name : model_families())
    if (architecture.as_string() == name) return models::family_named(name);
  architecture.fail(fmt::format("one of {}", fmt::join(model_families(), ", ")));
}

void read_sizes(const Gguf& file, const Keys& keys, ModelConfig& c) {
  c.hidden = keys.at("embedding_length").positive();
  c.intermediate = keys.at("feed_forward_length").positive();
  c.layers = keys.at("block_count").as_int(1, 1 << 16);
  c.heads = keys.at("attention.head_count").positive();
  c.key_heads = keys.extent("attention.head_count_kv", c.heads);
  if (c.heads % c.key_heads != 0)
    keys.at("attention.head_count_kv").fail(fmt::format("a divisor of {} heads", c.heads));
  const GgufValue* width = keys.find("attention.key_length");
  if (!width && c.hidden % c.heads != 0)
    keys.at("embedding_length").fail(fmt::format("a multiple of {} heads", c.heads));
  c.head_width = width ? width->positive() : c.hidden / c.heads;
  for (const char* key : {"attention.value_length", "rope.dimension_count"})
    if (const GgufValue* v = keys.find(key); v && v->positive() != c.head_width)
      v->fail(fmt::format("{}, the width of a head", c.head_width));
  c.max_positions = keys.at("context_length").positive();
  c.norm_eps = keys.positive_real("attention.layer_norm_rms_epsilon", 1e-6);
  const GgufTensor* table = file.find_tensor("token_embd.weight");
  c.vocabulary = table && table->shape.rank() == 2 ? table->shape[0] : keys.at("vocab_size").positive();
}

/// Keys that change the mathematics (llama.cpp goes by them), and have one value that is computed here.
void refuse_what_is_not_computed(const Keys& keys) {
  if (const GgufValue* causal = keys.find("attention.causal"); causal && !causal->as_bool()) causal->fail("true");
  if (const GgufValue* factor = keys.find("rope.scaling.attn_factor"); factor && factor->as_double() != 1)
    factor->fail("1");
}

void read_switches(const Gguf& file, const Keys& keys, const Family& family, ModelConfig& c) {
  c.activation = *nn::activation_named(family.activation);
  c.tied_embeddings = !file.contains("output.weight");
  c.qkv_bias = file.contains("blk.0.attn_q.bias");
  c.output_bias = file.contains("blk.0.attn_output.bias");
  c.mlp_bias = file.contains("blk.0.ffn_up.bias");
  c.qk_norm = family.qk_norm;
  if (family.skips_rope)  // the file does not say; llama.cpp leaves out every fourth
    for (std::int64_t i = 0; i < c.layers; ++i) c.rotated.push_back((i + 1) % 4 != 0);
  if (family.softcaps) {
    c.attention_softcap = keys.positive_real("attn_logit_softcapping", 50);
    c.logit_softcap = keys.positive_real("final_logit_softcapping", 30);
    // The file does not say; of the three Gemma 2 models the largest, with 46 layers, scales by hidden/heads.
    c.attention_scale = 1 / std::sqrt(static_cast<double>(c.layers == 46 ? c.hidden / c.heads : c.head_width));
  }
  const GgufValue* window = keys.find("attention.sliding_window");
  if (!window || family.window == Family::Window::none || window->as_int64() <= 0) return;
  c.window = window->positive();
  for (std::int64_t i = 0; i < c.layers; ++i)
    c.windowed.push_back(family.window != Family::Window::alternate || i % 2 == 0);
}

/// Llama 3's scaling is stored as what it does: a factor for each frequency. Its few parameters are found again.
nn::RopeScaling recognise_llama3(const Gguf& file, const ModelConfig& c) {
  const Tensor factors = file.load("rope_freqs.weight", DType::f32);
  const std::vector<double> stored = factors.to_f64();
  nn::RopeScaling s{.kind = Kind::llama3, .original_positions = 8192, .low_factor = 1, .high_factor = 4};
  for (const double f : stored) s.factor = std::max(s.factor, f);
  bool same = static_cast<std::int64_t>(stored.size()) == c.head_width / 2 && s.factor < 1e6;
  if (same) {
    const auto plain = nn::rope_table(c.head_width, c.rope_base).frequencies.to_f64();
    const auto scaled = nn::rope_table(c.head_width, c.rope_base, s).frequencies.to_f64();
    for (std::size_t i = 0; i < stored.size(); ++i) same &= std::abs(plain[i] / scaled[i] / stored[i] - 1) < 1e-3;
  }
  if (!same)
    throw FileError(FileFault::bad, file.path().string(), "rope_freqs.weight", "the frequency factors of Llama 3",
                    "others");
  return s;
}

void read_rope(const Gguf& file, const Keys& keys, ModelConfig& c) {
  c.rope_base = keys.positive_real("rope.freq_base", 10000);
  if (file.contains("rope_freqs.weight")) c.rope = recognise_llama3(file, c);
  // As llama.cpp: a factor without a kind is linear, and older files have another name for it.
  const char* factor = keys.find("rope.scaling.factor") ? "rope.scaling.factor" : "rope.scale_linear";
  const GgufValue* type = keys.find("rope.scaling.type");
  const std::string_view kind = type                                             ? type->as_string()
                                : c.rope.kind == Kind::none && keys.find(factor) ? "linear"
                                                                                 : "none";
  if (kind == "none") return;
  if (kind != "linear" && kind != "yarn") type->fail("one of none, linear, yarn");
  c.rope = {.kind = kind == "yarn" ? Kind::yarn : Kind::linear,
            .factor = keys.positive_real(factor, 1),
            .original_positions = keys.extent("rope.scaling.original_context_length", c.max_positions)};
  if (c.rope.factor < 1) keys.at(factor).fail("a number of at least 1");
}

std::optional<std::int32_t> token(const Gguf& file, std::string_view key) {
  const GgufValue* v = file.find(key);
  return v ? std::optional(static_cast<std::int32_t>(v->as_int(0, 0x7fffffff))) : std::nullopt;
}

}  // namespace

ModelConfig ModelConfig::from_gguf(const Gguf& file) {
  const Family& family = family_of(file);
  const Keys keys(file);
  ModelConfig c;
  c.family = family.name;
  read_sizes(file, keys, c);
  refuse_what_is_not_computed(keys);
  read_switches(file, keys, family, c);
  read_rope(file, keys, c);
  c.bos = token(file, "tokenizer.ggml.bos_token_id");
  c.pad = token(file, "tokenizer.ggml.padding_token_id");
  for (const char* key : {"tokenizer.ggml.eos_token_id", "tokenizer.ggml.eot_token_id"})
    if (const auto id = token(file, key); id && (c.eos.empty() || c.eos[0] != *id)) c.eos.push_back(*id);
  c.check();
  return c;
}

}  // namespace metal_candle
