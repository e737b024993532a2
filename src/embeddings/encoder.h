// Encoders in BERT's manner: what their files say, under names of our own.
#pragma once

#include <filesystem>
#include <string>
#include <string_view>

#include "metal_candle/json.hpp"
#include "metal_candle/nn.hpp"

namespace metal_candle::embeddings {

/// How a family's config.json and tensors are named, and what sets it apart.
struct EncoderFamily {
  std::string_view name, prefix;  // model_type; what may stand before the names of tensors
  // config.json.
  std::string_view width = "hidden_size", layers = "num_hidden_layers", heads = "num_attention_heads",
                   intermediate = "intermediate_size", activation = "hidden_act";
  double eps = 1e-12;
  bool asks_eps = true;
  std::int64_t positions = 512;
  // Tensors of a layer, below `layer` + its number.
  std::string_view layer = "encoder.layer.";
  std::string_view query = "attention.self.query", key = "attention.self.key", value = "attention.self.value",
                   out = "attention.output.dense", first_norm = "attention.output.LayerNorm", up = "intermediate.dense",
                   down = "output.dense", second_norm = "output.LayerNorm";
  bool token_types = true;          // the vector of type 0 is added to every token
  bool skips_padding = false;       // positions count from the padding token's id + 1, and skip padding tokens
  bool asks_padding = false;        // config.json's pad_token_id is that id; else it is 1
  bool relative_positions = false;  // a bias on scores by the distance of two tokens
};

struct EncoderConfig {
  const EncoderFamily* family = nullptr;
  std::int64_t vocabulary = 0, width = 0, intermediate = 0, layers = 0, heads = 0, positions = 0, token_types = 0;
  std::int32_t padding = 0;
  double eps = 1e-12;
  nn::Activation activation = nn::Activation::gelu;

  static EncoderConfig read(const EncoderFamily& family, const Json& json);
};

/// Null where there is none of that name.
const EncoderFamily* encoder_family(std::string_view model_type);

/// An encoder's weights: "word", "position" (the vector of token type 0 added), "norm"; of layer i "i.qkv" (queries,
/// keys and values in one), "i.out", "i.norm1", "i.up", "i.down", "i.norm2"; "distance.weight" [buckets, heads].
ParamTree read_encoder(const std::filesystem::path& folder, const EncoderConfig& config, DType dtype);

}  // namespace metal_candle::embeddings
