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
  if (equals == std::string::npos) throw UsageError(fmt::format("--logit-bias: expected ID=X, got \"{}\"", text));
  const auto id = parse_whole("--logit-bias", text.substr(0, equals), 0, 0x7fffffff);
  return {static_cast<std::int32_t>(id), parse_number("--logit-bias", text.substr(equals + 1), -kInfinity, kInfinity)};
}

}  // namespace

Model load_model(const Invocation& run) { return Model::load(run.text("--model"), {.dtype = run.dtype()}); }

Bundle load_bundle(const Invocation& run) { return Bundle::load(run.text("--model"), {.dtype = run.dtype()}); }

Bundle load_plain(const Invocation& run) {
  Model model = load_model(run);
  return {std::move(model), Tokenizer::load(run.text("--model")), std::nullopt, {}};
}

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
  if (!bundle.chat && !bundle.chat_fault)
    throw FileError(FileFault::bad, run.text("--model"), "chat_template", "a chat template", "none");
  return bundle.chat_template();
}

std::int32_t end_token(const Invocation& run, const Bundle& bundle) {
  if (bundle.end_of_text) return *bundle.end_of_text;
  if (!bundle.model.config().eos.empty()) return bundle.model.config().eos[0];
  if (!bundle.generation.end_tokens.empty()) return bundle.generation.end_tokens[0];
  throw FileError(FileFault::bad, run.text("--model"), "eos_token", "a token that ends a text", "none");
}

namespace {

GenerateOptions with_flags(const Invocation& run, const SamplingOptions& base) {
  SamplingOptions s;
  s.temperature = run.number("--temperature", base.temperature, 0, kInfinity);
  s.top_k = static_cast<int>(run.whole("--top-k", base.top_k));
  s.top_p = run.number("--top-p", base.top_p, 0, 1);
  s.min_p = run.number("--min-p", base.min_p, 0, 1);
  s.repetition_penalty = run.number("--repetition-penalty", base.repetition_penalty, 1e-3, 1e3);
  s.presence_penalty = run.number("--presence-penalty", base.presence_penalty, -100, 100);
  s.frequency_penalty = run.number("--frequency-penalty", base.frequency_penalty, -100, 100);
  for (const std::string& one : run.all("--logit-bias"))
    if (const auto [at, is_new] = s.logit_bias.insert(bias(one)); !is_new)
      throw UsageError(fmt::format("--logit-bias: token {} is given twice", at->first));
  s.seed = run.seed();
  GenerateOptions o{.sampling = s};
  o.max_tokens = static_cast<int>(run.whole("--max-tokens", 256, 1));
  o.stop = run.all("--stop");
  for (const std::string& stop : o.stop)
    if (stop.empty()) throw UsageError("--stop: expected a text, got none");
  o.ignore_eos = run.command().name == "generate" && run.has("--ignore-eos");
  return o;
}

}  // namespace

GenerateOptions generate_options(const Invocation& run) { return with_flags(run, {}); }

namespace {

/// Whether transformers would answer otherwise for it: 0, 1 and false are how each of these says that it is off.
bool matters(const Json& value) {
  if (value.is_bool()) return value.as_bool();
  if (value.is_number()) return value.as_double() != 0 && value.as_double() != 1;
  return !value.is_null() && (value.is_string() || value.size() > 0);
}

/// What generation_config.json asks for and nobody does here.
void warn_of_what_is_not_followed(const Invocation& run, const GenerationDefaults& advice) {
  const std::filesystem::path file = std::filesystem::path(run.text("--model")) / "generation_config.json";
  if (!std::filesystem::exists(file)) return;
  const Json config = Json::load(file);
  std::vector<std::string_view> left_out;
  for (const char* key :
       {"stop_strings", "bad_words_ids", "suppress_tokens", "begin_suppress_tokens", "no_repeat_ngram_size",
        "encoder_repetition_penalty", "num_beams", "sequence_bias", "forced_bos_token_id", "forced_eos_token_id",
        "min_length", "min_new_tokens", "exponential_decay_length_penalty", "guidance_scale"})
    if (const Json* value = config.find_value(key); value && matters(*value)) left_out.emplace_back(key);
  for (const char* key : {"typical_p", "epsilon_cutoff", "eta_cutoff"})
    if (const Json* value = config.find_value(key); value && advice.sample && matters(*value))
      left_out.emplace_back(key);
  if (!left_out.empty())
    warn(run, fmt::format("{}: {} {} not followed", file.string(), fmt::join(left_out, ", "),
                          left_out.size() == 1 ? "is" : "are"));
}

}  // namespace

GenerateOptions generate_options(const Invocation& run, const Bundle& bundle) {
  GenerationDefaults advice = bundle.generation_defaults();
  warn_of_what_is_not_followed(run, advice);
  if (run.has("--temperature") && run.number("--temperature", 0, 0, kInfinity) == 0) advice.sample = false;
  return with_flags(run, recommended_sampling(advice));
}

std::string sampling_text(const SamplingOptions& o) {
  std::string out = o.temperature > 0 ? fmt::format("sampled with temperature {}", o.temperature) : "greedy";
  const auto add = [&](bool on, std::string_view what, auto value) {
    if (on) out += fmt::format(", {} {}", what, value);
  };
  add(o.temperature > 0 && o.top_k > 0, "top-k", o.top_k);
  add(o.temperature > 0 && o.top_p < 1, "top-p", o.top_p);
  add(o.temperature > 0 && o.min_p > 0, "min-p", o.min_p);
  add(o.repetition_penalty != 1, "repetition penalty", o.repetition_penalty);
  add(o.presence_penalty != 0, "presence penalty", o.presence_penalty);
  add(o.frequency_penalty != 0, "frequency penalty", o.frequency_penalty);
  return out;
}

std::vector<std::int32_t> chat_tokens(const Bundle& bundle, const ChatTemplate& chat, const Json& messages,
                                      const Json& tools) {
  return bundle.tokenizer.encode(chat.render(messages, {.tools = tools}), {.add_special_tokens = false});
}

void check_ids(const Invocation& run, const Bundle& bundle, std::span<const std::int32_t> ids,
               const std::string& place) {
  const std::int64_t vocabulary = bundle.model.config().vocabulary;
  for (const std::int32_t id : ids) {
    if (id < vocabulary) continue;
    std::filesystem::path file = run.text("--model");
    if (std::filesystem::is_directory(file)) file /= "tokenizer.json";
    throw FileError(FileFault::bad, place.empty() ? file.string() : place, "",
                    fmt::format("token ids below the model's vocab_size {}", vocabulary),
                    fmt::format("{} for {}{}", id, Json(bundle.tokenizer.id_to_token(id)).dump(),
                                place.empty() ? "" : " of " + file.string()));
  }
}

void naming_model(const Invocation& run, const std::function<void()>& f) {
  try {
    f();
  } catch (const FileError& e) {
    if (e.file() != "the model") throw;
    const auto adapter = run.has("--adapter") ? " with " + run.text("--adapter") : "";
    throw FileError(e.fault(), run.text("--model"), e.field(), e.expected(), e.got() + adapter);
  }
}

void warn_if_full(const Invocation& run, const Bundle& bundle, const Generated& g, std::int64_t most,
                  const std::string& which) {
  if (g.finish == Finish::length && std::ssize(g.tokens) < most)
    warn(run, fmt::format("{}the model's context of {} tokens is full: {} of the prompt, {} of at most {} generated",
                          which, bundle.model.config().context(), g.prompt_tokens.size(), g.tokens.size(), most));
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
