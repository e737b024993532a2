// Configurations of models and adapters: refused by name, or sizes that can be used and that come back from what is
// written of them.
#include "metal_candle/error.hpp"
#include "metal_candle/lora.hpp"
#include "metal_candle/model.hpp"
#include "tests/fuzz/targets.h"

namespace metal_candle::fuzz {
namespace {

void model(const Json& json) {
  ModelConfig c;
  try {
    c = ModelConfig::from_json(json);
  } catch (const FileError& e) {
    must(!e.file().empty(), "an error with its file");
    return;
  }
  for (const std::int64_t size : {c.vocabulary, c.hidden, c.intermediate, c.layers, c.heads, c.key_heads, c.head_width})
    must(size > 0 && size < (std::int64_t{1} << 40), "sizes that can be multiplied");
  must(c.heads % c.key_heads == 0 && c.head_width % 2 == 0, "heads that can be shared and turned");
  must(c.context() > 0, "room for a token");
  const Json written = c.to_json(DType::f32);
  const ModelConfig again = ModelConfig::from_json(Json::parse(written.dump(), "written.json"));
  must(again.to_json(DType::f32) == written, "a configuration that comes back");
}

void adapter(const Json& json) {
  LoRAConfig c;
  try {
    c = LoRAConfig::from_json(json);
  } catch (const FileError& e) {
    must(!e.file().empty(), "an error with its file");
    return;
  }
  must(c.rank > 0, "a rank");
  c.targets("model.layers.0.self_attn.q_proj", true);
  const Json written = c.to_json();
  must(LoRAConfig::from_json(Json::parse(written.dump(), "written.json")).to_json() == written,
       "a configuration that comes back");
}

}  // namespace

void config(std::string_view bytes) {
  Json json;
  try {
    json = Json::parse(bytes, "fuzz.json");
  } catch (const FileError&) {
    return;
  }
  model(json);
  adapter(json);
}

}  // namespace metal_candle::fuzz
