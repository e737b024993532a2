// Training against PyTorch and PEFT: 20 steps from one adapter, in one order of rows (fixtures/make_lora_fixtures.py).
#include <gtest/gtest.h>

#include <cmath>
#include <fstream>

#include "metal_candle/metal_candle.hpp"
#include "tests/support/tiny_llama.h"
#include "tests/training/training_support.h"

namespace metal_candle {
namespace {

namespace fs = std::filesystem;

fs::path folder_of(const std::string& name) {
  return fs::path(METAL_CANDLE_TESTS_DIR) / "fixtures/lora/training" / name;
}

struct OracleStep {
  double loss, norm;
};
std::vector<OracleStep> oracle() {
  std::ifstream file(folder_of("last") / "expected.txt");
  std::vector<OracleStep> steps;
  std::string word;
  for (OracleStep s{}; file >> word >> s.loss >> s.norm;) steps.push_back(s);
  return steps;
}

TrainOptions oracle_options(const fs::path& output) {
  TrainOptions o{.output = output, .init_adapter = folder_of("first"), .learning_rate = 0.02, .warmup = 3};
  o.weight_decay = 0.1;
  o.max_grad_norm = 0.5;
  o.batch_size = 6;
  o.shuffle = false;
  o.steps = 20;
  return o;
}

struct Deviation {
  double loss = 0, norm = 0, parameters = 0;
};

Deviation train(const Model& model, TrainOptions options) {
  const std::vector<OracleStep> want = oracle();
  EXPECT_EQ(want.size(), 20u);
  Deviation d;
  std::int64_t steps = 0;
  Trainer trainer(model, Dataset(test::tiny_rows(24)), {}, options);
  trainer.run({.step = [&](const StepEvent& e) {
    const OracleStep& w = want.at(static_cast<std::size_t>(steps++));
    EXPECT_EQ(e.step, steps);
    d.loss = std::max(d.loss, std::abs(e.loss - w.loss));
    d.norm = std::max(d.norm, std::abs(e.grad_norm - w.norm) / w.norm);
  }});
  EXPECT_EQ(steps, 20);
  // What was written, against what PEFT wrote.
  const LoRAAdapter ours = LoRAAdapter::load(options.output, model),
                    theirs = LoRAAdapter::load(folder_of("last"), model);
  for (const auto& [path, t] : ours.trainable()) {
    const std::vector<double> a = Tensor(t).to_f64(), b = Tensor(theirs.trainable()[path]).to_f64();
    for (std::size_t i = 0; i < a.size(); ++i) d.parameters = std::max(d.parameters, std::abs(a[i] - b[i]));
  }
  return d;
}

void expect_pytorchs(void (*change)(TrainOptions&)) {
  const test::TempFolder folder;
  TrainOptions options = oracle_options(folder.path);
  change(options);
  const Deviation d = train(test::tiny_llama(), options);
  EXPECT_LT(d.loss, 2e-5);
  EXPECT_LT(d.norm, 2e-5);
  EXPECT_LT(d.parameters, 1e-3);
}

TEST(TrainingOracle, TwentyStepsArePyTorchs) {
  expect_pytorchs([](TrainOptions&) {});
}
TEST(TrainingOracle, InMicroBatchesToo) {
  expect_pytorchs([](TrainOptions& o) { o.batch_size = 2, o.accumulate = 3; });
}
TEST(TrainingOracle, WithActivationCheckpointingToo) {
  expect_pytorchs([](TrainOptions& o) { o.checkpointing = true; });
}

TEST(TrainingOracle, ABaseInBf16StaysClose) {
  const test::TempFolder folder;
  const Deviation d = train(test::tiny_llama(false, DType::bf16), oracle_options(folder.path));
  EXPECT_LT(d.loss, 0.1);
  EXPECT_GT(d.loss, 0);
}

}  // namespace
}  // namespace metal_candle
