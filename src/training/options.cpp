// Options and events of training as JSON.
#include <fmt/format.h>

#include <cmath>

#include "metal_candle/error.hpp"
#include "metal_candle/trainer.hpp"

namespace metal_candle {

void TrainOptions::check() const {
  const auto require = [](bool holds, const char* option, const std::string& why) {
    if (!holds) throw UserError(ErrorKind::argument, fmt::format("training: {} {}", option, why));
  };
  const auto at_least = [&](std::int64_t value, std::int64_t least, const char* option) {
    require(value >= least && value <= (std::int64_t{1} << 40), option,
            fmt::format("must be at least {}, not {}", least, value));
  };
  const auto not_negative = [&](double value, const char* option) {
    require(std::isfinite(value) && value >= 0, option, fmt::format("must be a number >= 0, not {}", value));
  };
  require(!output.empty(), "output", "must be a folder");
  lora.check();
  not_negative(learning_rate, "learning_rate");
  not_negative(weight_decay, "weight_decay");
  not_negative(max_grad_norm, "max_grad_norm");
  require(epochs > 0 && std::isfinite(epochs), "epochs", fmt::format("must be a number > 0, not {}", epochs));
  at_least(batch_size, 1, "batch_size");
  at_least(accumulate, 1, "accumulate");
  require(batch_size <= 65536 && accumulate <= 65536, "batch_size and accumulate", "must be at most 65536");
  at_least(max_length, 2, "max_length");
  if (steps) at_least(*steps, 1, "steps");
  at_least(warmup, 0, "warmup");
  at_least(eval_every, 0, "eval_every");
  at_least(save_every, 0, "save_every");
  at_least(early_stop, 0, "early_stop");
  at_least(keep_checkpoints, 1, "keep_checkpoints");
  at_least(max_bad_steps, 1, "max_bad_steps");
}

// Not in it: output, how often to save, how many to keep, resume. They change nothing that is computed.
Json TrainOptions::to_json() const {
  Json json = Json::object({{"learning_rate", learning_rate},
                            {"schedule", name_of(schedule)},
                            {"warmup", warmup},
                            {"beta1", beta1},
                            {"beta2", beta2},
                            {"epsilon", epsilon},
                            {"weight_decay", weight_decay},
                            {"max_grad_norm", max_grad_norm},
                            {"batch_size", batch_size},
                            {"accumulate", accumulate},
                            {"max_length", max_length},
                            {"train_on", train_on == TrainOn::all ? "all" : "answers"},
                            {"packing", packing},
                            {"shuffle", shuffle},
                            {"checkpointing", checkpointing},
                            {"steps", steps ? Json(*steps) : Json()},
                            {"epochs", epochs},
                            {"eval_every", eval_every},
                            {"early_stop", early_stop},
                            {"max_bad_steps", max_bad_steps},
                            {"seed", seed}});
  if (init_adapter) json.set("init_adapter", init_adapter->string());
  if (init_adapter && init_dropout) json.set("dropout", *init_dropout);
  if (!init_adapter) json.set("lora", lora.to_json());
  return json;
}

Json StepEvent::to_json() const {
  Json json = Json::object({{"event", "step"},
                            {"step", step},
                            {"loss", loss},
                            {"learning_rate", learning_rate},
                            {"grad_norm", grad_norm},
                            {"tokens", tokens},
                            {"tokens_per_s", tokens_per_s()},
                            {"peak_bytes", peak_bytes}});
  if (skipped) json.set("skipped", true);
  return json;
}

Json EvalEvent::to_json() const {
  return Json::object({{"event", "eval"},
                       {"step", step},
                       {"loss", loss},
                       {"perplexity", std::exp(loss)},
                       {"tokens", tokens},
                       {"seconds", seconds},
                       {"best", best}});
}

Json CheckpointEvent::to_json() const {
  return Json::object({{"event", "checkpoint"}, {"step", step}, {"path", path.string()}, {"seconds", seconds}});
}

Json TrainResult::to_json() const {
  constexpr const char* kStatus[] = {"done", "early_stop", "stopped", "diverged"};
  return Json::object({{"event", "result"},
                       {"status", kStatus[static_cast<int>(status)]},
                       {"steps", steps},
                       {"loss", loss},
                       {"eval_loss", eval_loss ? Json(*eval_loss) : Json()},
                       {"tokens", tokens},
                       {"seconds", seconds},
                       {"tokens_per_s", seconds > 0 ? static_cast<double>(tokens) / seconds : 0.0},
                       {"skipped", skipped},
                       {"output", output.string()},
                       {"adapter_step", adapter_step}});
}

Json Trainer::Outlook::to_json() const {
  return Json::object({{"event", "outlook"},
                       {"steps", steps},
                       {"rows", rows},
                       {"trainable_parameters", trainable},
                       {"longest_batch", longest_batch},
                       {"base_bytes", base_bytes},
                       {"trainable_bytes", trainable_bytes},
                       {"step_bytes", step_bytes},
                       {"peak_bytes", peak_bytes}});
}

}  // namespace metal_candle
