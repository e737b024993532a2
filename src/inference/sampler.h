// Which token comes next: penalties and biases on the logits, then greedy or a draw from the truncated distribution.
#pragma once

#include <span>
#include <unordered_map>
#include <vector>

#include "metal_candle/generate.hpp"

namespace metal_candle::inference {

/// The choices of one sequence. What is drawn depends on the seed, the prompt and the token's position, on nothing
/// else.
class Sampler {
 public:
  Sampler(const SamplingOptions& options, std::span<const std::int32_t> prompt);

  /// Whether the largest logit is the choice, and no logit need be looked at here.
  bool takes_best() const { return takes_best_; }
  /// What logits are divided by; 1 where they need not be.
  double temperature() const { return options_.temperature > 0 ? options_.temperature : 1; }
  /// Chooses from one row of logits and remembers the choice. `log_total` is log Σ exp(logit / temperature).
  std::int32_t choose(std::span<const float> logits, double log_total);
  /// Remembers a token that was chosen by `takes_best`.
  void chose(std::int32_t token);

 private:
  struct Candidate {
    float logit;
    std::int32_t token;
  };
  void adjust(std::span<const float> logits);
  double likelihood(float logit) const;
  void collect(float cut);
  void gather();
  double truncate();
  std::int32_t draw_from_all(double at);

  SamplingOptions options_;
  bool takes_best_, penalties_;
  std::uint64_t key_;
  std::uint64_t drawn_ = 0;
  std::unordered_map<std::int32_t, std::int32_t> seen_;  // how often it was generated; 0: in the prompt only

  // Of the row at hand.
  std::span<const float> logits_;
  std::vector<float> adjusted_;
  double log_total_ = 0, mass_ = 1;  // likelihoods are exp(logit/T - log_total); all of them together are mass
  std::int32_t best_ = 0;
  std::vector<Candidate> candidates_;
  std::vector<double> weights_;
};

/// Throws UserError naming the option that makes no sense.
void check(const SamplingOptions& options, std::int64_t vocabulary);

}  // namespace metal_candle::inference
