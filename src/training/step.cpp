#include "training/step.h"

#include <cmath>

#include "metal_candle/autograd.hpp"
#include "metal_candle/ops.hpp"
#include "metal_candle/scope.hpp"

namespace metal_candle::training {
namespace {

LazyTensor list(const std::vector<std::int32_t>& values) {
  return Tensor::from(values, {static_cast<std::int64_t>(values.size())});
}

/// NaN has a sign, which is an accident.
double unsigned_nan(float x) { return std::isnan(x) ? std::abs(x) : x; }

/// False for NaN and infinities.
LazyTensor finite(const LazyTensor& x) { return logical_not(logical_or(is_nan(x), is_inf(x))); }

}  // namespace

Stepper::Stepper(const Model& model, const LoRAAdapter& adapter, const TrainOptions& options)
    : model_(model),
      adapter_(adapter),
      options_(options),
      parameters_(adapter.trainable()),
      moments_(adamw_state(parameters_)) {}

void Stepper::restore(ParamTree parameters, AdamWState moments) {
  parameters_ = std::move(parameters);
  moments_ = std::move(moments);
}

LazyTensor Stepper::loss_sum(const ParamTree& parameters, const PackedRows& rows, const Key* dropout) const {
  nn::Weights weights = model_.weights();
  adapter_.with(parameters).apply(weights);
  if (dropout && adapter_.config().dropout > 0) weights.lora_dropout(adapter_.config().dropout, *dropout);
  const Batch batch{list(rows.ids), list(rows.positions), list(rows.offsets), list(rows.lengths)};
  const LazyTensor hidden = model_.hidden(weights, batch, {.checkpoint_layers = options_.checkpointing && dropout});
  const LazyTensor targets = list(rows.targets);
  const CrossEntropyOptions sum_of{.ignore_index = PackedRows::kIgnored, .reduction = Reduction::sum};
  const Scope scope("loss");
  return model_.cross_entropy(weights, hidden, targets, sum_of);
}

Stepper::Pass Stepper::pass(const PackedRows& batch, double tokens, Key key) const {
  const LazyTensor loss = loss_sum(parameters_, batch, &key) * (1 / tokens);
  return {loss, grad(loss, parameters_)};
}

Stepper::Update Stepper::record_update(const Pass& pass, double learning_rate) const {
  const Scope scope("adamw");
  const Clipped clipped = clip_by_global_norm(pass.gradients, options_.max_grad_norm);
  const AdamWOptions adam{.learning_rate = learning_rate,
                          .beta1 = options_.beta1,
                          .beta2 = options_.beta2,
                          .epsilon = options_.epsilon,
                          .weight_decay = options_.weight_decay};
  const LazyTensor apply = logical_and(finite(pass.loss), finite(clipped.norm));
  return {adamw(parameters_, clipped.gradients, moments_, adam, apply), clipped.norm};
}

StepOutcome Stepper::update(const Pass& pass, double learning_rate, std::vector<LazyTensor> donate) {
  Update u = record_update(pass, learning_rate);
  for (LazyTensor& t : moments_.tensors_with(parameters_)) donate.push_back(std::move(t));
  const AsyncRun run = eval_async({.roots = u.next.roots({pass.loss, u.norm}), .donate = std::move(donate)});
  const std::int64_t updates = moments_.updates;
  parameters_ = std::move(u.next.parameters);
  moments_ = std::move(u.next.state);
  StepOutcome out{unsigned_nan(run.get<float>(pass.loss)), unsigned_nan(run.get<float>(u.norm))};
  out.applied = std::isfinite(out.loss) && std::isfinite(out.norm);
  if (!out.applied) moments_.updates = updates;
  return out;
}

StepOutcome Stepper::step(const std::vector<PackedRows>& batches, double learning_rate, Key key) {
  std::int64_t supervised = 0;
  for (const PackedRows& b : batches) supervised += b.supervised;
  const double tokens = static_cast<double>(std::max<std::int64_t>(1, supervised));
  Pass sum = pass(batches[0], tokens, key.fold(0));
  std::vector<LazyTensor> donate;
  for (std::size_t i = 1; i < batches.size(); ++i) {
    // What was recorded so far is computed; its results are what the next micro-batch adds to, in place.
    std::vector<LazyTensor> roots = sum.gradients.tensors();
    roots.push_back(sum.loss);
    eval_async({.roots = roots, .donate = std::move(donate)});
    const Pass more = pass(batches[i], tokens, key.fold(i));
    donate = std::move(roots);
    std::vector<LazyTensor> gradients;
    auto before = sum.gradients.begin();
    for (const auto& [path, g] : more.gradients) gradients.push_back((before++)->second + g);
    sum = {sum.loss + more.loss, sum.gradients.with(std::move(gradients))};
  }
  return update(sum, learning_rate, std::move(donate));
}

double Stepper::evaluate(const PackedRows& batch) const {
  return unsigned_nan(loss_sum(parameters_, batch, nullptr).eval().item<float>());
}

MemoryNeeds Stepper::needs(std::span<const PackedRows> batches, bool several,
                           std::span<const PackedRows> evaluated) const {
  std::vector<EvalOptions> runs;
  for (const PackedRows& batch : batches) {
    const Pass p = pass(batch, 1, Key(0));
    const Update u = record_update(p, 0);
    runs.push_back({.roots = u.next.roots({p.loss, u.norm}), .donate = moments_.tensors_with(parameters_)});
    // Gradients of micro-batches are results, to which the next one adds.
    if (several && &batch == batches.data()) runs.push_back({.roots = p.gradients.tensors()});
  }
  for (const PackedRows& batch : evaluated) runs.push_back({.roots = {loss_sum(parameters_, batch, nullptr)}});
  return memory_needs(runs);
}

}  // namespace metal_candle::training
