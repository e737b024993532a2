// Fine-tuning: a model, examples and options to an adapter.
//
//   mc::TrainOptions options{.output = "out", .batch_size = 8, .steps = 100};
//   mc::Trainer trainer(model, train, valid, options);       // reads the newest good checkpoint if options.resume
//   const mc::TrainResult r = trainer.run({.step = [](const mc::StepEvent& e) { std::cout << e.loss << '\n'; }});
//
// One step of the optimizer reads batch_size × accumulate rows and is one graph and one plan (with accumulate > 1: one
// plan a micro-batch and one for the update); from the second step of a length on it is a replay. The loss is the mean
// over all tokens of the step that are to be predicted. Nothing in a step depends on threads or on the clock, and a
// checkpoint holds all that later steps depend on: a run that was killed and resumed ends with the same bytes as one
// that was not.
//
// `output` becomes a PEFT adapter: the last, or with early_stop that of the best evaluation. Beside it lie loss.svg,
// training_log.jsonl, TensorBoard events and checkpoints/.
//
// A trainer is used by one thread; `request_stop` may be called from any other, and from a signal handler.
#pragma once

#include <atomic>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "metal_candle/dataset.hpp"
#include "metal_candle/json.hpp"
#include "metal_candle/lora.hpp"
#include "metal_candle/optimizer.hpp"

namespace metal_candle {

struct TrainOptions {
  std::filesystem::path output;
  LoRAConfig lora{.rank = 16, .alpha = 32};
  /// A PEFT or mlx-lm folder to begin with. Its settings take the place of `lora`.
  std::optional<std::filesystem::path> init_adapter = {};
  std::optional<double> init_dropout = {};  // in place of the init_adapter's

  double learning_rate = 2e-4;
  ScheduleKind schedule = ScheduleKind::linear;
  std::int64_t warmup = 0;
  double beta1 = 0.9, beta2 = 0.999, epsilon = 1e-8;
  double weight_decay = 0.01;
  double max_grad_norm = 1.0;  // 0: no clipping

  std::int64_t batch_size = 8;  // rows of a micro-batch
  std::int64_t accumulate = 1;  // micro-batches of a step
  std::int64_t max_length = 1024;
  TrainOn train_on = TrainOn::answers;
  /// The step's batch_size × accumulate rows go into as few micro-batches as hold them, each of at most
  /// batch_size × max_length tokens, instead of accumulate micro-batches of batch_size rows: fewer and fuller passes over
  /// the same rows, with the same loss. Rows lie end to end, each seeing itself only, with this and without it.
  bool packing = false;
  bool shuffle = true;
  /// Activations of layers are computed again in the backward pass instead of being kept.
  bool checkpointing = false;

  std::optional<std::int64_t> steps = {};
  double epochs = 1;  // where steps are not given

  std::int64_t eval_every = 0;  // steps; 0: at the end only. Always 0 without validation rows
  std::int64_t save_every = 0;  // steps; 0: at the end only
  std::int64_t early_stop = 0;  // evaluations without a better loss end it, and the best is kept; 0: never
  std::int64_t keep_checkpoints = 2;
  /// Steps in a row whose loss or gradient is not finite; each is skipped, this many end the run.
  std::int64_t max_bad_steps = 5;

  bool resume = false;
  std::uint64_t seed = 0;
  /// Kept as config.toml in every checkpoint: what would start the run again. Nothing reads it.
  std::string config_text = {};

  /// Throws UserError naming the option.
  void check() const;
  /// What the result depends on; a checkpoint goes on only with the same.
  Json to_json() const;
};

struct StepEvent {
  std::int64_t step = 0;  // the first is 1
  double loss = 0, learning_rate = 0, grad_norm = 0;
  std::int64_t tokens = 0;  // of the step's rows; filling is not counted
  double seconds = 0;
  std::size_t peak_bytes = 0;  // of the process, mapped pages included
  bool skipped = false;        // loss or gradient were not finite: nothing was changed

  double tokens_per_s() const { return seconds > 0 ? static_cast<double>(tokens) / seconds : 0; }
  /// The line of `train --json`.
  Json to_json() const;
};

struct EvalEvent {
  std::int64_t step = 0;
  double loss = 0;
  std::int64_t tokens = 0;  // predicted
  double seconds = 0;
  bool best = false;  // the lowest so far
  Json to_json() const;
};

struct CheckpointEvent {
  std::int64_t step = 0;
  std::filesystem::path path;
  double seconds = 0;
  Json to_json() const;
};

struct TrainResult {
  enum class Status {
    done,      // all steps
    early,     // evaluation stopped getting better
    stopped,   // by request_stop: resume goes on
    diverged,  // max_bad_steps in a row; the last checkpoint stays
  } status = Status::done;
  std::int64_t steps = 0;
  double loss = 0;                  // of the last step
  std::optional<double> eval_loss;  // of the last evaluation
  std::int64_t tokens = 0;          // in this process
  double seconds = 0;               // in steps, in this process
  std::int64_t skipped = 0;
  std::filesystem::path output;
  std::int64_t adapter_step =
      0;  // after which the adapter in `output` was as it is: with early_stop the best evaluated
  Json to_json() const;
};

struct TrainCallbacks {
  std::function<void(const StepEvent&)> step = {};
  std::function<void(const EvalEvent&)> eval = {};
  std::function<void(const CheckpointEvent&)> checkpoint = {};
  /// Things to know that are no errors: a checkpoint that was damaged, a step that was skipped.
  std::function<void(const std::string&)> message = {};
};

class Trainer {
 public:
  /// `valid` may be empty. Throws UserError for options and for samples that are empty, say of another number of tokens
  /// whether they are supervised, or hold what is no token of the model; FileError for an output that cannot be made,
  /// holds another run's checkpoints (without `resume`), or whose checkpoint was made with other options, rows, weights
  /// or another init_adapter.
  Trainer(Model model, Dataset train, Dataset valid, TrainOptions options);
  ~Trainer();
  Trainer(const Trainer&) = delete;
  Trainer& operator=(const Trainer&) = delete;

  /// Trains to the end, or to a stop; then writes the adapter and what goes with it. After a callback threw, another
  /// call goes on from there.
  TrainResult run(const TrainCallbacks& callbacks = {});
  /// Ends the run after the step under way, with a checkpoint. Safe in a signal handler.
  void request_stop() noexcept { stop_.store(true, std::memory_order_relaxed); }

  /// As it is now.
  LoRAAdapter adapter() const;
  /// Steps done, steps in all.
  std::int64_t step() const;
  std::int64_t total_steps() const;

  /// What a run would take, without running it.
  struct Outlook {
    std::int64_t steps = 0, rows = 0, trainable = 0;  // trainable: numbers
    std::int64_t longest_batch = 0;                   // tokens, with filling
    std::size_t base_bytes = 0;                       // the model
    std::size_t trainable_bytes = 0;                  // adapter and moments
    std::size_t step_bytes = 0;  // what a step of the longest batch takes beside: temporaries, packed weights, copies
    std::size_t peak_bytes = 0;  // of the process, with all that it has now
    Json to_json() const;
  };
  Outlook outlook();

 private:
  struct State;
  std::unique_ptr<State> state_;
  std::atomic<bool> stop_{false};
};

}  // namespace metal_candle
