#include "inference/sampler.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "metal_candle/error.hpp"
#include "metal_candle/random.hpp"

namespace metal_candle::inference {

void check(const SamplingOptions& o, std::int64_t vocabulary) {
  const auto need = [](bool good, const char* what, double got, const char* expected) {
    if (!good)
      throw UserError(ErrorKind::argument, fmt::format("generate: {} is {}, expected {}", what, got, expected));
  };
  need(o.temperature >= 0 && std::isfinite(o.temperature), "temperature", o.temperature, "a number from 0 up");
  need(o.top_k >= 0, "top_k", o.top_k, "0 (all) or a count");
  need(o.top_p >= 0 && o.top_p <= 1, "top_p", o.top_p, "a number from 0 (the likeliest alone) to 1");
  need(o.min_p >= 0 && o.min_p <= 1, "min_p", o.min_p, "a number from 0 to 1");
  need(o.repetition_penalty > 0 && std::isfinite(o.repetition_penalty), "repetition_penalty", o.repetition_penalty,
       "a number above 0");
  need(std::isfinite(o.presence_penalty), "presence_penalty", o.presence_penalty, "a finite number");
  need(std::isfinite(o.frequency_penalty), "frequency_penalty", o.frequency_penalty, "a finite number");
  std::int64_t banned = 0;
  for (const auto& [token, bias] : o.logit_bias) {
    banned += bias == -INFINITY;
    need(token >= 0 && token < vocabulary, "a token of logit_bias", token, "one of the vocabulary");
    need(!std::isnan(bias) && bias < INFINITY, "a logit_bias", bias, "a number, or minus infinity");
  }
  need(banned < vocabulary, "the number of tokens that logit_bias bans", static_cast<double>(banned),
       "less than all of the vocabulary");
}

namespace {

/// One number for the seed and the whole prompt.
std::uint64_t key_of(std::uint64_t seed, std::span<const std::int32_t> prompt) {
  Key key(seed);
  for (const std::int32_t token : prompt) key = key.fold(static_cast<std::uint32_t>(token));
  return key.value;
}

/// In [0, 1).
double uniform(std::uint64_t key, std::uint64_t position) {
  return static_cast<double>(Key(key).fold(position).value >> 11) * 0x1p-53;
}

/// The first of the largest.
std::int32_t largest(std::span<const float> values) {
  constexpr std::size_t kLanes = 8;  // several chains of comparisons at a time
  float top[kLanes];
  std::fill(top, top + kLanes, -INFINITY);
  std::size_t i = 0;
  for (; i + kLanes <= values.size(); i += kLanes)
    for (std::size_t j = 0; j < kLanes; ++j) top[j] = values[i + j] > top[j] ? values[i + j] : top[j];
  for (; i < values.size(); ++i) top[0] = std::max(top[0], values[i]);
  const float best = *std::max_element(top, top + kLanes);
  const auto at = std::find(values.begin(), values.end(), best);
  return at == values.end() ? 0 : static_cast<std::int32_t>(at - values.begin());
}

}  // namespace

Sampler::Sampler(const SamplingOptions& options, std::span<const std::int32_t> prompt)
    : options_(options),
      penalties_(options.repetition_penalty != 1 || options.presence_penalty != 0 || options.frequency_penalty != 0),
      key_(key_of(options.seed, prompt)) {
  takes_best_ = options.temperature == 0 && !penalties_ && options.logit_bias.empty();
  if (penalties_)
    for (const std::int32_t token : prompt) seen_.emplace(token, 0);
}

void Sampler::chose(std::int32_t token) {
  ++drawn_;
  if (penalties_) ++seen_[token];
}

std::int32_t Sampler::choose(std::span<const float> logits, double log_total) {
  logits_ = logits;
  log_total_ = log_total;
  mass_ = 1;
  if (penalties_ || !options_.logit_bias.empty()) adjust(logits);
  best_ = largest(logits_);
  std::int32_t token = best_;
  if (options_.temperature > 0) {
    const double u = uniform(key_, drawn_);
    if (options_.top_k == 0 && options_.top_p == 1 && options_.min_p == 0) {
      token = draw_from_all(u * mass_);
    } else {
      gather();
      double left = u * truncate();
      for (std::size_t i = 0; i < weights_.size(); ++i)
        if ((left -= weights_[i]) < 0) {
          token = candidates_[i].token;
          break;
        }
    }
  }
  chose(token);
  return token;
}

double Sampler::likelihood(float logit) const {
  return std::exp(static_cast<double>(logit) / temperature() - log_total_);
}

// Only tokens that were seen or have a bias change, and the mass by the difference. Once that has become much smaller
// or larger than it was, the difference says nothing, and everything is added up anew, from the largest.
void Sampler::adjust(std::span<const float> logits) {
  adjusted_.assign(logits.begin(), logits.end());
  bool far = false;
  const auto change = [&](std::int32_t token, auto how) {
    float& l = adjusted_[static_cast<std::size_t>(token)];
    const double before = likelihood(l);
    l = std::min(how(l), std::numeric_limits<float>::max());
    mass_ += likelihood(l) - before;
    far |= !(mass_ > 0.05 && mass_ < 20);
  };
  for (const auto& [token, bias] : options_.logit_bias)
    change(token, [bias = bias](float l) { return l + static_cast<float>(bias); });
  const auto penalty = static_cast<float>(options_.repetition_penalty);
  for (const auto& [token, count] : seen_)
    change(token, [&, count = count](float l) {
      l = l > 0 ? l / penalty : l * penalty;
      if (count == 0) return l;
      return l -
             static_cast<float>(options_.presence_penalty + options_.frequency_penalty * static_cast<double>(count));
    });
  logits_ = adjusted_;
  if (!far) return;
  log_total_ = static_cast<double>(*std::max_element(adjusted_.begin(), adjusted_.end())) / temperature();
  mass_ = 0;
  for (const float l : logits_) mass_ += likelihood(l);
}

void Sampler::collect(float cut) {
  candidates_.clear();
  for (std::size_t i = 0; i < logits_.size(); ++i)
    if (logits_[i] >= cut && logits_[i] > -INFINITY) candidates_.push_back({logits_[i], static_cast<std::int32_t>(i)});
}

/// Candidates enough for the truncation, the likeliest first. Most of a vocabulary is far below the best, so the cut
/// starts near it and is lowered until it holds what is asked for.
void Sampler::gather() {
  const float top = logits_[static_cast<std::size_t>(best_)];
  const auto k = static_cast<std::size_t>(options_.top_k);
  const auto enough = [&] {
    if (k > 0) return candidates_.size() >= k;
    if (options_.top_p == 1) return true;
    double sum = 0;
    for (const Candidate& c : candidates_) sum += likelihood(c.logit);
    return sum >= options_.top_p * mass_;
  };
  const bool only_min_p = k == 0 && options_.top_p == 1;
  for (double depth = only_min_p ? -std::log(options_.min_p) : 4;; depth *= 2) {
    const auto cut = static_cast<float>(static_cast<double>(top) - depth * options_.temperature);
    collect(cut);
    if (enough() || cut < std::numeric_limits<float>::lowest() || depth > 1e6) break;
  }
  const auto before = [](const Candidate& a, const Candidate& b) {
    return a.logit != b.logit ? a.logit > b.logit : a.token < b.token;
  };
  if (k > 0 && k < candidates_.size()) {
    std::nth_element(candidates_.begin(), candidates_.begin() + options_.top_k, candidates_.end(), before);
    candidates_.resize(k);
  }
  std::sort(candidates_.begin(), candidates_.end(), before);
}

/// The weights of what is left of the candidates after top_p and min_p; returns their sum.
double Sampler::truncate() {
  weights_.clear();
  double total = 0;
  for (const Candidate& c : candidates_) total += weights_.emplace_back(likelihood(c.logit));
  if (options_.top_p < 1) {  // the fewest of the likeliest that reach top_p together
    const double wanted = options_.top_p * (options_.top_k > 0 ? total : mass_);
    total = 0;
    std::size_t n = 0;
    while (n < weights_.size() && total < wanted) total += weights_[n++];
    weights_.resize(n);
  }
  while (!weights_.empty() && weights_.back() < options_.min_p * weights_[0]) {
    total -= weights_.back();
    weights_.pop_back();
  }
  return total;
}

/// The token at `at` of the mass, where the likely ones come first, and within both parts lower numbers.
std::int32_t Sampler::draw_from_all(double at) {
  const float top = logits_[static_cast<std::size_t>(best_)];
  const auto cut = static_cast<float>(static_cast<double>(top) - 12 * options_.temperature);
  collect(cut);
  for (const Candidate& c : candidates_)
    if ((at -= likelihood(c.logit)) < 0) return c.token;
  for (std::size_t i = 0; i < logits_.size(); ++i)
    if (logits_[i] < cut && (at -= likelihood(logits_[i])) < 0) return static_cast<std::int32_t>(i);
  return best_;  // rounding left a little over
}

}  // namespace metal_candle::inference
