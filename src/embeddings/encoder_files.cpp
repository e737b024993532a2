// config.json and the tensors of encoders, whatever their family calls them.
#include <fmt/format.h>

#include <cmath>

#include "embeddings/backbone.h"
#include "embeddings/encoder.h"
#include "metal_candle/error.hpp"
#include "metal_candle/safetensors.hpp"

namespace metal_candle::embeddings {
namespace {

constexpr EncoderFamily roberta(std::string_view name) {
  EncoderFamily f{.name = name, .prefix = "roberta."};
  f.skips_padding = f.asks_padding = true;
  return f;
}

constexpr EncoderFamily kFamilies[] = {
    {.name = "bert", .prefix = "bert."},
    roberta("roberta"),
    roberta("xlm-roberta"),
    roberta("camembert"),
    {.name = "distilbert",
     .prefix = "distilbert.",
     .width = "dim",
     .layers = "n_layers",
     .heads = "n_heads",
     .intermediate = "hidden_dim",
     .activation = "activation",
     .asks_eps = false,
     .layer = "transformer.layer.",
     .query = "attention.q_lin",
     .key = "attention.k_lin",
     .value = "attention.v_lin",
     .out = "attention.out_lin",
     .first_norm = "sa_layer_norm",
     .up = "ffn.lin1",
     .down = "ffn.lin2",
     .second_norm = "output_layer_norm",
     .token_types = false},
    {.name = "mpnet",
     .prefix = "mpnet.",
     .query = "attention.attn.q",
     .key = "attention.attn.k",
     .value = "attention.attn.v",
     .out = "attention.attn.o",
     .first_norm = "attention.LayerNorm",
     .token_types = false,
     .skips_padding = true,
     .relative_positions = true},
};

// What the distances of tokens fall into; transformers knows no other number.
constexpr std::int64_t kDistanceBuckets = 32;
constexpr std::int64_t kMostRelative = 1 << 13;

std::string joined(std::string_view a, std::string_view b) { return std::string(a).append(b); }

/// The tensors of one file, under the names of its family.
class Source {
 public:
  Source(const std::filesystem::path& folder, const EncoderConfig& config, DType dtype)
      : file_(SafeTensors::open(folder)), family_(*config.family), dtype_(dtype) {}

  /// In f32, for what is still computed with.
  LazyTensor load(const std::string& name, const Shape& shape) const {
    const std::string found = named(name);
    const TensorInfo* info = file_.find(found);
    if (!info) fail(name, "a tensor " + shape.str(), "none of that name");
    if (!(info->shape == shape)) fail(found, shape.str(), info->shape.str());
    if (!info->dtype || !is_float(*info->dtype)) fail(found, "F32, BF16, F16 or F64", std::string(info->format));
    return file_.load(found);
  }
  Tensor finished(const LazyTensor& t) const {
    Tensor made = (t.dtype() == dtype_ ? t : cast(t, dtype_)).eval();
    return made.freeze();
  }

 private:
  /// With or without the prefix; old files say gamma and beta where new ones say weight and bias.
  std::string named(const std::string& name) const {
    for (const std::string& start : {std::string(), std::string(family_.prefix)}) {
      if (file_.contains(start + name)) return start + name;
      for (const auto& [now, then] : {std::pair(".weight", ".gamma"), std::pair(".bias", ".beta")}) {
        if (!name.ends_with(now)) continue;
        std::string old = start + name.substr(0, name.size() - std::string_view(now).size()) + then;
        if (file_.contains(old)) return old;
      }
    }
    return name;
  }
  [[noreturn]] void fail(const std::string& name, const std::string& expected, const std::string& got) const {
    throw FileError(FileFault::bad, file_.path().string(), name, expected, got);
  }

  SafeTensors file_;
  const EncoderFamily& family_;
  DType dtype_;
};

void add_embeddings(const Source& from, const EncoderConfig& c, ParamTree& tree) {
  const auto table = [&](const char* name, std::int64_t rows) {
    return from.load(fmt::format("embeddings.{}_embeddings.weight", name), {rows, c.width});
  };
  tree.insert("word.weight", from.finished(table("word", c.vocabulary)));
  LazyTensor position = table("position", c.positions);
  if (c.family->token_types) {
    const LazyTensor first = slice(table("token_type", c.token_types), 0, 0, 1);
    position = cast(position, DType::f32) + cast(first, DType::f32);
  }
  tree.insert("position.weight", from.finished(position));
  tree.insert("norm.weight", from.finished(from.load("embeddings.LayerNorm.weight", {c.width})));
  tree.insert("norm.bias", from.finished(from.load("embeddings.LayerNorm.bias", {c.width})));
}

void add_layer(const Source& from, const EncoderConfig& c, std::int64_t index, ParamTree& tree) {
  const EncoderFamily& f = *c.family;
  const std::string there = fmt::format("{}{}.", f.layer, index), here = fmt::format("{}.", index);
  const auto add = [&](const char* name, std::string_view module, const Shape& weight) {
    tree.insert(here + name + ".weight", from.finished(from.load(joined(there, module) + ".weight", weight)));
    tree.insert(here + name + ".bias", from.finished(from.load(joined(there, module) + ".bias", {weight[0]})));
  };
  for (const auto& [leaf, shape] :
       {std::pair(".weight", Shape{c.width, c.width}), std::pair(".bias", Shape{c.width})}) {
    std::vector<LazyTensor> parts;
    for (const std::string_view module : {f.query, f.key, f.value})
      parts.push_back(from.load(joined(there, module) + leaf, shape));
    tree.insert(here + "qkv" + leaf, from.finished(concat(parts, 0)));
  }
  add("out", f.out, {c.width, c.width});
  add("norm1", f.first_norm, {c.width});
  add("up", f.up, {c.intermediate, c.width});
  add("down", f.down, {c.width, c.intermediate});
  add("norm2", f.second_norm, {c.width});
}

}  // namespace

const EncoderFamily* encoder_family(std::string_view model_type) {
  for (const EncoderFamily& f : kFamilies)
    if (f.name == model_type) return &f;
  return nullptr;
}

std::vector<std::string> encoder_families() {
  std::vector<std::string> names;
  for (const EncoderFamily& f : kFamilies) names.emplace_back(f.name);
  return names;
}

EncoderConfig EncoderConfig::read(const EncoderFamily& family, const Json& json) {
  const auto extent = [&](std::string_view key) { return json.at(key).positive(); };
  EncoderConfig c{.family = &family};
  c.vocabulary = extent("vocab_size");
  c.width = extent(family.width);
  c.layers = json.at(family.layers).as_int(1, 1 << 16);
  c.heads = extent(family.heads);
  if (c.width % c.heads != 0) json.at(family.width).fail(fmt::format("a multiple of the {} heads", c.heads));
  c.intermediate = extent(family.intermediate);
  const Json* positions = json.find_value("max_position_embeddings");
  c.positions = positions ? positions->positive() : family.positions;
  const Json* types = json.find_value("type_vocab_size");
  c.token_types = types ? types->positive() : 2;
  const Json* padding = family.asks_padding ? json.find_value("pad_token_id") : nullptr;
  c.padding = padding ? static_cast<std::int32_t>(padding->as_int(0, c.vocabulary - 1)) : 1;
  if (family.skips_padding && c.positions <= c.padding + 1)
    (positions ? *positions : json).fail(fmt::format("more positions than the {} in front", c.padding + 1));
  if (const Json* eps = family.asks_eps ? json.find_value("layer_norm_eps") : nullptr) {
    c.eps = eps->as_double();
    if (!(c.eps >= 0) || !std::isfinite(c.eps)) eps->fail("a small number, not negative");
  }
  if (const Json* activation = json.find_value(family.activation)) {
    const auto known = nn::activation_named(activation->as_string());
    if (!known) activation->fail("an activation of gelu, gelu_new, relu, silu");
    c.activation = *known;
  }
  if (family.relative_positions && c.positions > kMostRelative)
    (positions ? *positions : json)
        .fail(fmt::format("at most {} positions, of which each pair has a bias", kMostRelative));
  const Json* kind = json.find_value("position_embedding_type");
  if (kind && kind->as_string() != "absolute") kind->fail("\"absolute\"");
  const Json* decoder = json.find_value("is_decoder");
  if (decoder && decoder->as_bool()) decoder->fail("false: an encoder");
  const Json* buckets = family.relative_positions ? json.find_value("relative_attention_num_buckets") : nullptr;
  if (buckets && buckets->as_int64() != kDistanceBuckets) buckets->fail(fmt::format("{}", kDistanceBuckets));
  return c;
}

ParamTree read_encoder(const std::filesystem::path& folder, const EncoderConfig& config, DType dtype) {
  const Source from(folder, config, dtype);
  ParamTree tree;
  add_embeddings(from, config, tree);
  for (std::int64_t i = 0; i < config.layers; ++i) add_layer(from, config, i, tree);
  if (config.family->relative_positions)
    tree.insert(
        "distance.weight",
        cast(from.load("encoder.relative_attention_bias.weight", {kDistanceBuckets, config.heads}), DType::f32).eval());
  return tree;
}

}  // namespace metal_candle::embeddings
