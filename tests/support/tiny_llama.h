// The tiny model and the rows of tests/fixtures/make_lora_fixtures.py: numbers that are hashes of names and places.
#pragma once

#include <string>
#include <vector>

#include "metal_candle/dataset.hpp"
#include "metal_candle/model.hpp"

namespace metal_candle::test {

/// Within ±0.5.
std::vector<double> hashed_numbers(const std::string& name, std::int64_t count);
ModelConfig tiny_llama_config(bool tied = false);
Model tiny_llama(bool tied = false, DType dtype = DType::f32);
Sample tiny_row(int i);
std::vector<Sample> tiny_rows(int count);
/// Logits of the sample's tokens, [t, vocabulary].
LazyTensor tiny_logits(const Model& model, const nn::Weights& weights, const Sample& sample);

}  // namespace metal_candle::test
