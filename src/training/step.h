// A step as graphs: the loss of a packed batch, its gradients, the update.
#pragma once

#include <span>

#include "metal_candle/dataset.hpp"
#include "metal_candle/lora.hpp"
#include "metal_candle/optimizer.hpp"
#include "metal_candle/runtime.hpp"
#include "metal_candle/trainer.hpp"

namespace metal_candle::training {

/// What a step leaves behind.
struct StepOutcome {
  double loss = 0, norm = 0;
  bool applied = false;
};

class Stepper {
 public:
  Stepper(const Model& model, const LoRAAdapter& adapter, const TrainOptions& options);

  const ParamTree& parameters() const { return parameters_; }
  const AdamWState& moments() const { return moments_; }
  /// Goes on from there.
  void restore(ParamTree parameters, AdamWState moments);

  /// One update from the micro-batches of a step. `key` is the step's own.
  StepOutcome step(const std::vector<PackedRows>& batches, double learning_rate, Key key);
  /// Sum of the losses of all tokens that are predicted; no dropout.
  double evaluate(const PackedRows& batch) const;
  /// What steps of such micro-batches take, several of which may make a step, and evaluating such batches; plans all,
  /// computes nothing.
  MemoryNeeds needs(std::span<const PackedRows> batches, bool several, std::span<const PackedRows> evaluated) const;

 private:
  struct Pass {
    LazyTensor loss;
    ParamTree gradients;
  };
  LazyTensor loss_sum(const ParamTree& parameters, const PackedRows& batch, const Key* dropout) const;
  Pass pass(const PackedRows& batch, double tokens, Key key) const;
  StepOutcome update(const Pass& pass, double learning_rate, std::vector<LazyTensor> donate);
  struct Update {
    AdamWStep next;
    LazyTensor norm;
  };
  Update record_update(const Pass& pass, double learning_rate) const;

  const Model& model_;
  const LoRAAdapter& adapter_;
  const TrainOptions& options_;
  ParamTree parameters_;
  AdamWState moments_;
};

}  // namespace metal_candle::training
