// What a run leaves for people to look at: a line for each step, TensorBoard events, the loss curve.
#pragma once

#include <filesystem>
#include <fstream>
#include <optional>
#include <string>
#include <vector>

#include "metal_candle/trainer.hpp"
#include "training/loss_plot.h"
#include "training/tensorboard.h"

namespace metal_candle::training {

class RunLog {
 public:
  /// Goes on from `lines`, those of the `step` steps done before. Lines hold nothing that depends on the clock.
  RunLog(const std::filesystem::path& folder, std::string lines, std::int64_t step);
  void add(const StepEvent& e);
  void add(const EvalEvent& e);
  const std::string& lines() const { return lines_; }
  /// Writes loss.svg.
  void draw() const;

 private:
  void append(const Json& line);

  std::filesystem::path folder_;
  std::string lines_;
  std::ofstream file_;
  EventWriter events_;
  std::vector<PlotPoint> training_, evaluation_;
};

}  // namespace metal_candle::training
