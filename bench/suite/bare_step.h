// The LoRA training step of the section `training` with nothing of the engine around.
#pragma once

#include <metal_candle/model.hpp>
#include <metal_candle/param_tree.hpp>
#include <utility>
#include <vector>

#include "suite/bare_block.h"

namespace bench {

struct StepProblem {
  const mc::Model& model;
  const mc::ParamTree& parameters;         // <module>.lora_A.weight, <module>.lora_B.weight; f32
  std::vector<std::int32_t> ids, targets;  // of `rows` sequences, one after the other; -100: no target
  std::int64_t rows, rank;
  std::function<std::pair<mc::LazyTensor, mc::ParamTree>()> gradients;  // the library's loss and gradients
};

/// All layers, each with its own weights packed for both directions, the head with the loss, and AdamW. Residuals and
/// gradients are of the model's type, where the library keeps f32 beside bf16. Loss, gradients and update have been
/// compared with the library's; it throws if they differ by more than rounding. Without `run` on other processors.
BareWork bare_step(const StepProblem& problem, mc::DType dtype);

}  // namespace bench
