#include "tests/support/tiny_models.h"

#include <algorithm>
#include <cmath>
#include <fstream>
#include <stdexcept>
#include <string_view>

namespace metal_candle::test {
namespace {

std::vector<TinyCase> read_cases() {
  std::ifstream in(METAL_CANDLE_TESTS_DIR "/fixtures/models/tiny.jsonl");
  if (!in) throw std::runtime_error("tiny.jsonl cannot be read");
  std::vector<TinyCase> cases;
  for (std::string line; std::getline(in, line);) {
    const Json json = Json::parse(line, "tiny.jsonl:" + std::to_string(cases.size() + 1));
    TinyCase c{std::string(json.at("name").as_string()), json.at("config"), {}, {}};
    for (const Json& id : json.at("ids").elements()) c.ids.push_back(static_cast<std::int32_t>(id.as_int64()));
    for (const Json& row : json.at("logits").elements()) {
      c.logits.emplace_back();
      for (const Json& v : row.elements()) c.logits.back().push_back(v.as_double());
    }
    cases.push_back(std::move(c));
  }
  return cases;
}

std::uint64_t mix(std::uint64_t z) {
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
  return z ^ (z >> 31);
}

bool ends_with(const std::string& text, const std::string& end) {
  return text.size() >= end.size() && text.compare(text.size() - end.size(), end.size(), end) == 0;
}

/// As `norms_add_one` of the script's families.
constexpr std::string_view kNormsAddOne[] = {"gemma2"};
bool norms_add_one(const ModelConfig& config) {
  return std::find(std::begin(kNormsAddOne), std::end(kNormsAddOne), config.family) != std::end(kNormsAddOne);
}

}  // namespace

const std::vector<TinyCase>& tiny_cases() {
  static const std::vector<TinyCase> cases = read_cases();
  return cases;
}

const TinyCase& tiny_case(const std::string& name) {
  for (const TinyCase& c : tiny_cases())
    if (c.name == name) return c;
  throw std::runtime_error("no case " + name);
}

std::vector<std::string> tiny_names() {
  std::vector<std::string> list;
  for (const TinyCase& c : tiny_cases()) list.push_back(c.name);
  return list;
}

std::vector<double> named_numbers(const std::string& name, std::int64_t count) {
  std::uint64_t h = 0xcbf29ce484222325u;
  for (const char c : name) h = (h ^ static_cast<unsigned char>(c)) * 0x100000001b3u;
  std::vector<double> out;
  for (std::uint64_t i = 0; i < static_cast<std::uint64_t>(count); ++i)
    out.push_back(static_cast<double>(mix(h + i * 0x9e3779b97f4a7c15u) >> 40) / 0x1p23 - 1);
  return out;
}

ParamTree tiny_weights(const ModelConfig& config, DType dtype) {
  ParamTree tree;
  for (const auto& [path, shape] : weight_shapes(config)) {
    double mean = 0, scale = 1;
    if (ends_with(path, "norm.weight")) mean = norms_add_one(config) ? 0 : 1, scale = 0.25;
    else if (ends_with(path, ".bias")) scale = 0.25;
    else if (!ends_with(path, "embed_tokens.weight")) scale = 1.75 / std::sqrt(static_cast<double>(shape[1]));
    std::vector<float> values;
    for (const double u : named_numbers(path, shape.numel())) values.push_back(static_cast<float>(scale * u + mean));
    const Tensor t = Tensor::from(values, shape);
    tree.insert(path, dtype == DType::f32 ? t : cast(t, dtype).eval());
  }
  return tree;
}

Model tiny_model(const std::string& name, DType dtype) {
  const ModelConfig config = ModelConfig::from_json(tiny_case(name).config);
  return Model(config, tiny_weights(config, dtype));
}

LazyTensor ints(const std::vector<std::int32_t>& values) {
  return Tensor::from(values, {static_cast<std::int64_t>(values.size())});
}

Batch sequence(const std::vector<std::int32_t>& ids) {
  std::vector<std::int32_t> positions(ids.size());
  for (std::size_t i = 0; i < ids.size(); ++i) positions[i] = static_cast<std::int32_t>(i);
  return {.ids = ints(ids), .positions = ints(positions)};
}

}  // namespace metal_candle::test
