// Which tensors the adapter of a model has, and in what order: two a module, then the modules saved whole.
#pragma once

#include "metal_candle/lora.hpp"

namespace metal_candle::lora {

struct Module {
  std::string path;
  bool embedding = false;
  double scale = 1;
};
struct TensorPlace {
  std::string path;
  Shape shape;
};
struct Layout {
  std::vector<Module> modules;
  std::vector<std::string> saved;    // whole weights: "lm_head.weight"
  std::vector<TensorPlace> tensors;  // of both, in order
};

/// Throws UserError where no module matches.
Layout layout_of(const Model& model, const LoRAConfig& config);

}  // namespace metal_candle::lora
