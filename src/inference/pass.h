// One pass of the model over tokens of several slots of a cache, in sizes of which there are few.
#pragma once

#include <array>
#include <optional>
#include <span>
#include <vector>

#include "inference/kv_cache.h"
#include "metal_candle/compiled.hpp"

namespace metal_candle::inference {

/// Tokens that a slot's sequence gets.
struct Feed {
  std::int64_t slot;
  std::span<const std::int32_t> tokens;
  std::int64_t position;  // of the first
  std::int64_t length;    // of the sequence, for scaling that looks at it
  double temperature = 1;
};

/// What a pass gives for the last token of each feed, or, `scores`, for every token.
enum class Want { nothing, choice, logits, scores };

struct PassResult {
  std::vector<std::int32_t> best;  // choice, logits: the token of the largest logit, a feed each
  std::vector<double> best_logprob;
  Tensor logits;                                 // logits: [rows, vocabulary] f32, row i for feed i
  std::vector<double> log_total;                 // logits: log of the sum of exp(logit), a feed each
  std::vector<double> log_total_at_temperature;  // and of exp(logit / temperature)
  std::vector<double> scores;                    // scores: of `targets`, a token each
};

/// The sizes in which passes come: powers of two for one token of each sequence, and three for prompts.
std::int64_t pass_size(std::int64_t tokens, bool one_each);
/// How many of `waiting` prompt tokens the next pass should take.
std::int64_t prompt_share(std::int64_t waiting);
inline constexpr std::int64_t kLargestPass = 256;

/// The passes of a model with some weights, recorded once for each size and replayed with other inputs.
class Passes {
 public:
  Passes(Model model, nn::Weights weights);
  const nn::Weights& weights() const { return weights_; }

  /// Feeds in the order of their slots, each slot once. `targets`: for scores, the token that follows each one. When it
  /// throws, the cache has lost its tensors.
  PassResult run(KvCache& cache, std::span<const Feed> feeds, Want want, std::span<const std::int32_t> targets = {});

 private:
  const CompiledFunction& function(Want want, bool picks);

  Model model_;
  nn::Weights weights_;
  std::array<std::array<CompiledFunction, 2>, 4> functions_;  // by what is wanted, and whether of some tokens only
  std::vector<Tensor> inputs_, outputs_;
};

}  // namespace metal_candle::inference
