#include "tests/support/tiny_llama.h"

#include "metal_candle/ops.hpp"

namespace metal_candle::test {

std::vector<double> hashed_numbers(const std::string& name, std::int64_t count) {
  std::uint32_t seed = 2166136261u;
  for (const char c : name) seed = (seed ^ static_cast<unsigned char>(c)) * 16777619u;
  std::vector<double> numbers;
  for (std::int64_t i = 0; i < count; ++i) {
    std::uint32_t x = static_cast<std::uint32_t>(i) * 2654435761u + seed;
    x ^= x >> 15;
    x *= 2246822519u;
    x ^= x >> 13;
    numbers.push_back(x / 4294967296.0 - 0.5);
  }
  return numbers;
}

ModelConfig tiny_llama_config(bool tied) {
  ModelConfig c;
  c.family = "llama";
  c.vocabulary = 40;
  c.hidden = 16;
  c.intermediate = 24;
  c.layers = 2;
  c.heads = 4;
  c.key_heads = 2;
  c.head_width = 4;
  c.max_positions = 64;
  c.norm_eps = 1e-5;
  c.tied_embeddings = tied;
  return c;
}

Model tiny_llama(bool tied, DType dtype) {
  const ModelConfig config = tiny_llama_config(tied);
  ParamTree tree;
  for (const auto& [path, shape] : weight_shapes(config)) {
    const bool norm = path.find("norm") != std::string::npos;
    std::vector<float> values;
    for (const double x : hashed_numbers(path, shape.numel()))
      values.push_back(static_cast<float>(norm ? 1 + 0.2 * x : 0.8 * x));
    tree.insert(path, cast(Tensor::from(values, shape), dtype).eval());
  }
  return Model(config, tree);
}

Sample tiny_row(int i) {
  const int length = 5 + (i * 7) % 10;
  Sample s;
  for (const double x : hashed_numbers("row " + std::to_string(i), length)) {
    s.supervised.push_back(static_cast<int>(s.tokens.size()) > length / 3);
    s.tokens.push_back(static_cast<std::int32_t>((x + 0.5) * 40) % 40);
  }
  s.line = i + 1;
  return s;
}

std::vector<Sample> tiny_rows(int count) {
  std::vector<Sample> rows;
  for (int i = 0; i < count; ++i) rows.push_back(tiny_row(i));
  return rows;
}

LazyTensor tiny_logits(const Model& model, const nn::Weights& weights, const Sample& sample) {
  const auto n = static_cast<std::int64_t>(sample.tokens.size());
  const Batch batch{Tensor::from(sample.tokens, {n}), Tensor::arange(0, n, 1, DType::i32)};
  return model.logits(weights, model.hidden(weights, batch));
}

}  // namespace metal_candle::test
