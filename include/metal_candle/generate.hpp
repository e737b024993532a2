// Text from a language model: greedy or sampled, streamed, in batches, and how likely a model finds a text.
//
//   mc::Generator generator(mc::Bundle::load("SmolLM2-135M-Instruct"));
//   std::cout << generator.generate("Once upon a time", {.max_tokens = 64}).text;
//   generator.generate("Once", {}, [](const mc::Piece& p) { std::cout << p.text; return true; });   // false: stop here
//   auto stream = generator.stream("Once", {.sampling = {.temperature = 0.8}, .max_tokens = 64});   // else greedy
//   while (auto piece = stream.next()) std::cout << piece->text;                 // meanwhile elsewhere:
//   stream.cancel();
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

#include "metal_candle/bundle.hpp"

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
  std::map<std::int32_t, double> logit_bias = {};  // added before penalties; minus infinity forbids a token
  std::uint64_t seed = 0;
};

/// How a model's generation_config.json has it: its repetition penalty, and if it samples its temperature (1 where it
/// has none), top-k, top-p and min-p, else greedy. What it leaves out stays off.
SamplingOptions recommended_sampling(const GenerationDefaults& defaults);

struct GenerateOptions {
  SamplingOptions sampling = {};
  int max_tokens = 256;
  std::vector<std::string> stop = {};          // texts that end it; they and what follows are not shown
  std::vector<std::int32_t> stop_tokens = {};  // beside the model's own
  bool ignore_eos = false;                     // the model's own end tokens do not end anything
};

enum class Finish { stop, length, cancelled };
/// "stop", "length", "cancelled".
std::string_view name(Finish finish);

struct Generated {
  std::vector<std::int32_t> prompt_tokens, tokens;  // all that were generated: an end token is the last of them
  std::vector<double> logprobs;                     // of `tokens`
  std::string text;                                 // without special tokens; empty where there is no tokenizer
  Finish finish = Finish::length;
  double prefill_s = 0, decode_s = 0;  // up to the first token, and from there on
};

/// A token as it comes. Text may lag behind: it is whole characters only, and never what may begin a stop text.
struct Piece {
  std::size_t index = 0;  // of the prompt in its batch
  std::int32_t token = 0;
  double logprob = 0;
  std::string text;
};
/// Returns false to end this sequence, which finishes as cancelled.
using OnPiece = std::function<bool(const Piece&)>;
/// Takes the result of a prompt, by its index in its batch.
using OnResult = std::function<void(std::size_t index, Generated&& result)>;

struct GeneratorOptions {
  int batch = 8;             // sequences in progress at a time
  std::int64_t context = 0;  // most tokens of a sequence; 0: what the model was made for
  std::optional<std::vector<std::int32_t>> end_tokens = {};  // what ends a text; default: config().eos
};

/// A generation under way on a thread of its own. Dropping it cancels it and waits. The generator must outlive it.
class GenerationStream {
 public:
  GenerationStream(GenerationStream&&) noexcept;
  GenerationStream& operator=(GenerationStream&&) noexcept;
  ~GenerationStream();
  /// The next piece; waits for it. Empty at the end; throws what the generation threw.
  std::optional<Piece> next();
  /// Ends it after the token that is being made. Any thread may.
  void cancel();
  /// Waits for the end; throws what the generation threw.
  Generated result();

 private:
  friend class Generator;
  struct Work;
  explicit GenerationStream(std::shared_ptr<Work> work);
  std::shared_ptr<Work> work_;
};

class Generator {
 public:
  /// Text in and out; ends where the bundle says that answers end.
  explicit Generator(const Bundle& bundle, const GeneratorOptions& options = {});
  /// Token ids alone, or with a tokenizer.
  explicit Generator(Model model, const GeneratorOptions& options = {});
  Generator(Model model, Tokenizer tokenizer, const GeneratorOptions& options = {});
  Generator(Generator&&) noexcept;
  Generator& operator=(Generator&&) noexcept;
  ~Generator();

  const Model& model() const;
  /// Reads these weights from now on: the model's with an adapter's terms. Kept keys of other weights are forgotten.
  void use(nn::Weights weights);
  const nn::Weights& weights() const;

  using Ids = std::span<const std::int32_t>;
  /// Throws UserError for a prompt that is empty, has ids that are not the vocabulary's, or is longer than the context.
  Generated generate(Ids prompt, const GenerateOptions& options = {}, const OnPiece& on_piece = {});
  /// The text's tokens, the tokenizer's special ones among them if asked for (a rendered template brings its own).
  Generated generate(std::string_view prompt, const GenerateOptions& options = {}, const OnPiece& on_piece = {},
                     bool add_special_tokens = true);
  /// Any number of prompts of any length, `batch` of them in progress at a time. Results in the order of the prompts;
  /// options for each, or one for all.
  std::vector<Generated> generate_batch(const std::vector<std::vector<std::int32_t>>& prompts,
                                        std::span<const GenerateOptions> options, const OnPiece& on_piece = {});
  std::vector<Generated> generate_batch(const std::vector<std::vector<std::int32_t>>& prompts,
                                        const GenerateOptions& options = {}, const OnPiece& on_piece = {}) {
    return generate_batch(prompts, std::span(&options, 1), on_piece);
  }
  /// The same, and each result is given away as soon as its last token is there: in the order in which they end, with
  /// no more than `batch` prompts begun and not yet given. Nothing is kept of them. What a callback throws ends it and
  /// comes out here; as after any other error, what had ended before was given, and the generator can be used again.
  /// Callbacks run in the calling thread and must not use the generator.
  void generate_each(const std::vector<std::vector<std::int32_t>>& prompts, std::span<const GenerateOptions> options,
                     const OnResult& on_result, const OnPiece& on_piece = {});
  void generate_each(const std::vector<std::vector<std::int32_t>>& prompts, const GenerateOptions& options,
                     const OnResult& on_result, const OnPiece& on_piece = {}) {
    generate_each(prompts, std::span(&options, 1), on_result, on_piece);
  }
  /// Starts at once and comes piece by piece.
  GenerationStream stream(Ids prompt, const GenerateOptions& options = {});
  GenerationStream stream(std::string_view prompt, const GenerateOptions& options = {}, bool add_special_tokens = true);

  /// log p(token i+1 | tokens 0..i) for all but the first: one number less than there are tokens.
  std::vector<double> score(Ids tokens);

 private:
  std::vector<std::int32_t> encoded(std::string_view prompt, bool add_special_tokens) const;

  std::unique_ptr<inference::Engine> engine_;
  std::optional<Tokenizer> tokenizer_;
};

}  // namespace metal_candle
