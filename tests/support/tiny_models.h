// The tiny models of tests/fixtures/models/tiny.jsonl: their cases, and their weights by the formula of
// tests/fixtures/make_model_fixtures.py.
#pragma once

#include <string>
#include <vector>

#include "metal_candle/json.hpp"
#include "metal_candle/model.hpp"

namespace metal_candle::test {

struct TinyCase {
  std::string name;
  Json config;
  std::vector<std::int32_t> ids;
  std::vector<std::vector<double>> logits;
};

/// All cases, read once.
const std::vector<TinyCase>& tiny_cases();
const TinyCase& tiny_case(const std::string& name);
std::vector<std::string> tiny_names();

/// `count` numbers in [-1, 1) that belong to the name.
std::vector<double> named_numbers(const std::string& name, std::int64_t count);
ParamTree tiny_weights(const ModelConfig& config, DType dtype = DType::f32);
Model tiny_model(const std::string& name, DType dtype = DType::f32);

/// One sequence from position 0.
Batch sequence(const std::vector<std::int32_t>& ids);
LazyTensor ints(const std::vector<std::int32_t>& values);

}  // namespace metal_candle::test
