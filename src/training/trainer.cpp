#include "metal_candle/trainer.hpp"

#include <fmt/format.h>

#include "metal_candle/error.hpp"
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

Dataset checked(Dataset samples, const char* which, std::int64_t vocabulary) {
  for (std::size_t i = 0; i < samples.size(); ++i) {
    const Sample& s = samples[i];
    const auto refuse = [&](const std::string& why) {
      throw UserError(ErrorKind::argument, fmt::format("training: {} sample {} (line {}) {}", which, i, s.line, why));
    };
    if (s.tokens.empty()) refuse("has no tokens");
    if (s.supervised.size() != s.tokens.size())
      refuse(fmt::format("has {} tokens, but `supervised` of {}", s.tokens.size(), s.supervised.size()));
    for (const std::int32_t id : s.tokens)
      if (id < 0 || id >= vocabulary)
        refuse(fmt::format("has the token {}, which is none of the model's vocabulary of {}", id, vocabulary));
  }
  return samples;
}

}  // namespace

Trainer::Trainer(Model model, Dataset train, Dataset valid, TrainOptions options)
    : state_(new State{{model, checked(std::move(train), "training", model.config().vocabulary),
                        checked(std::move(valid), "validation", model.config().vocabulary),
                        checked(std::move(options))}}) {}
Trainer::~Trainer() = default;

TrainResult Trainer::run(const TrainCallbacks& callbacks) { return state_->run.run(callbacks, stop_); }
LoRAAdapter Trainer::adapter() const { return state_->run.trained(); }
std::int64_t Trainer::step() const { return state_->run.step(); }
std::int64_t Trainer::total_steps() const { return state_->run.total(); }
Trainer::Outlook Trainer::outlook() { return state_->run.outlook(); }

}  // namespace metal_candle
