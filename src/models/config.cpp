// config.json, in both directions. transformers 4 wrote rope_theta and rope_scaling where 5 writes rope_parameters, and
// both leave out what equals their class's default; the classes' defaults are in the families' rows.
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>

#include "metal_candle/json.hpp"
#include "models/family.h"

namespace metal_candle {
namespace {

using models::Family;
using Kind = nn::RopeScaling::Kind;

struct RopeName {
  std::string_view name;
  Kind kind;
};
constexpr const char* kOriginal = "original_max_position_embeddings";
constexpr RopeName kRopeNames[] = {{"default", Kind::none},
                                   {"linear", Kind::linear},
                                   {"dynamic", Kind::dynamic},
                                   {"llama3", Kind::llama3},
                                   {"yarn", Kind::yarn}};

const Family& family_of(const Json& json) {
  const Json& type = json.at("model_type");
  for (const std::string& name : model_families())
    if (type.as_string() == name) return models::family_named(name);
  type.fail(fmt::format("one of {} (an encoder is for EmbeddingModel, `metal-candle embed`)",
                        fmt::join(model_families(), ", ")));
}

std::int64_t extent(const Json& json, const char* key, std::int64_t otherwise) {
  const Json* value = json.find_value(key);
  return value ? value->positive() : otherwise;
}
bool flag(const Json& json, const char* key, bool otherwise) {
  const Json* value = json.find_value(key);
  return value ? value->as_bool() : otherwise;
}
double positive_real(const Json& value) {
  const double x = value.as_double();
  if (!(x > 0) || !std::isfinite(x)) value.fail("a positive number");
  return x;
}
double positive_real(const Json& json, const char* key, double otherwise) {
  const Json* value = json.find_value(key);
  return value ? positive_real(*value) : otherwise;
}
std::optional<double> maybe_real(const Json& json, const char* key) {
  const Json* value = json.find_value(key);
  return value ? std::optional(value->as_double()) : std::nullopt;
}

void refuse_quantized(const Json& json) {
  for (const char* key : {"quantization_config", "quantization"})
    if (const Json* value = json.find_value(key)) value->fail("no quantization (known is none in this file format)");
}

void read_sizes(const Json& json, const Family& family, ModelConfig& c) {
  c.vocabulary = json.at("vocab_size").positive();
  c.hidden = json.at("hidden_size").positive();
  c.intermediate = json.at("intermediate_size").positive();
  c.layers = json.at("num_hidden_layers").as_int(1, 1 << 16);
  c.heads = json.at("num_attention_heads").positive();
  c.key_heads = extent(json, "num_key_value_heads", c.heads);
  if (c.heads % c.key_heads != 0)
    json.at("num_key_value_heads").fail(fmt::format("a divisor of num_attention_heads, {}", c.heads));
  const Json* width = json.find_value("head_dim");
  if (!width && family.head_width == 0 && c.hidden % c.heads != 0)
    json.at("hidden_size").fail(fmt::format("a multiple of num_attention_heads, {}, or a head_dim", c.heads));
  c.head_width = width ? width->positive() : family.head_width > 0 ? family.head_width : c.hidden / c.heads;
  if (c.head_width % 2 != 0) (width ? *width : json.at("hidden_size")).fail("an even width of heads");
  c.max_positions = extent(json, "max_position_embeddings", family.positions);
  c.norm_eps = positive_real(json, "rms_norm_eps", 1e-6);
}

void read_switches(const Json& json, const Family& family, ModelConfig& c) {
  const Json* activation = json.find_value(family.activation_key);
  const auto known = nn::activation_named(activation ? activation->as_string() : family.activation);
  if (!known) activation->fail("an activation of silu, gelu, gelu_pytorch_tanh, relu");
  c.activation = *known;
  c.tied_embeddings = flag(json, "tie_word_embeddings", family.tied);
  const bool asked = family.asks_attention_bias && flag(json, "attention_bias", false);
  c.qkv_bias = family.qkv_bias || asked;
  c.output_bias = asked;
  c.mlp_bias = family.asks_mlp_bias && flag(json, "mlp_bias", false);
  c.qk_norm = family.qk_norm;
  if (!family.softcaps) return;
  const auto cap = [&](const char* key, double otherwise) {
    return !json.contains(key) ? otherwise : json.at(key).is_null() ? 0 : positive_real(json.at(key));
  };
  c.attention_softcap = cap("attn_logit_softcapping", 50);
  c.logit_softcap = cap("final_logit_softcapping", 30);
  c.attention_scale = 1 / std::sqrt(positive_real(json, "query_pre_attn_scalar", 256));
  if (flag(json, "use_bidirectional_attention", false)) json.at("use_bidirectional_attention").fail("false");
}

// ---- layers that are not rotated -----------------------------------------------------------------------------------

void read_unrotated(const Json& json, const Family& family, ModelConfig& c) {
  if (!family.skips_rope) return;
  const std::int64_t interval = extent(json, "no_rope_layer_interval", 4);
  const Json* list = json.find_value("no_rope_layers");
  if (list && static_cast<std::int64_t>(list->elements().size()) < c.layers)
    list->fail(fmt::format("{} entries, as num_hidden_layers says", c.layers));
  for (std::int64_t i = 0; i < c.layers; ++i)
    c.rotated.push_back(list ? list->elements()[static_cast<std::size_t>(i)].as_int(0, 1) == 1
                             : (i + 1) % interval != 0);
}

// ---- windows -------------------------------------------------------------------------------------------------------

/// Whether a window counts only where use_sliding_window says so.
bool asks_window(const Family& family) {
  return family.window == Family::Window::when_used || family.window == Family::Window::unrotated;
}

std::vector<bool> default_layers(const Json& json, const Family& family, const ModelConfig& c) {
  std::vector<bool> windowed(static_cast<std::size_t>(c.layers), family.window == Family::Window::all);
  const std::int64_t whole = family.window == Family::Window::when_used && json.find_value("max_window_layers")
                                 ? json.at("max_window_layers").as_int(0, 1 << 16)
                                 : 28;
  for (std::int64_t i = 0; i < c.layers; ++i) {
    if (family.window == Family::Window::alternate) windowed[static_cast<std::size_t>(i)] = i % 2 == 0;
    if (family.window == Family::Window::when_used) windowed[static_cast<std::size_t>(i)] = i >= whole;
    if (family.window == Family::Window::unrotated)
      windowed[static_cast<std::size_t>(i)] = !c.rotated[static_cast<std::size_t>(i)];
  }
  return windowed;
}

std::vector<bool> listed_layers(const Json& list, std::int64_t layers) {
  if (static_cast<std::int64_t>(list.elements().size()) != layers)
    list.fail(fmt::format("{} entries, as num_hidden_layers says", layers));
  std::vector<bool> windowed;
  for (const Json& type : list.elements()) {
    if (type.as_string() != "sliding_attention" && type.as_string() != "full_attention")
      type.fail("full_attention or sliding_attention");
    windowed.push_back(type.as_string() == "sliding_attention");
  }
  return windowed;
}

void read_window(const Json& json, const Family& family, ModelConfig& c) {
  if (family.window == Family::Window::none) return;
  const bool used = !asks_window(family) || flag(json, "use_sliding_window", false);
  const bool null = json.contains("sliding_window") && json.at("sliding_window").is_null();
  const Json* list = json.find_value("layer_types");
  // transformers' ways to attend do not agree on what this means.
  if (list && !used && !null && family.window == Family::Window::unrotated)
    for (const bool windowed : listed_layers(*list, c.layers))
      if (windowed) list->fail("full_attention where use_sliding_window is false");
  if (!used || null) return;
  c.windowed = list ? listed_layers(*list, c.layers) : default_layers(json, family, c);
  c.window = extent(json, "sliding_window", 4096);
}

// ---- rope ----------------------------------------------------------------------------------------------------------

Kind rope_kind(const Json& params) {
  const Json* type = params.find_value("rope_type");
  if (!type) type = params.find_value("type");
  if (!type) return Kind::none;
  std::vector<std::string_view> known;
  for (const RopeName& row : kRopeNames) {
    if (type->as_string() == row.name) return row.kind;
    known.push_back(row.name);
  }
  type->fail(fmt::format("one of {}", fmt::join(known, ", ")));
}

// What positions were trained on is the file's own word for some models, and then comes before the parameters'.
nn::RopeScaling read_scaling(const Json& json, const Json& params, const ModelConfig& c) {
  nn::RopeScaling s{.kind = rope_kind(params)};
  if (s.kind == Kind::none) return s;
  const Json& factor = params.at("factor");
  s.factor = positive_real(factor);
  if (s.factor < 1) factor.fail("a number of at least 1");
  if (s.kind == Kind::linear) return s;
  s.original_positions = c.max_positions;
  if (s.kind != Kind::dynamic)
    s.original_positions = extent(json.find_value(kOriginal) ? json : params, kOriginal, c.max_positions);
  if (s.kind == Kind::llama3) {
    s.low_factor = positive_real(params.at("low_freq_factor"));
    s.high_factor = positive_real(params.at("high_freq_factor"));
    if (s.high_factor <= s.low_factor) params.at("high_freq_factor").fail("more than low_freq_factor");
  }
  if (s.kind == Kind::yarn) {
    s.beta_fast = positive_real(params, "beta_fast", 32);
    s.beta_slow = positive_real(params, "beta_slow", 1);
    s.attention_factor = maybe_real(params, "attention_factor");
    s.mscale = maybe_real(params, "mscale");
    s.mscale_all_dim = maybe_real(params, "mscale_all_dim");
    s.truncate = flag(params, "truncate", true);
  }
  return s;
}

void read_rope(const Json& json, const Family& family, ModelConfig& c) {
  // Where both are there, transformers goes by the older one.
  const Json* params = json.find_value("rope_scaling");
  if (!params || params->size() == 0) params = json.find_value("rope_parameters");
  c.rope_base = positive_real(json, "rope_theta", family.rope_base);
  const auto whole = [](const Json& in) {
    const Json* part = in.find_value("partial_rotary_factor");
    if (part && part->as_double() != 1) part->fail("1: heads are rotated whole");
  };
  whole(json);
  if (!params) return;
  for (const char* key : {"full_attention", "sliding_attention"})
    if (params->find_value(key)) params->fail("one set of rope parameters for all layers");
  whole(*params);
  c.rope_base = positive_real(*params, "rope_theta", c.rope_base);
  c.rope = read_scaling(json, *params, c);
}

// ---- tokens --------------------------------------------------------------------------------------------------------

std::int32_t token(const Json& value) { return static_cast<std::int32_t>(value.as_int(0, 0x7fffffff)); }

void read_tokens(const Json& json, const Family& family, ModelConfig& c) {
  if (!json.contains("bos_token_id") && family.bos >= 0) c.bos = family.bos;
  if (!json.contains("eos_token_id") && family.eos >= 0) c.eos = {family.eos};
  if (!json.contains("pad_token_id") && family.pad >= 0) c.pad = family.pad;
  if (const Json* bos = json.find_value("bos_token_id")) c.bos = token(*bos);
  if (const Json* pad = json.find_value("pad_token_id"); pad && !(pad->is_integer() && pad->as_int64() == -1))
    c.pad = token(*pad);
  const Json* eos = json.find_value("eos_token_id");
  if (eos && eos->is_array())
    for (const Json& id : eos->elements()) c.eos.push_back(token(id));
  else if (eos) c.eos = {token(*eos)};
}

}  // namespace

ModelConfig ModelConfig::from_json(const Json& json) {
  const Family& family = family_of(json);
  refuse_quantized(json);
  ModelConfig c;
  c.family = family.name;
  read_sizes(json, family, c);
  read_switches(json, family, c);
  read_unrotated(json, family, c);
  read_window(json, family, c);
  read_rope(json, family, c);
  read_tokens(json, family, c);
  c.check();
  return c;
}

// ---- writing --------------------------------------------------------------------------------------------------------

namespace {

/// transformers' class declares an integer here, and takes nothing else from 5 on.
Json query_scalar(double attention_scale) {
  const double value = std::round(1 / (attention_scale * attention_scale) * 1e6) / 1e6;
  if (value < 0x1p53 && value == std::floor(value)) return static_cast<std::int64_t>(value);
  return value;
}

Json rope_to_json(const ModelConfig& c) {
  const nn::RopeScaling& s = c.rope;
  if (s.kind == Kind::none) return nullptr;
  Json out = Json::object({{"factor", s.factor}});
  for (const RopeName& row : kRopeNames)
    if (row.kind == s.kind) out.set("rope_type", row.name);
  if (s.kind == Kind::llama3 || s.kind == Kind::yarn) out.set(kOriginal, s.original_positions);
  if (s.kind == Kind::llama3) {
    out.set("low_freq_factor", s.low_factor);
    out.set("high_freq_factor", s.high_factor);
  }
  if (s.kind != Kind::yarn) return out;
  out.set("beta_fast", s.beta_fast);
  out.set("beta_slow", s.beta_slow);
  for (const auto& [key, value] : {std::pair("attention_factor", s.attention_factor), std::pair("mscale", s.mscale),
                                   std::pair("mscale_all_dim", s.mscale_all_dim)})
    if (value) out.set(key, *value);
  if (!s.truncate) out.set("truncate", false);
  return out;
}

void windows_to_json(const ModelConfig& c, const Family& family, Json& out) {
  if (family.window == Family::Window::none) return;
  out.set("sliding_window", c.window > 0 ? Json(c.window) : Json());
  if (asks_window(family)) out.set("use_sliding_window", c.window > 0);
  const bool every = std::find(c.windowed.begin(), c.windowed.end(), false) == c.windowed.end();
  if (c.windowed.empty() || (family.window == Family::Window::all && every)) return;
  Json types = Json::array();
  for (const bool windowed : c.windowed) types.push_back(windowed ? "sliding_attention" : "full_attention");
  out.set("layer_types", std::move(types));
}

void tokens_to_json(const ModelConfig& c, Json& out) {
  Json eos;
  if (c.eos.size() == 1) eos = c.eos[0];
  else
    for (const std::int32_t id : c.eos) eos.push_back(id);
  out.set("bos_token_id", c.bos ? Json(*c.bos) : Json());
  out.set("eos_token_id", std::move(eos));
  out.set("pad_token_id", c.pad ? Json(*c.pad) : Json());
}

std::string_view torch_name(DType dtype) {
  return dtype == DType::bf16  ? "bfloat16"
         : dtype == DType::f16 ? "float16"
         : dtype == DType::f64 ? "float64"
                               : "float32";
}

}  // namespace

Json ModelConfig::to_json(DType dtype) const {
  const Family& f = models::family_named(family);
  Json out = Json::object({{"architectures", Json::array({f.architecture})},
                           {"model_type", family},
                           {"torch_dtype", torch_name(dtype)},
                           {"vocab_size", vocabulary},
                           {"hidden_size", hidden},
                           {"intermediate_size", intermediate},
                           {"num_hidden_layers", layers},
                           {"num_attention_heads", heads},
                           {"num_key_value_heads", key_heads},
                           {"head_dim", head_width},
                           {"max_position_embeddings", max_positions},
                           {"rms_norm_eps", norm_eps},
                           {f.activation_key, nn::name(activation)},
                           {"tie_word_embeddings", tied_embeddings},
                           {"rope_theta", rope_base},
                           {"rope_scaling", rope_to_json(*this)}});
  if (f.asks_attention_bias) out.set("attention_bias", output_bias);
  if (f.asks_mlp_bias) out.set("mlp_bias", mlp_bias);
  if (f.softcaps) {
    out.set("attn_logit_softcapping", attention_softcap > 0 ? Json(attention_softcap) : Json());
    out.set("final_logit_softcapping", logit_softcap > 0 ? Json(logit_softcap) : Json());
    out.set("query_pre_attn_scalar", query_scalar(attention_scale));
  }
  if (f.skips_rope) {
    Json list = Json::array();
    for (std::int64_t i = 0; i < layers; ++i)
      list.push_back(rotated.empty() || rotated[static_cast<std::size_t>(i)] ? 1 : 0);
    out.set("no_rope_layers", std::move(list));
  }
  windows_to_json(*this, f, out);
  tokens_to_json(*this, out);
  return out;
}

}  // namespace metal_candle
