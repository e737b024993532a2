#include "metal_candle/trainer.hpp"

#include "training/run.h"

namespace metal_candle {

struct Trainer::State {
  training::Run run;
};

namespace {

TrainOptions checked(TrainOptions options) {
  options.check();
  return options;
}

}  // namespace

Trainer::Trainer(Model model, Dataset train, Dataset valid, TrainOptions options)
    : state_(new State{{std::move(model), std::move(train), std::move(valid), checked(std::move(options))}}) {}
Trainer::~Trainer() = default;

TrainResult Trainer::run(const TrainCallbacks& callbacks) { return state_->run.run(callbacks, stop_); }
LoRAAdapter Trainer::adapter() const { return state_->run.trained(); }
std::int64_t Trainer::step() const { return state_->run.step(); }
std::int64_t Trainer::total_steps() const { return state_->run.total(); }
Trainer::Outlook Trainer::outlook() { return state_->run.outlook(); }

}  // namespace metal_candle
