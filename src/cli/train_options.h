// The options of `train`, from file, environment and flags.
#pragma once

#include <string>

#include "cli/invocation.h"
#include "metal_candle/trainer.hpp"

namespace metal_candle::cli {

/// Adds what the environment (METAL_CANDLE_LEARNING_RATE=…) and --config say where no flag does.
void add_settings(Invocation& run);
TrainOptions train_options(const Invocation& run);
/// Throws UsageError for a flag that says something else than the adapter to begin with.
void check_init_adapter(const Invocation& run, const TrainOptions& options, const Model& model);
/// All options as one line of --json.
Json as_event(const Invocation& run, const TrainOptions& options);
/// All options as a file for --config.
std::string as_toml(const Invocation& run, const TrainOptions& options);

}  // namespace metal_candle::cli
