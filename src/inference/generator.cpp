#include "inference/engine.h"
#include "metal_candle/error.hpp"

namespace metal_candle {

using inference::Engine;
using inference::Sequence;

std::string_view name(Finish finish) {
  return finish == Finish::stop ? "stop" : finish == Finish::length ? "length" : "cancelled";
}

Generator::Generator(Model model, const GeneratorOptions& options)
    : engine_(std::make_unique<Engine>(std::move(model), options)) {}
Generator::Generator(Generator&&) noexcept = default;
Generator& Generator::operator=(Generator&&) noexcept = default;
Generator::~Generator() = default;

const Model& Generator::model() const { return engine_->model(); }
const nn::Weights& Generator::weights() const { return engine_->weights(); }
void Generator::use(nn::Weights weights) { engine_->use(std::move(weights)); }

namespace {

inference::OnToken teller(const OnPiece& on_piece) {
  if (!on_piece) return {};
  return [&on_piece](Sequence& s, std::int32_t token, double logprob) {
    if (on_piece({s.index, token, logprob}) || s.done) return;
    s.done = true;
    s.out.finish = Finish::cancelled;
  };
}

}  // namespace

Generated Generator::generate(std::span<const std::int32_t> prompt, const GenerateOptions& options,
                              const OnPiece& on_piece) {
  return std::move(engine_->run({{prompt.begin(), prompt.end()}}, {&options}, teller(on_piece))[0]);
}

std::vector<Generated> Generator::generate_batch(const std::vector<std::vector<std::int32_t>>& prompts,
                                                 const GenerateOptions& options, const OnPiece& on_piece) {
  return engine_->run(prompts, std::vector<const GenerateOptions*>(prompts.size(), &options), teller(on_piece));
}

std::vector<Generated> Generator::generate_batch(const std::vector<std::vector<std::int32_t>>& prompts,
                                                 const std::vector<GenerateOptions>& options, const OnPiece& on_piece) {
  if (prompts.size() != options.size())
    throw UserError(ErrorKind::argument, "generate: " + std::to_string(prompts.size()) + " prompts, " +
                                             std::to_string(options.size()) + " options");
  std::vector<const GenerateOptions*> each;
  for (const GenerateOptions& o : options) each.push_back(&o);
  return engine_->run(prompts, each, teller(on_piece));
}

std::vector<double> Generator::score(std::span<const std::int32_t> tokens) { return engine_->score(tokens); }

}  // namespace metal_candle
