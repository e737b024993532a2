// Optimizing: AdamW, clipping, learning rates that change. Everything is recorded, nothing computed: an update is part
// of the graph of its training step, and every number in it is a slot, so that steps replay one plan.
//
//   mc::AdamWState state = mc::adamw_state(params);
//   for (std::int64_t step = 0; step < 100; ++step) {
//     auto [loss, grads] = mc::value_and_grad(f, params);
//     auto clipped = mc::clip_by_global_norm(grads, 1.0);
//     auto next = mc::adamw(params, clipped.gradients, state, {.learning_rate = schedule.at(step)});
//     auto run = mc::eval_async({.roots = next.roots({loss, clipped.norm}), .donate = state.tensors_with(params)});
//     params = next.parameters, state = next.state;
//   }
//
// A state belongs to the parameters it was made for: paths and order are the same. Functions here may be called from
// any thread; they share nothing.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "metal_candle/param_tree.hpp"

namespace metal_candle {

struct AdamWOptions {
  double learning_rate = 1e-3;
  double beta1 = 0.9, beta2 = 0.999;
  double epsilon = 1e-8;
  /// Decoupled: a parameter shrinks by learning_rate · weight_decay, whatever its gradient.
  double weight_decay = 0.01;
};

/// Moments in f32 (f64 for f64 parameters), and how many updates they have seen.
struct AdamWState {
  ParamTree first, second;
  std::int64_t updates = 0;

  /// All moments, then the parameters: what a step donates.
  std::vector<LazyTensor> tensors_with(const ParamTree& parameters) const;
};

/// Zeros for each parameter.
AdamWState adamw_state(const ParamTree& parameters);

struct AdamWStep {
  ParamTree parameters;
  AdamWState state;
  /// `others`, the new moments, the new parameters: what a step evaluates.
  std::vector<LazyTensor> roots(std::vector<LazyTensor> others = {}) const;
};

/// One update. Where `apply` (a 0-d bool) is given and turns out false, parameters and moments keep their bits; the
/// caller then takes back `state.updates`, which counts on the host. Throws UserError where trees do not match or an
/// option is out of its range.
AdamWStep adamw(const ParamTree& parameters, const ParamTree& gradients, const AdamWState& state,
                const AdamWOptions& options = {}, const LazyTensor& apply = {});

/// sqrt of the sum of all squares, f32.
LazyTensor global_norm(const ParamTree& gradients);

struct Clipped {
  ParamTree gradients;
  LazyTensor norm;  // before clipping
};
/// Scales all gradients by max_norm / (norm + 1e-6) where that is below 1. A max_norm of 0 or less: no clipping.
Clipped clip_by_global_norm(const ParamTree& gradients, double max_norm);

enum class ScheduleKind { constant, linear, cosine };

/// "constant", "linear" or "cosine"; throws UserError naming what there is.
ScheduleKind schedule_kind(std::string_view name);
std::string_view name_of(ScheduleKind kind);

/// A learning rate over steps, with the values of the schedules that transformers has under the same names: from 0 up
/// to the peak in `warmup` steps, then constant, or down to 0 at `total` along a line or half a cosine.
struct Schedule {
  ScheduleKind kind = ScheduleKind::linear;
  double peak = 1e-3;
  std::int64_t warmup = 0, total = 0;

  /// For the step with this number, the first being 0.
  double at(std::int64_t step) const;
};

}  // namespace metal_candle
