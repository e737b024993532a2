// Models, adapters, sampling flags.
#include "cli/loading.h"

#include <fmt/format.h>

#include <algorithm>
#include <limits>

#include "cli/report.h"
#include "metal_candle/error.hpp"
#include "metal_candle/lora.hpp"

namespace metal_candle::cli {

namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();

std::pair<std::int32_t, double> bias(const std::string& text) {
  const std::size_t equals = text.find('=');
  if (equals == text.npos) throw UsageError(fmt::format("--logit-bias: expected ID=X, got \"{}\"", text));
  const auto id = parse_whole("--logit-bias", text.substr(0, equals), 0, 0x7fffffff);
  return {static_cast<std::int32_t>(id), parse_number("--logit-bias", text.substr(equals + 1), -kInfinity, kInfinity)};
}

}  // namespace

Model load_model(const Invocation& run) { return Model::load(run.text("--model"), {.dtype = run.dtype()}); }

Bundle load_bundle(const Invocation& run) { return Bundle::load(run.text("--model"), {.dtype = run.dtype()}); }

Generator make_generator(const Invocation& run, const Bundle& bundle, int batch) {
  Generator generator(bundle, {.batch = batch});
  if (run.has("--adapter")) {
    nn::Weights weights = bundle.model.weights();
    LoRAAdapter::load(run.text("--adapter"), bundle.model).apply(weights);
    generator.use(std::move(weights));
  }
  return generator;
}

const ChatTemplate& chat_of(const Invocation& run, const Bundle& bundle) {
  if (!bundle.chat) throw FileError(FileFault::bad, run.text("--model"), "", "a chat template", "none");
  return *bundle.chat;
}

std::int32_t end_token(const Invocation& run, const Bundle& bundle) {
  const std::filesystem::path config = std::filesystem::path(run.text("--model")) / "tokenizer_config.json";
  if (std::filesystem::exists(config)) {
    const Json json = Json::load(config);
    if (const Json* token = json.find_value("eos_token")) {
      const Json& text = token->is_object() ? token->at("content") : *token;
      if (const auto id = bundle.tokenizer.token_to_id(text.as_string())) return *id;
    }
  }
  if (!bundle.model.config().eos.empty()) return bundle.model.config().eos[0];
  if (!bundle.generation.end_tokens.empty()) return bundle.generation.end_tokens[0];
  throw FileError(FileFault::bad, run.text("--model"), "eos_token", "a token that ends a text", "none");
}

GenerateOptions generate_options(const Invocation& run) {
  GenerateOptions o;
  o.temperature = run.number("--temperature", 0, 0, kInfinity);
  o.top_k = static_cast<int>(run.whole("--top-k", 0));
  o.top_p = run.number("--top-p", 1, 0, 1);
  o.min_p = run.number("--min-p", 0, 0, 1);
  o.repetition_penalty = run.number("--repetition-penalty", 1, 1e-3, 1e3);
  o.presence_penalty = run.number("--presence-penalty", 0, -100, 100);
  o.frequency_penalty = run.number("--frequency-penalty", 0, -100, 100);
  for (const std::string& one : run.all("--logit-bias")) o.logit_bias.insert(bias(one));
  o.seed = run.seed();
  o.max_tokens = static_cast<int>(run.whole("--max-tokens", 256, 1));
  o.stop = run.all("--stop");
  for (const std::string& stop : o.stop)
    if (stop.empty()) throw UsageError("--stop: expected a text, got none");
  o.ignore_eos = run.command().name == "generate" && run.has("--ignore-eos");
  return o;
}

std::vector<std::int32_t> chat_tokens(const Bundle& bundle, const ChatTemplate& chat, const Json& messages,
                                      const Json& tools) {
  return bundle.tokenizer.encode(chat.render(messages, {.tools = tools}), {.add_special_tokens = false});
}

Json message(std::string_view role, std::string_view content) {
  return Json::object({{"role", role}, {"content", content}});
}

Json ids_json(const std::vector<std::int32_t>& ids) {
  Json out = Json::array();
  for (const std::int32_t id : ids) out.push_back(id);
  return out;
}

}  // namespace metal_candle::cli
