#include "training/loss_plot.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

namespace metal_candle::training {
namespace {

constexpr double kWidth = 860, kHeight = 420, kLeft = 64, kRight = 20, kTop = 44, kBottom = 46;

/// Distance of about `count` ticks over a range: 1, 2 or 5 times a power of ten.
double tick_distance(double range, int count) {
  const double rough = range / count, power = std::pow(10.0, std::floor(std::log10(rough)));
  for (const double factor : {1.0, 2.0, 5.0})
    if (factor * power >= rough) return factor * power;
  return 10 * power;
}

/// Numbers of one axis and their place in the drawing.
struct Axis {
  double low = 0, high = 1, from = 0, to = 1;
  double at(double value) const { return from + (value - low) / (high - low) * (to - from); }
};

std::string escaped(const std::string& text) {
  std::string out;
  for (const char c : text) {
    if (c == '<') out += "&lt;";
    else if (c == '&') out += "&amp;";
    else if (static_cast<unsigned char>(c) >= 32) out += c;
  }
  return out;
}

class Plot {
 public:
  Plot(const std::vector<PlotPoint>& training, const std::vector<PlotPoint>& evaluation)
      : training_(training), evaluation_(evaluation) {
    double last = 1, highest = 0;
    for (const auto* points : {&training, &evaluation})
      for (const PlotPoint& p : *points) {
        last = std::max(last, static_cast<double>(p.step));
        if (std::isfinite(p.loss)) highest = std::max(highest, p.loss);
      }
    x_ = {0, last, kLeft, kWidth - kRight};
    const double tick = tick_distance(highest > 0 ? highest : 1, 6);
    y_ = {0, std::max(1.0, std::ceil(highest / tick)) * tick, kHeight - kBottom, kTop};
  }

  std::string draw(const std::string& title) {
    out_ = fmt::format(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {0} {1}\" width=\"{0}\" height=\"{1}\" "
        "font-family=\"sans-serif\" font-size=\"12\">\n<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n"
        "<text x=\"{2}\" y=\"24\" font-size=\"15\">{3}</text>\n",
        kWidth, kHeight, kLeft, escaped(title));
    grid();
    lines();
    for (const PlotPoint& p : evaluation_)
      if (std::isfinite(p.loss))
        out_ += fmt::format("<circle cx=\"{:.1f}\" cy=\"{:.1f}\" r=\"4\" fill=\"#d1495b\"/>\n",
                            x_.at(static_cast<double>(p.step)), y_.at(p.loss));
    legend();
    return out_ + "</svg>\n";
  }

 private:
  void grid() {
    const double dy = tick_distance(y_.high, 6), dx = std::max(1.0, tick_distance(x_.high, 8));
    for (int i = 0; i * dy <= y_.high * 1.0001; ++i)
      out_ += fmt::format(
          "<path d=\"M{:.1f} {:.1f}H{:.1f}\" stroke=\"#ddd\"/>\n<text x=\"{:.1f}\" y=\"{:.1f}\" "
          "text-anchor=\"end\">{:.4g}</text>\n",
          x_.from, y_.at(i * dy), x_.to, x_.from - 8, y_.at(i * dy) + 4, i * dy);
    for (int i = 0; i * dx <= x_.high; ++i)
      out_ += fmt::format("<text x=\"{:.1f}\" y=\"{:.1f}\" text-anchor=\"middle\">{:g}</text>\n", x_.at(i * dx),
                          y_.from + 18, i * dx);
    out_ += fmt::format("<text x=\"{:.1f}\" y=\"{:.1f}\" text-anchor=\"middle\">step</text>\n", (x_.from + x_.to) / 2,
                        kHeight - 8);
  }

  /// The points between gaps, thinned to two a pixel at most.
  void lines() {
    const std::size_t stride = std::max<std::size_t>(1, training_.size() / 1600);
    bool open = false;
    for (std::size_t i = 0; i < training_.size(); i += stride) {
      const PlotPoint& p = training_[i];
      if (!std::isfinite(p.loss)) {
        if (open) out_ += kEnd;
        open = false;
        continue;
      }
      if (!open) out_ += "<path fill=\"none\" stroke=\"#2e6f9e\" stroke-width=\"1.6\" stroke-linecap=\"round\" d=\"";
      out_ += fmt::format("{}{:.1f} {:.1f}", open ? 'L' : 'M', x_.at(static_cast<double>(p.step)), y_.at(p.loss));
      if (!open) out_ += "h0";  // a single point shows as well
      open = true;
    }
    if (open) out_ += kEnd;
  }

  void legend() {
    out_ += fmt::format("<text x=\"{}\" y=\"24\" text-anchor=\"end\" fill=\"#2e6f9e\">training loss</text>\n",
                        kWidth - kRight - (evaluation_.empty() ? 0 : 90));
    if (!evaluation_.empty())
      out_ += fmt::format("<text x=\"{}\" y=\"24\" text-anchor=\"end\" fill=\"#d1495b\">evaluation</text>\n",
                          kWidth - kRight);
  }

  static constexpr const char* kEnd = "\"/>\n";
  const std::vector<PlotPoint>&training_, &evaluation_;
  Axis x_, y_;
  std::string out_;
};

}  // namespace

std::string loss_plot(const std::vector<PlotPoint>& training, const std::vector<PlotPoint>& evaluation,
                      const std::string& title) {
  return Plot(training, evaluation).draw(title);
}

}  // namespace metal_candle::training
