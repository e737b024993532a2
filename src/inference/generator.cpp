#include <fmt/format.h>

#include <unordered_map>

#include "inference/engine.h"
#include "inference/text_output.h"
#include "metal_candle/error.hpp"

namespace metal_candle {

using inference::Engine;
using inference::Sequence;
using inference::TextOutput;

std::string_view name(Finish finish) {
  return finish == Finish::stop ? "stop" : finish == Finish::length ? "length" : "cancelled";
}

SamplingOptions recommended_sampling(const GenerationDefaults& defaults) {
  SamplingOptions o;
  o.repetition_penalty = defaults.repetition_penalty.value_or(o.repetition_penalty);
  if (!defaults.sample) return o;
  o.temperature = defaults.temperature.value_or(1);
  o.top_k = defaults.top_k.value_or(o.top_k);
  o.top_p = defaults.top_p.value_or(o.top_p);
  o.min_p = defaults.min_p.value_or(o.min_p);
  return o;
}

namespace {

GeneratorOptions ending(GeneratorOptions options, const Bundle& bundle) {
  if (!options.end_tokens) options.end_tokens = bundle.generation_defaults().end_tokens;
  return options;
}

/// What happens with each token: it becomes text, which may end the sequence, and somebody is told.
class Listener {
 public:
  Listener(const std::optional<Tokenizer>& tokenizer, std::span<const GenerateOptions> options, const OnPiece& on_piece)
      : tokenizer_(tokenizer), on_piece_(on_piece) {
    for (const GenerateOptions& o : options)
      if (!tokenizer && !o.stop.empty())
        throw UserError(ErrorKind::argument, "generate: stop texts need a tokenizer, and the generator has none");
  }

  void operator()(Sequence& s, std::int32_t token, double logprob) {
    Piece piece{s.index, token, logprob, {}};
    TextOutput* text = nullptr;
    if (tokenizer_) {
      text = &texts_.try_emplace(s.index, *tokenizer_, s.options.stop).first->second;
      const bool ends = s.done && s.out.finish == Finish::stop;  // a token that ends is not part of the text
      if (!ends) piece.text = text->push(token);
      if (s.done) piece.text += text->finish();
      if (text->stopped()) s.done = true, s.out.finish = Finish::stop;
    }
    if (on_piece_ && !on_piece_(piece) && !s.done) {
      s.done = true;
      s.out.finish = Finish::cancelled;
    }
    if (!s.done || !text) return;
    s.out.text = text->text();
    texts_.erase(s.index);
  }

 private:
  const std::optional<Tokenizer>& tokenizer_;
  const OnPiece& on_piece_;
  std::unordered_map<std::size_t, TextOutput> texts_;  // of the sequences in progress
};

}  // namespace

Generator::Generator(const Bundle& bundle, const GeneratorOptions& options)
    : Generator(bundle.model, bundle.tokenizer, ending(options, bundle)) {}
Generator::Generator(Model model, const GeneratorOptions& options)
    : engine_(std::make_unique<Engine>(std::move(model), options)) {}
Generator::Generator(Model model, Tokenizer tokenizer, const GeneratorOptions& options)
    : engine_(std::make_unique<Engine>(std::move(model), options)), tokenizer_(std::move(tokenizer)) {}
Generator::Generator(Generator&&) noexcept = default;
Generator& Generator::operator=(Generator&&) noexcept = default;
Generator::~Generator() = default;

const Model& Generator::model() const { return engine_->model(); }
const nn::Weights& Generator::weights() const { return engine_->weights(); }
void Generator::use(nn::Weights weights) { engine_->use(std::move(weights)); }
std::vector<double> Generator::score(Ids tokens) { return engine_->score(tokens); }

std::vector<std::int32_t> Generator::encoded(std::string_view prompt, bool add_special_tokens) const {
  if (!tokenizer_) throw UserError(ErrorKind::argument, "generate: a text prompt needs a tokenizer, and there is none");
  return tokenizer_->encode(prompt, {.add_special_tokens = add_special_tokens});
}

Generated Generator::generate(Ids prompt, const GenerateOptions& options, const OnPiece& on_piece) {
  return std::move(generate_batch({{prompt.begin(), prompt.end()}}, options, on_piece)[0]);
}

Generated Generator::generate(std::string_view prompt, const GenerateOptions& options, const OnPiece& on_piece,
                              bool add_special_tokens) {
  return generate(encoded(prompt, add_special_tokens), options, on_piece);
}

std::vector<Generated> Generator::generate_batch(const std::vector<std::vector<std::int32_t>>& prompts,
                                                 std::span<const GenerateOptions> options, const OnPiece& on_piece) {
  std::vector<Generated> results(prompts.size());
  generate_each(
      prompts, options, [&](std::size_t index, Generated&& result) { results[index] = std::move(result); }, on_piece);
  return results;
}

void Generator::generate_each(const std::vector<std::vector<std::int32_t>>& prompts,
                              std::span<const GenerateOptions> options, const OnResult& on_result,
                              const OnPiece& on_piece) {
  if (options.size() != 1 && options.size() != prompts.size())
    throw UserError(ErrorKind::argument,
                    fmt::format("generate: options for {} of {} prompts", options.size(), prompts.size()));
  std::vector<const GenerateOptions*> each;
  for (std::size_t i = 0; i < prompts.size(); ++i) each.push_back(&options[options.size() == 1 ? 0 : i]);
  Listener listener(tokenizer_, options, on_piece);
  engine_->run(prompts, each, std::ref(listener), on_result);
}

GenerationStream Generator::stream(std::string_view prompt, const GenerateOptions& options, bool add_special_tokens) {
  return stream(encoded(prompt, add_special_tokens), options);
}

}  // namespace metal_candle
