// The tiny models of tests/fixtures/embeddings/tiny.jsonl as folders, with the weights of
// tests/fixtures/make_embedding_fixtures.py.
#pragma once

#include <cmath>
#include <fstream>
#include <stdexcept>
#include <string>
#include <vector>

#include "metal_candle/embeddings.hpp"
#include "metal_candle/json.hpp"
#include "metal_candle/safetensors.hpp"
#include "tests/io/temp_folder.h"
#include "tests/support/tiny_models.h"

namespace metal_candle::test {

struct EmbedderCase {
  std::string name;
  Json files, tensors;
  EmbedOptions options;
  std::vector<std::string> texts;
  std::vector<std::vector<double>> embeddings;
};

inline EmbedderCase read_embedder(const Json& json) {
  EmbedderCase c{.name = std::string(json.at("name").as_string()),
                 .files = json.at("files"),
                 .tensors = json.at("tensors"),
                 .options = {},
                 .texts = {},
                 .embeddings = {}};
  if (const Json* name = json.at("options").find("prompt_name")) c.options.prompt_name = std::string(name->as_string());
  if (const Json* n = json.at("options").find("dimensions")) c.options.dimensions = n->as_int64();
  for (const Json& text : json.at("texts").elements()) c.texts.emplace_back(text.as_string());
  for (const Json& row : json.at("embeddings").elements()) {
    c.embeddings.emplace_back();
    for (const Json& v : row.elements()) c.embeddings.back().push_back(v.as_double());
  }
  return c;
}

inline const std::vector<EmbedderCase>& embedder_cases() {
  static const std::vector<EmbedderCase> cases = [] {
    std::ifstream in(METAL_CANDLE_TESTS_DIR "/fixtures/embeddings/tiny.jsonl");
    if (!in) throw std::runtime_error("tiny.jsonl cannot be read");
    std::vector<EmbedderCase> list;
    for (std::string line; std::getline(in, line);) list.push_back(read_embedder(Json::parse(line, "tiny.jsonl")));
    return list;
  }();
  return cases;
}

inline const EmbedderCase& embedder_case(const std::string& name) {
  for (const EmbedderCase& c : embedder_cases())
    if (c.name == name) return c;
  throw std::runtime_error("no case " + name);
}

inline Tensor embedder_weight(const std::string& name, const Shape& shape) {
  const bool one = shape.rank() == 1, scale = name.ends_with("weight") || name.ends_with("gamma");
  const bool table = name.find("embed") != std::string::npos || name.find("relative") != std::string::npos;
  std::vector<float> values;
  for (const double u : named_numbers(name, shape.numel())) {
    const double v = one     ? 0.25 * u + (scale ? 1 : 0)
                     : table ? u
                             : u * (1.75 / std::sqrt(static_cast<double>(shape[shape.rank() - 1])));
    values.push_back(static_cast<float>(v));
  }
  return Tensor::from(values, shape);
}

inline void write_text(const std::filesystem::path& path, const std::string& text) {
  std::filesystem::create_directories(path.parent_path());
  std::ofstream(path) << text;
}

/// Writes the case's folder.
inline void write_embedder(const EmbedderCase& c, const std::filesystem::path& folder) {
  for (const JsonMember& file : c.files.items()) write_text(folder / file.key, file.value.dump());
  for (const JsonMember& file : c.tensors.items()) {
    std::vector<NamedTensor> tensors;
    for (const Json& entry : file.value.elements()) {
      std::vector<std::int64_t> dims;
      for (const Json& extent : entry.at(1).elements()) dims.push_back(extent.as_int64());
      const std::string name(entry.at(0).as_string());
      tensors.emplace_back(name, embedder_weight(name, Shape(std::span<const std::int64_t>(dims))));
    }
    std::filesystem::create_directories((folder / file.key).parent_path());
    save_safetensors(folder / file.key, tensors);
  }
}

}  // namespace metal_candle::test
