// Tokenizers made by tests/fixtures/make_tokenizer_fixtures.py.
#pragma once

#include <string>

#include "metal_candle/json.hpp"
#include "metal_candle/tokenizer.hpp"

namespace metal_candle {

inline Json tokenizer_fixture(const char* name) {
  return Json::load(std::string(METAL_CANDLE_TESTS_DIR "/fixtures/tokenizer/") + name);
}

/// A tokenizer.json of the fixtures.
inline Json tokenizer_json(const std::string& name) {
  static const Json all = tokenizer_fixture("tokenizers.json");
  const Json& j = all.at(name);
  if (!j.contains("base")) return j;
  Json whole = all.at(j.at("base").as_string());
  for (const JsonMember& m : j.items()) {
    if (m.key != "base") whole.set(m.key, m.value);
  }
  return whole;
}
inline Tokenizer tokenizer_of(const Json& json, const std::string& name) {
  return Tokenizer::from_json(json.dump(), name);
}
inline Tokenizer tokenizer(const std::string& name) { return tokenizer_of(tokenizer_json(name), name); }

}  // namespace metal_candle
