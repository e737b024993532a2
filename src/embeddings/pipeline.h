// What a folder in sentence-transformers' layout says beside the backbone: how texts are cut, how token vectors become
// one, what follows, and the prompts.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "metal_candle/tensor.hpp"

namespace metal_candle::embeddings {

enum class PoolingMode { cls, max, mean, mean_sqrt, weighted_mean, last };

struct Pooling {
  std::vector<PoolingMode> modes;  // their results one after the other
  bool include_prompt = true;
  std::int64_t width = 0;   // of token vectors; 0: not said
  std::string file, field;  // that say so
};

enum class DenseActivation { identity, tanh, relu, gelu, sigmoid, silu };

/// activation(x·weightᵀ + bias), in f32, to which x (by its own weight, where it has one) may be added.
struct Dense {
  Tensor weight, bias, residual;  // [out, in], [out], [out, in]; the last two may be undefined
  DenseActivation activation = DenseActivation::tanh;
  bool add_input = false;
  std::string file;  // of its settings
};
struct Normalize {};
using Step = std::variant<Dense, Normalize>;

struct Pipeline {
  std::filesystem::path backbone;  // folder
  std::optional<std::int64_t> max_tokens;
  bool lower_case = false;
  std::optional<Pooling> pooling;  // none: a bare model
  std::vector<Step> steps;
  std::map<std::string, std::string> prompts;
  std::string default_prompt;  // a name, or empty
};

/// FileError with file and field.
Pipeline read_pipeline(const std::filesystem::path& folder);

}  // namespace metal_candle::embeddings
