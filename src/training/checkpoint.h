// Checkpoints: all that later steps depend on, in a folder that is there whole or not at all.
//
//   out/checkpoints/step-40/   adapter_config.json, adapter_model.safetensors   a PEFT adapter
//                              optimizer.safetensors                            first.<path>, second.<path>
//                              best.safetensors                                 with early stopping: the best so far
//                              state.json, training_log.jsonl, config.toml
//                              manifest.json                                    written last: sizes and hashes of the
//                              rest
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "metal_candle/json.hpp"
#include "metal_candle/lora.hpp"
#include "metal_candle/optimizer.hpp"

namespace metal_candle::training {

/// Where a run is.
struct Progress {
  std::int64_t step = 0;      // done
  std::int64_t position = 0;  // in the stream of rows
  std::int64_t updates = 0;   // applied: steps but for skipped ones
  std::int64_t bad_in_row = 0, skipped = 0;
  std::optional<double> best, last_eval;
  std::int64_t evaluations_since_best = 0, best_step = 0;
  double loss = 0;  // of the last step
  std::string log;  // a line for each step and evaluation

  Json to_json() const;
  static Progress from_json(const Json& state);
};

struct Checkpoint {
  Progress progress;
  LoRAAdapter adapter;
  AdamWState moments;
  std::optional<ParamTree> best;  // parameters at the best evaluation, where they are kept
};

class Checkpoints {
 public:
  /// `identity`: what a run depends on. A checkpoint of a run with another one is refused, by the name of what differs.
  Checkpoints(std::filesystem::path folder, Json identity)
      : folder_(std::move(folder)), identity_(std::move(identity)) {}

  bool any() const { return !steps().empty(); }
  /// Writes one, then removes the oldest beyond `keep`.
  std::filesystem::path save(const Progress& progress, const LoRAAdapter& adapter, const AdamWState& moments,
                             const std::optional<ParamTree>& best, const std::string& config, std::int64_t keep) const;
  /// The newest that is whole; those that are not are told to `message`, and if it was made by another version or for
  /// another instruction set. Empty if there is none.
  std::optional<Checkpoint> load_newest(const Model& model,
                                        const std::function<void(const std::string&)>& message) const;
  /// Removes what a killed process left half written.
  void clean() const;

 private:
  std::vector<std::int64_t> steps() const;  // newest first
  std::filesystem::path at(std::int64_t step) const;
  Checkpoint load(const std::filesystem::path& folder, const Model& model, const Json& state) const;

  std::filesystem::path folder_;
  Json identity_;
};

/// Of tensors: names, types, shapes and all values.
std::uint64_t fingerprint(const ParamTree& tree);
std::string hex(std::uint64_t value);

}  // namespace metal_candle::training
