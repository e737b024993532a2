// A run of training: rows in, steps, evaluations and checkpoints out. What a Trainer holds.
#pragma once

#include <atomic>
#include <memory>
#include <vector>

#include "metal_candle/trainer.hpp"
#include "training/checkpoint.h"
#include "training/run_log.h"
#include "training/step.h"

namespace metal_candle::training {

class Run {
 public:
  Run(Model model, Dataset train, Dataset valid, TrainOptions options);
  Run(const Run&) = delete;
  Run& operator=(const Run&) = delete;

  TrainResult run(const TrainCallbacks& callbacks, const std::atomic<bool>& stop);
  Trainer::Outlook outlook();
  std::int64_t step() const { return progress_.step; }
  std::int64_t total() const { return total_; }
  LoRAAdapter trained() const { return adapter_.with(stepper_.parameters()); }

 private:
  Json identity() const;
  std::int64_t count_steps() const;
  std::int64_t rows_of_step() const { return options_.batch_size * options_.accumulate; }
  std::vector<const Sample*> next_rows(std::int64_t& position);
  bool takes_one_more(std::int64_t rows, std::int64_t tokens) const;
  std::vector<PackedRows> micro_batches(const std::vector<const Sample*>& rows) const;
  PackedRows micro_batch(std::span<const Sample* const> rows) const;
  struct Ahead {
    std::vector<PackedRows> batches;
    std::int64_t lengths = 0;
    bool several = false;
  };
  Ahead look_ahead();
  std::vector<PackedRows> evaluated_batches() const;

  TrainResult::Status loop(const std::atomic<bool>& stop);
  void train_on_step();
  void tell_of_bad_step(const std::vector<const Sample*>& rows, double loss, double norm) const;
  void evaluate();
  void save();
  void begin_output();
  void note_best();
  void finish();
  void tell(const std::string& message) const;

  Model model_;
  Dataset train_, valid_;
  TrainOptions options_;
  RowOrder order_;
  LoRAAdapter adapter_;
  Checkpoints checkpoints_;
  Stepper stepper_;
  Progress progress_;
  std::int64_t total_;
  Schedule schedule_;
  std::vector<std::string> early_messages_;  // from before there was anybody to tell
  std::int64_t saved_step_ = -1, evaluated_step_ = 0;
  std::optional<ParamTree> best_;  // with early stopping: copies of the parameters at the best evaluation

  // While it runs:
  std::unique_ptr<RunLog> log_;
  const TrainCallbacks* callbacks_ = nullptr;
  TrainResult result_;
};

}  // namespace metal_candle::training
