// The loss curve as a drawing: one SVG file that a browser opens.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace metal_candle::training {

struct PlotPoint {
  std::int64_t step;
  double loss;
};

/// Training loss as a line, evaluations as dots. Points that are not finite leave a gap. The text depends on the points
/// alone.
std::string loss_plot(const std::vector<PlotPoint>& training, const std::vector<PlotPoint>& evaluation,
                      const std::string& title);

}  // namespace metal_candle::training
