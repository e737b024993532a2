// The loop behind a generator: sequences enter slots of the cache, each pass feeds what they have waiting, and those
// that were fed whole choose their next token.
#pragma once

#include <chrono>
#include <functional>
#include <optional>

#include "base/fork.h"
#include "inference/pass.h"
#include "inference/sampler.h"

namespace metal_candle::inference {

/// A sequence in progress.
struct Sequence {
  using Clock = std::chrono::steady_clock;

  Sequence(std::size_t number, std::span<const std::int32_t> prompt, const GenerateOptions& how)
      : index(number), options(how), tokens(prompt.begin(), prompt.end()), sampler(how.sampling, prompt) {
    out.prompt_tokens = tokens;
  }
  std::int64_t waiting() const { return static_cast<std::int64_t>(tokens.size()) - fed; }
  std::int64_t prompt_size() const { return static_cast<std::int64_t>(out.prompt_tokens.size()); }

  std::size_t index;
  const GenerateOptions& options;
  std::int64_t slot = -1;
  std::vector<std::int32_t> tokens;  // prompt and what came after
  std::int64_t fed = 0;              // how many of them the cache has
  Sampler sampler;
  Generated out;
  Clock::time_point began, first;
  bool done = false;
};

/// Called with each new token; may end the sequence by setting `done` and its finish.
using OnToken = std::function<void(Sequence&, std::int32_t token, double logprob)>;
/// Called with a sequence that is done, which is not used any more.
using OnEnd = std::function<void(Sequence&)>;

class Engine {
 public:
  Engine(Model model, const GeneratorOptions& options);

  const Model& model() const { return model_; }
  const nn::Weights& weights() const { return passes_.weights(); }
  void use(nn::Weights weights);
  std::int64_t context() const { return context_; }

  void run(const std::vector<std::vector<std::int32_t>>& prompts, const std::vector<const GenerateOptions*>& options,
           const OnToken& on_token, const OnResult& on_result);
  std::vector<double> score(std::span<const std::int32_t> tokens);

 private:
  void check_prompt(std::span<const std::int32_t> prompt) const;
  std::int64_t check_all(const std::vector<std::vector<std::int32_t>>& prompts,
                         const std::vector<const GenerateOptions*>& options) const;
  void make_cache(std::int64_t slots, std::int64_t positions);
  void admit(Sequence& s);
  void step(std::vector<Sequence*>& active, const OnToken& on_token, const OnEnd& on_end);
  void advance(Sequence& s, std::int32_t token, double logprob, const OnToken& on_token);
  PassResult pass(std::span<const Feed> feeds, Want want, std::span<const std::int32_t> targets = {});

  Model model_;
  Passes passes_;
  std::int64_t context_, most_slots_;
  std::vector<std::int32_t> end_tokens_;
  base::CallLock lock_;  // one call at a time
  std::optional<KvCache> cache_;
  std::vector<std::vector<std::int32_t>> kept_;  // per slot: the tokens whose keys are there
  std::vector<bool> taken_;
};

}  // namespace metal_candle::inference
