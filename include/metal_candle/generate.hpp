// Text from a language model: greedy or sampled, streamed, in batches, and how likely a model finds a text.
//
//   mc::Generator generator(model);
//   mc::Generated g = generator.generate(ids, {.max_tokens = 64});                  // token ids in, token ids out
//   generator.generate(ids, {}, [](const mc::Piece& p) { show(p.token); return true; });   // false: stop here
//
// A token is one replayed plan: keys and values are kept, and where a sequence ends is data. What a prompt gives
// depends on the prompt, the options and the weights, bit for bit; not on other prompts of a batch, on threads, or on
// what the generator did before. The draw at a position is keyed by (seed, prompt, position). Log-probabilities are
// those of the model's plain distribution, before temperature, penalties and cuts.
//
// A generator keeps its memory between calls, and the keys of its last sequences: a prompt that begins like one of them
// goes on from there. Calls from several threads wait for each other.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "metal_candle/model.hpp"

namespace metal_candle {

namespace inference {
class Engine;
}

struct SamplingOptions {
  double temperature = 0;         // 0: the likeliest token
  int top_k = 0;                  // > 0: of the k likeliest only
  double top_p = 1;               // < 1: of the fewest likeliest that reach this probability together
  double min_p = 0;               // > 0: of those at least this many times as likely as the likeliest
  double repetition_penalty = 1;  // logits of tokens seen (prompt included) are divided by it, negative ones multiplied
  double presence_penalty = 0;    // subtracted from logits of tokens generated before
  double frequency_penalty = 0;   // subtracted once for each time that they were
  std::map<std::int32_t, double> logit_bias;  // added; minus infinity forbids a token
  std::uint64_t seed = 0;
};

struct GenerateOptions : SamplingOptions {
  int max_tokens = 256;
  std::vector<std::int32_t> stop_tokens;  // beside the model's own
  bool ignore_eos = false;                // the model's own end tokens do not end anything
};

enum class Finish { stop, length, cancelled };
/// "stop", "length", "cancelled".
std::string_view name(Finish finish);

struct Generated {
  std::vector<std::int32_t> prompt_tokens, tokens;  // an end token that was generated is the last
  std::vector<double> logprobs;                     // of `tokens`
  Finish finish = Finish::length;
  double prefill_s = 0, decode_s = 0;  // up to the first token, and from there on
};

/// A token as it comes.
struct Piece {
  std::size_t index;  // of the prompt in its batch
  std::int32_t token;
  double logprob;
};
/// Returns false to end this sequence, which finishes as cancelled.
using OnPiece = std::function<bool(const Piece&)>;

struct GeneratorOptions {
  int batch = 8;                                        // sequences in progress at a time
  std::int64_t context = 0;                             // most tokens of a sequence; 0: what the model was made for
  std::optional<std::vector<std::int32_t>> end_tokens;  // what ends a text; default: config().eos
};

class Generator {
 public:
  explicit Generator(Model model, const GeneratorOptions& options = {});
  Generator(Generator&&) noexcept;
  Generator& operator=(Generator&&) noexcept;
  ~Generator();

  const Model& model() const;
  /// Reads these weights from now on: the model's with an adapter's terms. Kept keys of other weights are forgotten.
  void use(nn::Weights weights);
  const nn::Weights& weights() const;

  /// Throws UserError for a prompt that is empty, has ids that are not the vocabulary's, or is longer than the context.
  Generated generate(std::span<const std::int32_t> prompt, const GenerateOptions& options = {},
                     const OnPiece& on_piece = {});
  /// Any number of prompts of any length, `batch` of them in progress at a time. Results in the order of the prompts.
  std::vector<Generated> generate_batch(const std::vector<std::vector<std::int32_t>>& prompts,
                                        const GenerateOptions& options = {}, const OnPiece& on_piece = {});
  /// Each with options of its own.
  std::vector<Generated> generate_batch(const std::vector<std::vector<std::int32_t>>& prompts,
                                        const std::vector<GenerateOptions>& options, const OnPiece& on_piece = {});

  /// log p(token i+1 | tokens 0..i) for all but the first: one number less than there are tokens.
  std::vector<double> score(std::span<const std::int32_t> tokens);

 private:
  std::unique_ptr<inference::Engine> engine_;
};

}  // namespace metal_candle
