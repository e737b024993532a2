// Rotary frequencies under the scalings that models come with, rounded as transformers rounds them: the angles of late
// positions are so large that another rounding would show.
#include <algorithm>
#include <cmath>
#include <numbers>

#include "metal_candle/error.hpp"
#include "metal_candle/nn.hpp"

namespace metal_candle::nn {
namespace {

using Kind = RopeScaling::Kind;

std::vector<float> plain_periods(std::int64_t width, double base) {
  std::vector<float> periods(static_cast<std::size_t>(width / 2));
  for (std::size_t i = 0; i < periods.size(); ++i) {
    const float exponent = static_cast<float>(2 * i) / static_cast<float>(width);
    periods[i] = static_cast<float>(std::pow(base, static_cast<double>(exponent)));
  }
  return periods;
}

/// Long waves are stretched by the factor, short ones are left alone, with a ramp between (Llama 3.1).
float llama3(float frequency, const RopeScaling& s) {
  const auto original = static_cast<float>(s.original_positions);
  const float low = static_cast<float>(s.low_factor), high = static_cast<float>(s.high_factor);
  const float wave = 2 * std::numbers::pi_v<float> / frequency, stretched = frequency / static_cast<float>(s.factor);
  if (wave > original / low) return stretched;
  if (wave < original / high) return frequency;
  const float smooth = (original / wave - low) / (high - low);
  return (1 - smooth) * stretched + smooth * frequency;
}

/// YaRN: a ramp over the components, between those that turn beta_fast and beta_slow times within the trained context.
class Yarn {
 public:
  Yarn(const RopeScaling& s, std::int64_t width, double base) : s_(s) {
    const auto component = [&](double turns) {
      return static_cast<double>(width) *
             std::log(static_cast<double>(s.original_positions) / (turns * 2 * std::numbers::pi)) /
             (2 * std::log(base));
    };
    low_ = component(s.beta_fast);
    high_ = component(s.beta_slow);
    if (s.truncate) {
      low_ = std::floor(low_);
      high_ = std::ceil(high_);
    }
    low_ = std::max(low_, 0.0);
    high_ = std::min(high_, static_cast<double>(width - 1));
    if (low_ == high_) high_ += 0.001;
  }
  float frequency(std::size_t i, float period) const {
    const float at = (static_cast<float>(i) - static_cast<float>(low_)) / static_cast<float>(high_ - low_);
    const float kept = 1 - std::clamp(at, 0.0f, 1.0f);
    return 1 / (static_cast<float>(s_.factor) * period) * (1 - kept) + 1 / period * kept;
  }
  /// Of cosines and sines.
  double amplitude() const {
    if (s_.attention_factor) return *s_.attention_factor;
    const auto scale = [&](double m) { return s_.factor <= 1 ? 1.0 : 0.1 * m * std::log(s_.factor) + 1; };
    if (s_.mscale && s_.mscale_all_dim && *s_.mscale != 0 && *s_.mscale_all_dim != 0)
      return scale(*s_.mscale) / scale(*s_.mscale_all_dim);
    return scale(1);
  }

 private:
  const RopeScaling& s_;
  double low_, high_;
};

void check(std::int64_t width, double base, const RopeScaling& s) {
  const auto refuse = [](const std::string& why) { throw UserError(ErrorKind::argument, "rope: " + why); };
  if (width <= 0 || width % 2 != 0) refuse("a head width of " + std::to_string(width) + " cannot be halved");
  if (!(base > 0) || !std::isfinite(base)) refuse("a base of " + std::to_string(base));
  if (s.kind != Kind::none && !(s.factor >= 1 && std::isfinite(s.factor)))
    refuse("a scaling factor of " + std::to_string(s.factor) + " where at least 1 is expected");
  if (s.kind != Kind::none && s.kind != Kind::linear && s.original_positions <= 0)
    refuse("the context before scaling is " + std::to_string(s.original_positions));
  if (s.kind == Kind::llama3 && !(s.low_factor > 0 && s.high_factor > s.low_factor))
    refuse("frequency factors of " + std::to_string(s.low_factor) + " and " + std::to_string(s.high_factor));
  if (s.kind == Kind::yarn && !(s.beta_fast > 0 && s.beta_slow > 0 && base > 1)) refuse("betas must be positive");
  if (s.kind == Kind::dynamic && width <= 2) refuse("dynamic scaling needs a head width above 2");
}

}  // namespace

RopeTable rope_table(std::int64_t width, double base, const RopeScaling& scaling) {
  check(width, base, scaling);
  RopeTable table{.scaling = scaling, .base = base, .width = width};
  std::vector<float> values = plain_periods(width, base);
  const auto each = [&](auto f) {
    for (std::size_t i = 0; i < values.size(); ++i) values[i] = f(i, values[i]);
  };
  if (scaling.kind == Kind::yarn) {
    const Yarn yarn(scaling, width, base);
    each([&](std::size_t i, float period) { return yarn.frequency(i, period); });
    table.score_factor = yarn.amplitude() * yarn.amplitude();
  } else {
    each([](std::size_t, float period) { return 1 / period; });
  }
  if (scaling.kind == Kind::linear) each([&](std::size_t, float f) { return f / static_cast<float>(scaling.factor); });
  if (scaling.kind == Kind::llama3) each([&](std::size_t, float f) { return llama3(f, scaling); });
  table.frequencies = Tensor::from(values, {width / 2});
  table.frequencies.freeze();
  return table;
}

// Dynamic: beyond the trained context the base grows with the sequence, so each token has frequencies of its own.
Rope::Rope(const RopeTable& table, const LazyTensor& positions, const LazyTensor& lengths)
    : table_(&table), positions_(positions) {
  const RopeScaling& s = table.scaling;
  if (s.kind != Kind::dynamic || positions.numel() == 0) return;
  const LiteralScope literal;
  const auto wide = [](const LazyTensor& t) { return cast(t, DType::f64); };
  const auto original = static_cast<double>(s.original_positions), d = static_cast<double>(table.width);
  const LazyTensor length =
      maximum(wide(lengths.defined() ? lengths : max(positions, {0}, true) + 1), original);  // [t] or [1]
  const LazyTensor growth = length * (s.factor / original) - (s.factor - 1);
  const LazyTensor log_base = log(growth) * (d / (d - 2)) + std::log(table.base);
  const LazyTensor steps = iota({1, 1, table.width / 2}, 2, DType::f64) * (-2 / d);
  const LazyTensor frequency = exp(steps * reshape(log_base, {-1, 1, 1}));
  const LazyTensor angle = wide(reshape(positions, {-1, 1, 1})) * frequency;  // [t, 1, width/2]
  cosine_ = cast(cos(angle), DType::f32);
  sine_ = cast(sin(angle), DType::f32);
}

LazyTensor Rope::operator()(const LazyTensor& x) const {
  if (!cosine_.defined()) return rope(x, positions_, table_->base, table_->frequencies);
  const std::int64_t half = table_->width / 2;
  const LazyTensor wide = x.dtype() == DType::f32 ? x : cast(x, DType::f32);
  const LazyTensor a = slice(wide, -1, 0, half), b = slice(wide, -1, half, 2 * half);
  const LazyTensor y = concat({a * cosine_ - b * sine_, b * cosine_ + a * sine_}, -1);
  return x.dtype() == DType::f32 ? y : cast(y, x.dtype());
}

}  // namespace metal_candle::nn
