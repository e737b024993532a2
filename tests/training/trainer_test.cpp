// The loop of training: plans and memory, evaluation, stopping, steps that go wrong, what lies in the output.
#include "metal_candle/trainer.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "metal_candle/metal_candle.hpp"
#include "tests/runtime/probe.h"
#include "tests/support/tiny_llama.h"
#include "tests/training/training_support.h"

namespace metal_candle {
namespace {

using test::TempFolder;
using test::text_of;
using Status = TrainResult::Status;

TrainOptions quick(const std::filesystem::path& output, std::int64_t steps) {
  TrainOptions o{.output = output, .learning_rate = 0.02, .schedule = ScheduleKind::constant, .batch_size = 4};
  o.lora.rank = 4;
  o.lora.alpha = 8;
  o.steps = steps;
  return o;
}

/// Rows of one length, so that every step has one structure.
Dataset even_rows(int count) {
  std::vector<Sample> rows;
  for (int i = 0; i < count; ++i) {
    Sample s = test::tiny_row(i);
    s.tokens.resize(8, 3);
    s.supervised.assign(8, true);
    s.supervised[0] = false;
    rows.push_back(s);
  }
  return Dataset(rows);
}

TEST(Trainer, FromTheSecondStepOnAReplayThatAsksForNoMemory) {
  for (const bool dropout : {false, true}) {
    const TempFolder folder;
    TrainOptions options = quick(folder.path, 8);
    options.lora.dropout = dropout ? 0.25 : 0;
    options.warmup = 3;  // another learning rate each step
    Trainer trainer(test::tiny_llama(), even_rows(12), {}, options);
    Counters before;
    std::int64_t steps = 0;
    trainer.run({.step = [&](const StepEvent& e) {
      const Counters now = counters();
      if (e.step > 2) {
        EXPECT_EQ(now.plans_compiled, before.plans_compiled) << "step " << e.step;
        EXPECT_EQ(now.replays - before.replays, 1u) << "one graph, one plan; step " << e.step;
        EXPECT_EQ(now.memory_requests, before.memory_requests) << "step " << e.step;
      }
      before = now;
      ++steps;
    }});
    EXPECT_EQ(steps, 8);
  }
}

TEST(Trainer, StepsOfOtherLengthsReplayOnceTheirLengthWasSeen) {
  const TempFolder folder;
  TrainOptions options = quick(folder.path, 12);
  options.shuffle = false;
  Trainer trainer(test::tiny_llama(), Dataset(test::tiny_rows(12)), {}, options);  // three batches, round and round
  Counters before;
  trainer.run({.step = [&](const StepEvent& e) {
    if (e.step > 4) {
      EXPECT_EQ(counters().plans_compiled, before.plans_compiled) << "step " << e.step;
    }
    before = counters();
  }});
}

TEST(Trainer, MicroBatchesReplayToo) {
  const TempFolder folder;
  TrainOptions options = quick(folder.path, 5);
  options.batch_size = 2;
  options.accumulate = 3;
  Trainer trainer(test::tiny_llama(), even_rows(12), {}, options);
  Counters before;
  trainer.run({.step = [&](const StepEvent& e) {
    if (e.step > 2) {
      EXPECT_EQ(counters().plans_compiled, before.plans_compiled);
      EXPECT_EQ(counters().memory_requests, before.memory_requests);
    }
    before = counters();
  }});
}

TEST(Trainer, LearnsAndEvaluates) {
  const TempFolder folder;
  TrainOptions options = quick(folder.path, 30);
  options.eval_every = 10;
  const Dataset rows = even_rows(8);
  Trainer trainer(test::tiny_llama(), rows, rows, options);
  std::vector<double> losses, evaluations;
  const TrainResult r = trainer.run({.step = [&](const StepEvent& e) { losses.push_back(e.loss); },
                                     .eval = [&](const EvalEvent& e) { evaluations.push_back(e.loss); }});
  EXPECT_EQ(r.status, Status::done);
  EXPECT_EQ(r.steps, 30);
  EXPECT_LT(losses.back(), 0.6 * losses.front());
  ASSERT_EQ(evaluations.size(), 3u);
  EXPECT_LT(evaluations[2], evaluations[0]);
  EXPECT_EQ(r.eval_loss, evaluations[2]);
}

TEST(Trainer, EvaluationIsTheMeanOverPredictedTokens) {
  const Model model = test::tiny_llama();
  const Dataset valid(test::tiny_rows(7));
  double sum = 0, tokens = 0;
  for (const Sample& s : valid) {
    const std::vector<double> y = log_softmax(test::tiny_logits(model, model.weights(), s)).eval().to_f64();
    for (std::size_t i = 1; i < s.tokens.size(); ++i)
      if (s.supervised[i]) {
        sum -= y[(i - 1) * 40 + static_cast<std::size_t>(s.tokens[i])];
        ++tokens;
      }
  }
  const TempFolder folder;
  TrainOptions options = quick(folder.path, 1);
  options.learning_rate = 0;  // and B is zero: the base speaks
  double loss = 0;
  Trainer(model, even_rows(8), valid, options).run({.eval = [&](const EvalEvent& e) {
    loss = e.loss;
    EXPECT_EQ(static_cast<double>(e.tokens), tokens);
  }});
  EXPECT_NEAR(loss, sum / tokens, 1e-5);
}

TEST(Trainer, StopsEarlyWhenEvaluationGetsNoBetter) {
  const TempFolder folder;
  TrainOptions options = quick(folder.path, 100);
  options.learning_rate = 0;
  options.eval_every = 2;
  options.early_stop = 3;
  const Dataset rows = even_rows(8);
  const TrainResult r = Trainer(test::tiny_llama(), rows, rows, options).run();
  EXPECT_EQ(r.status, Status::early);
  EXPECT_EQ(r.steps, 8) << "the first evaluation is the best, three follow";
}

/// What an evaluation of an adapter says, by a run of one step that learns nothing.
double loss_of(const std::filesystem::path& adapter, const Dataset& valid) {
  const TempFolder folder;
  TrainOptions options = quick(folder.path, 1);
  options.learning_rate = 0;
  options.weight_decay = 0;
  options.init_adapter = adapter;
  return *Trainer(test::tiny_llama(), even_rows(4), valid, options).run().eval_loss;
}

/// Learns one thing and is tested on another, so that evaluation soon gets worse.
TrainOptions overfitting(const std::filesystem::path& output) {
  TrainOptions options = quick(output, 60);
  options.learning_rate = 0.05;
  options.eval_every = 1;
  options.early_stop = 3;
  options.save_every = 1;
  return options;
}

TEST(Trainer, KeepsTheBestAdapterWhenItStopsEarly) {
  const std::vector<Sample> rows = test::tiny_rows(12);
  const Dataset train(std::vector<Sample>(rows.begin(), rows.begin() + 4)),
      valid(std::vector<Sample>(rows.begin() + 4, rows.end()));
  const TempFolder folder;
  std::map<std::int64_t, double> losses;
  const TrainResult r =
      Trainer(test::tiny_llama(), train, valid, overfitting(folder.path)).run({.eval = [&](const EvalEvent& e) {
        losses[e.step] = e.loss;
      }});
  ASSERT_EQ(r.status, Status::early);
  const auto best =
      std::min_element(losses.begin(), losses.end(), [](const auto& a, const auto& b) { return a.second < b.second; });
  EXPECT_EQ(r.adapter_step, best->first);
  EXPECT_EQ(r.steps, best->first + 3);
  EXPECT_NEAR(loss_of(folder.path, valid), best->second, 1e-6);
  EXPECT_NEAR(loss_of(folder.path / "checkpoints" / ("step-" + std::to_string(r.steps)), valid), *r.eval_loss, 1e-6)
      << "a checkpoint is of its step";
  EXPECT_GT(*r.eval_loss, best->second + 1e-4);

  // The best is part of what a resumed run knows.
  const TempFolder again;
  TrainOptions options = overfitting(again.path);
  {
    Trainer first(test::tiny_llama(), train, valid, options);
    first.run({.step = [&](const StepEvent& e) {
      if (e.step == best->first + 1) first.request_stop();
    }});
  }
  options.resume = true;
  EXPECT_EQ(Trainer(test::tiny_llama(), train, valid, options).run().adapter_step, best->first);
  EXPECT_EQ(text_of(again.path / "adapter_model.safetensors"), text_of(folder.path / "adapter_model.safetensors"));
}

TEST(Trainer, LeavesAnAdapterALogAPlotEventsAndCheckpoints) {
  const TempFolder folder;
  TrainOptions options = quick(folder.path, 7);
  options.save_every = 2;
  options.keep_checkpoints = 2;
  std::vector<std::int64_t> saved;
  Trainer(test::tiny_llama(), even_rows(8), even_rows(3), options).run({.checkpoint = [&](const CheckpointEvent& e) {
    saved.push_back(e.step);
    EXPECT_TRUE(std::filesystem::exists(e.path / "manifest.json"));
  }});
  EXPECT_EQ(saved, (std::vector<std::int64_t>{2, 4, 6, 7}));
  EXPECT_FALSE(std::filesystem::exists(folder.path / "checkpoints/step-4"));
  EXPECT_TRUE(std::filesystem::exists(folder.path / "checkpoints/step-6"));
  EXPECT_NO_THROW(LoRAAdapter::load(folder.path, test::tiny_llama()));
  const std::string svg = text_of(folder.path / "loss.svg"), log = text_of(folder.path / "training_log.jsonl");
  EXPECT_THAT(svg, testing::StartsWith("<svg"));
  EXPECT_EQ(std::count(log.begin(), log.end(), '\n'), 8);
  int events = 0;
  for (const auto& entry : std::filesystem::directory_iterator(folder.path))
    events += entry.path().filename().string().starts_with("events.out.tfevents.");
  EXPECT_EQ(events, 1);
}

TEST(Trainer, AStopEndsTheStepAndSaves) {
  const TempFolder folder;
  Trainer trainer(test::tiny_llama(), even_rows(8), {}, quick(folder.path, 50));
  const TrainResult r = trainer.run({.step = [&](const StepEvent& e) {
    if (e.step == 5) trainer.request_stop();
  }});
  EXPECT_EQ(r.status, Status::stopped);
  EXPECT_EQ(r.steps, 5);
  EXPECT_TRUE(std::filesystem::exists(folder.path / "checkpoints/step-5"));
}

/// A model whose logits are NaN for rows with token 39, which no row of `even_rows` has.
Model poisoned() {
  const Model good = test::tiny_llama();
  ParamTree weights = good.parameters();
  std::vector<float> table = Tensor(weights["model.embed_tokens.weight"]).to_vector<float>();
  for (std::size_t i = 0; i < 16; ++i) table[39 * 16 + i] = std::numeric_limits<float>::quiet_NaN();
  weights["model.embed_tokens.weight"] = Tensor::from(table, {40, 16});
  return Model(good.config(), weights);
}
Sample poison(Sample s) {
  s.tokens[2] = 39;
  return s;
}
std::vector<Sample> without_39(Dataset rows) {
  std::vector<Sample> all(rows.begin(), rows.end());
  for (Sample& s : all)
    for (std::int32_t& t : s.tokens) t %= 39;
  return all;
}

TEST(Trainer, AStepThatIsNotFiniteIsSkippedAndCounted) {
  std::vector<Sample> clean = without_39(even_rows(12)), rows = clean;
  rows.insert(rows.begin() + 4, {poison(rows[0]), rows[1], rows[2], rows[3]});  // the second step's
  TrainOptions options;
  const auto train = [&](std::vector<Sample> samples, std::int64_t steps, int& skipped,
                         std::vector<std::string>& said) {
    const TempFolder folder;
    options = quick(folder.path, steps);
    options.shuffle = false;
    Trainer trainer(poisoned(), Dataset(std::move(samples)), {}, options);
    const TrainResult r = trainer.run({.step =
                                           [&](const StepEvent& e) {
                                             skipped += e.skipped;
                                             EXPECT_EQ(e.skipped, !std::isfinite(e.loss));
                                           },
                                       .message = [&](const std::string& m) { said.push_back(m); }});
    EXPECT_EQ(r.status, Status::done);
    EXPECT_EQ(r.skipped, skipped);
    return text_of(folder.path / "adapter_model.safetensors");
  };
  int skipped = 0, none = 0;
  std::vector<std::string> said, nothing;
  const std::string with = train(rows, 4, skipped, said), without = train(clean, 3, none, nothing);
  EXPECT_EQ(skipped, 1);
  EXPECT_EQ(none, 0);
  ASSERT_EQ(said.size(), 1u);
  EXPECT_THAT(said[0], testing::HasSubstr("step 2: loss nan, gradient norm nan"));
  EXPECT_THAT(said[0], testing::HasSubstr("Lines 1, 2, 3, 4"));
  EXPECT_TRUE(with == without) << "a skipped step leaves no trace";
}

TEST(Trainer, EndsAsDivergedAfterSeveralBadStepsAndKeepsTheLastGoodCheckpoint) {
  const TempFolder folder;
  std::vector<Sample> rows = without_39(even_rows(16));
  for (std::size_t i = 8; i < 16; ++i) rows[i] = poison(rows[i]);
  TrainOptions options = quick(folder.path, 100);
  options.shuffle = false;
  options.save_every = 1;
  options.max_bad_steps = 2;
  const TrainResult r = Trainer(poisoned(), Dataset(rows), {}, options).run();
  EXPECT_EQ(r.status, Status::diverged);
  EXPECT_EQ(r.steps, 4);
  EXPECT_TRUE(std::filesystem::exists(folder.path / "checkpoints/step-3"));
  EXPECT_FALSE(std::filesystem::exists(folder.path / "checkpoints/step-4"));
  EXPECT_THAT(text_of(folder.path / "training_log.jsonl"), testing::HasSubstr("\"NaN\""));
}

/// Evaluations of the poisoned model are NaN; training is finite.
TEST(Trainer, AnEvaluationThatIsNotFiniteIsNeverTheBest) {
  const Dataset train(without_39(even_rows(8)));
  const Dataset valid({poison(train[0])});
  const TempFolder folder, whole;
  TrainOptions options = quick(whole.path, 6);
  options.eval_every = 2;
  options.save_every = 2;
  options.early_stop = 100;
  const TrainResult r = Trainer(poisoned(), train, valid, options).run({.eval = [](const EvalEvent& e) {
    EXPECT_TRUE(std::isnan(e.loss));
    EXPECT_FALSE(e.best);
  }});
  EXPECT_EQ(r.status, Status::done);
  EXPECT_EQ(r.adapter_step, 6);
  options.output = folder.path;
  {
    Trainer first(poisoned(), train, valid, options);
    first.run({.step = [&](const StepEvent& e) {
      if (e.step == 4) first.request_stop();
    }});
  }
  options.resume = true;
  Trainer second(poisoned(), train, valid, options);
  EXPECT_EQ(second.step(), 4);
  EXPECT_EQ(second.run().status, Status::done);
  EXPECT_EQ(text_of(folder.path / "adapter_model.safetensors"), text_of(whole.path / "adapter_model.safetensors"));
  const TrainResult again = Trainer(poisoned(), train, valid, options).run();
  EXPECT_TRUE(std::isnan(again.eval_loss.value()));
}

TEST(Trainer, PackingReadsTheSameRowsAStep) {
  const Dataset rows(test::tiny_rows(13));
  struct Run {
    std::vector<double> losses, norms, tokens;
    std::int64_t steps = 0;
  };
  const auto run = [&](std::int64_t batch, std::int64_t accumulate, bool packing, std::int64_t max_length = 1024) {
    const TempFolder folder;
    TrainOptions options = quick(folder.path, 1);
    options.steps.reset();
    options.epochs = 2;
    options.batch_size = batch;
    options.accumulate = accumulate;
    options.packing = packing;
    options.max_length = max_length;
    Run r;
    Trainer trainer(test::tiny_llama(), rows, {}, options);
    r.steps = trainer
                  .run({.step =
                            [&](const StepEvent& e) {
                              r.losses.push_back(e.loss);
                              r.norms.push_back(e.grad_norm);
                              r.tokens.push_back(static_cast<double>(e.tokens));
                            }})
                  .steps;
    return r;
  };
  const Run plain = run(6, 1, false);
  EXPECT_EQ(plain.steps, 5) << "26 rows, 6 a step";
  for (const Run& packed : {run(6, 1, true), run(2, 3, true), run(3, 2, true), run(2, 3, true, 16)}) {
    EXPECT_EQ(packed.steps, plain.steps);
    EXPECT_EQ(packed.tokens, plain.tokens) << "the same rows";
    EXPECT_THAT(packed.losses, testing::Pointwise(testing::DoubleNear(1e-4), plain.losses));
    EXPECT_THAT(packed.norms, testing::Pointwise(testing::DoubleNear(1e-3), plain.norms));
  }
  EXPECT_EQ(run(6, 1, true).losses, plain.losses) << "without --accumulate it changes nothing";
}

TEST(Trainer, PackingTakesFewerPassesOverTheRowsOfAStep) {
  const auto replays = [](bool packing, std::int64_t max_length) {
    const TempFolder folder;
    TrainOptions options = quick(folder.path, 4);
    options.batch_size = 2;
    options.accumulate = 3;
    options.packing = packing;
    options.max_length = max_length;
    std::uint64_t last = 0, before = 0;
    Trainer(test::tiny_llama(), even_rows(12), {}, options).run({.step = [&](const StepEvent&) {
      last = counters().replays - before;
      before = counters().replays;
    }});
    return last;
  };
  EXPECT_EQ(replays(false, 32), 3u);
  EXPECT_EQ(replays(true, 32), 1u) << "6 rows of 8 tokens fit into 2 x 32";
  EXPECT_EQ(replays(true, 16), 2u) << "4 of them into 2 x 16";
}

TEST(Trainer, TwoOnOneOutputAreOneTooMany) {
  const TempFolder folder;
  Trainer first(test::tiny_llama(), even_rows(8), {}, quick(folder.path, 2)),
      second(test::tiny_llama(), even_rows(8), {}, quick(folder.path, 2));
  int refused = 0;
  first.run({.step = [&](const StepEvent&) {
    try {
      second.run();
    } catch (const FileError& e) {
      EXPECT_EQ(e.fault(), FileFault::create);
      EXPECT_THAT(e.what(), testing::HasSubstr(folder.path.string()));
      ++refused;
    }
  }});
  EXPECT_EQ(refused, 2);
  EXPECT_NO_THROW(second.run()) << "the first is done";
}

TEST(Trainer, SeveralThreadsGiveTheSameBytes) {
  std::vector<std::string> adapters;
  for (const int n : {1, 2, 3}) {
    const TempFolder folder;
    set_threads(n);
    TrainOptions options = quick(folder.path, 5);
    options.lora.dropout = 0.1;
    Trainer(test::tiny_llama(), Dataset(test::tiny_rows(24)), {}, options).run();
    adapters.push_back(text_of(folder.path / "adapter_model.safetensors"));
  }
  set_threads(0);
  EXPECT_TRUE(adapters[0] == adapters[1]);
  EXPECT_TRUE(adapters[0] == adapters[2]);
}

TEST(Trainer, SaysWhatIsWrongWithOptions) {
  const TempFolder folder;
  const auto refuses = [&](const std::function<void(TrainOptions&)>& change) {
    TrainOptions options = quick(folder.path, 3);
    change(options);
    EXPECT_THROW(Trainer(test::tiny_llama(), even_rows(8), {}, options), UserError);
  };
  refuses([](TrainOptions& o) { o.batch_size = 0; });
  refuses([](TrainOptions& o) { o.steps = 0; });
  refuses([](TrainOptions& o) { o.learning_rate = -1; });
  refuses([](TrainOptions& o) { o.epochs = std::nan(""); });
  refuses([](TrainOptions& o) { o.output.clear(); });
  refuses([](TrainOptions& o) { o.lora.rank = 0; });
  std::ofstream(folder.path / "file") << "x";
  refuses([&](TrainOptions& o) { o.init_adapter = folder.path / "nowhere"; });
  TrainOptions options = quick(folder.path / "file" / "out", 1);
  Trainer trainer(test::tiny_llama(), even_rows(8), {}, options);
  EXPECT_THROW(trainer.run(), FileError);
}

TEST(Trainer, EpochsAreDecimals) {
  const TempFolder folder;
  const auto steps = [&](double epochs, int rows) {
    TrainOptions options = quick(folder.path, 1);
    options.steps.reset();
    options.batch_size = 1;
    options.epochs = epochs;
    return Trainer(test::tiny_llama(), even_rows(rows), {}, options).total_steps();
  };
  for (int hundredths = 1; hundredths <= 300; ++hundredths) EXPECT_EQ(steps(hundredths / 100.0, 100), hundredths);
  EXPECT_EQ(steps(1.1, 101), 112) << "111.1 rows";
  EXPECT_EQ(steps(1e-9, 3), 1);
}

TEST(Trainer, SaysWhatIsWrongWithSamples) {
  const TempFolder folder;
  const auto refusal = [&](const std::function<void(Sample&)>& change, bool valid) {
    std::vector<Sample> rows = test::tiny_rows(5);
    rows[3].line = 17;
    change(rows[3]);
    try {
      const Dataset good(test::tiny_rows(2));
      Trainer(test::tiny_llama(), valid ? good : Dataset(rows), valid ? Dataset(rows) : good, quick(folder.path, 1));
    } catch (const UserError& e) {
      return std::string(e.what());
    }
    return std::string("accepted");
  };
  const auto says = [](const char* a, const char* b) {
    return testing::AllOf(testing::HasSubstr("sample 3 (line 17)"), testing::HasSubstr(a), testing::HasSubstr(b));
  };
  EXPECT_EQ(refusal([](Sample& s) { s.tokens[1] = 39; }, false), "accepted");
  EXPECT_THAT(refusal([](Sample& s) { s = {.line = 17}; }, false), says("training", "no tokens"));
  EXPECT_THAT(refusal([](Sample& s) { s.supervised.pop_back(); }, false), says("training", "supervised"));
  EXPECT_THAT(refusal([](Sample& s) { s.tokens[1] = -1; }, true), says("validation", "token -1"));
  EXPECT_THAT(refusal([](Sample& s) { s.tokens[1] = 40; }, true), says("token 40", "vocabulary of 40"));
}

TEST(Trainer, OutlookCountsWithoutRunning) {
  const TempFolder folder;
  TrainOptions options = quick(folder.path, 3);
  options.steps.reset();
  options.epochs = 2;
  Trainer trainer(test::tiny_llama(), even_rows(10), {}, options);
  const Trainer::Outlook o = trainer.outlook();
  EXPECT_EQ(o.steps, 5);
  EXPECT_EQ(o.rows, 10);
  EXPECT_EQ(o.longest_batch, 32);
  EXPECT_EQ(o.trainable, 4 * 2 * (32 + 24 + 24 + 32 + 40 + 40 + 40));
  EXPECT_GT(o.step_bytes, 0u);
  EXPECT_EQ(trainer.step(), 0);
}

}  // namespace
}  // namespace metal_candle
