// A LoRA training step of a whole model: SmolLM2-135M's shape with random weights, rank 16 on all linear layers, 2 rows
// of 512 tokens, AdamW. As PEFT has it, adapters are f32 and the base is f32 or bf16.
#include <fmt/format.h>

#include <algorithm>
#include <metal_candle/autograd.hpp>
#include <metal_candle/model.hpp>
#include <metal_candle/optimizer.hpp>

#include "suite/bare_step.h"
#include "suite/language.h"
#include "suite/machine.h"
#include "suite/memory_ceiling.h"
#include "suite/needed.h"

namespace bench {
namespace {

constexpr std::int64_t kRows = 2, kLength = 512, kRank = 16;

class LoraTraining {
 public:
  explicit LoraTraining(mc::DType dtype) : model_(mc::Model::random(smol().config, mc::Key(1), dtype)) {
    for (const std::string& module : model_.linear_modules()) {
      const mc::Shape& w = model_.weights()[module + ".weight"].shape();
      parameters_.insert(module + ".lora_A.weight", random_tensor({kRank, w[1]}, mc::DType::f32, 0.04));
      parameters_.insert(module + ".lora_B.weight", random_tensor({w[0], kRank}, mc::DType::f32, 0.04));
    }
    state_ = mc::adamw_state(parameters_);
    mc::eval(state_.tensors_with(parameters_));
    std::vector<std::int32_t> ids, positions, offsets{0};
    for (std::int64_t r = 0; r < kRows; ++r) {
      for (std::int64_t t = 0; t < kLength; ++t) {
        ids.push_back(static_cast<std::int32_t>((7919 * (r * kLength + t) + 13) % smol().config.vocabulary));
        positions.push_back(static_cast<std::int32_t>(t));
      }
      offsets.push_back(static_cast<std::int32_t>((r + 1) * kLength));
    }
    const std::int64_t n = kRows * kLength;
    batch_ = {.ids = mc::Tensor::from(ids, {n}),
              .positions = mc::Tensor::from(positions, {n}),
              .offsets = mc::Tensor::from(offsets, {kRows + 1})};
    std::vector<std::int32_t> next(ids.begin() + 1, ids.end());
    next.push_back(-100);
    next[static_cast<std::size_t>(kLength - 1)] = -100;
    targets_ = mc::Tensor::from(next, {n});
  }

  /// The same step for the bare kernels, which go on from the parameters as they are now.
  BareWork by_hand() const {
    return bare_step(
        {.model = model_,
         .parameters = parameters_,
         .ids = batch_.ids.eval().to_vector<std::int32_t>(),
         .targets = targets_.to_vector<std::int32_t>(),
         .rows = kRows,
         .rank = kRank,
         .gradients =
             [this] { return mc::value_and_grad([&](const mc::ParamTree& p) { return loss_of(p); }, parameters_); }},
        model_.dtype());
  }

  void run() {
    auto [loss, gradients] = mc::value_and_grad([&](const mc::ParamTree& p) { return loss_of(p); }, parameters_);
    auto next = mc::adamw(parameters_, gradients, state_, {.learning_rate = 1e-4});
    auto step = mc::eval_async({.roots = next.roots({loss}), .donate = state_.tensors_with(parameters_)});
    parameters_ = next.parameters, state_ = next.state;
    step.wait();
  }

 private:
  mc::LazyTensor loss_of(const mc::ParamTree& p) const {
    mc::nn::Weights w = model_.weights();
    for (const std::string& module : model_.linear_modules())
      w.adapt(module, {p[module + ".lora_A.weight"], p[module + ".lora_B.weight"], 2.0});
    return model_.cross_entropy(w, model_.hidden(w, batch_), targets_);
  }

  mc::Model model_;
  mc::ParamTree parameters_;
  mc::AdamWState state_;
  mc::Batch batch_;
  mc::Tensor targets_;
};

std::vector<Needed> products_of_step(mc::DType dtype) {
  const BlockShape shape;
  std::vector<Needed> all = products_of(shape, dtype);
  for (Needed& n : all) n.times *= static_cast<double>(smol().config.layers);
  const std::int64_t rows = kRows * kLength, vocabulary = smol().config.vocabulary;
  all.push_back({"head y=xW", {rows, vocabulary, shape.hidden, dtype, true}, 1});
  all.push_back({"head dx=dyW'", {rows, shape.hidden, vocabulary, dtype, true, false, true}, 1});
  return all;
}

}  // namespace

void training(Suite& suite) {
  for (const auto& [dtype, least] : {std::pair{mc::DType::f32, 1.65}, {mc::DType::bf16, 2.1}}) {
    const std::string name = dtype_name(dtype);
    LoraTraining step(dtype);
    const double held = memory_status("VmRSS"), begin = now();
    step.run();
    const double first = now() - begin, touched = std::max(0.0, memory_status("VmRSS") - held);
    const double touching = touch_fresh(touched);
    const BareWork by_hand = step.by_hand();
    Contest contest(suite);
    contest.local("ours", [&] { step.run(); });
    if (by_hand.run) contest.local("bare kernels", by_hand.run);
    contest.torch(fmt::format("lm_step:smol:{}:{}:{}", kRows, kLength, name), false);
    BareProducts products(suite, products_of_step(dtype));
    products.run(contest);
    products.report("training");
    Row row{"training", "LoRA step SmolLM2-135M 2x512 r16 " + name};
    contest.describe(row);
    row.add("tokens a second", kRows * kLength / contest.seconds("ours"));
    row.add("its matmuls, the better of each", products.sum().better, "s");
    row.at_most("of its matmuls", products.times(contest, "ours"), 1.2);
    if (by_hand.run) row.by_hand(products.times(contest, "bare kernels")).note(by_hand.parts());
    row.add("first step", first, "s").add("memory that it touches first", touched * 1e-9, "GB");
    row.add("touching as much by hand", touching, "s");
    // By hand: the step once more, and what its memory takes to be there.
    row.at_most("first step, seconds", first, 3).by_hand(contest.seconds("ours") + touching);
    if (const auto best = contest.fastest("torch eager"); !best.empty())
      row.at_least("x " + best, contest.ratio("ours", best), least);
    suite.report.add(row.note(longest_kernels([&] { step.run(); })));
    suite.peers.stop();
  }
  trainer(suite);
}

/// Apart, because the peer compiles for a minute or more; with heap reuse, its better way, and in full mode without too.
void training_compiled(Suite& suite) {
  for (const auto& [dtype, least] : {std::pair{mc::DType::f32, 1.4}, {mc::DType::bf16, 1.7}}) {
    LoraTraining step(dtype);
    const std::string work = fmt::format("lm_step:smol:{}:{}:{}", kRows, kLength, dtype_name(dtype));
    Contest contest(suite);
    contest.local("ours", [&] { step.run(); }).peer({PeerKind::torch_compile, true}, work);
    if (suite.options.full) contest.peer({PeerKind::torch_compile}, work);
    contest.run();
    Row row{"training_compiled", "LoRA step SmolLM2-135M 2x512 r16 " + dtype_name(dtype)};
    contest.describe(row);
    row.add("tokens a second", kRows * kLength / contest.seconds("ours"));
    if (const auto best = contest.fastest("torch compile"); !best.empty())
      row.at_least("x " + best, contest.ratio("ours", best), least);
    suite.report.add(std::move(row));
    suite.peers.stop();
  }
}

}  // namespace bench
