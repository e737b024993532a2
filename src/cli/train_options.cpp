// File < environment < flags.
#include "cli/train_options.h"

#include <fmt/format.h>
#include <fmt/ostream.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <iterator>
#include <limits>
#include <set>

#define TOML_EXCEPTIONS 0
#include <toml++/toml.h>

#include "cli/report.h"
#include "metal_candle/error.hpp"

namespace metal_candle::cli {

namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();

/// Whether an option may stand in a file: those that say what to train, not what to print.
bool is_setting(const Option& option) {
  constexpr std::string_view kOthers[] = {"--config", "--help",    "--version",     "--json",
                                          "--quiet",  "--dry-run", "--print-config"};
  return std::find(std::begin(kOthers), std::end(kOthers), option.name) == std::end(kOthers);
}

std::vector<const Option*> settings(const Command& command) {
  std::vector<const Option*> out;
  for (auto options : {command.options, common_options()})
    for (const Option& option : options)
      if (is_setting(option)) out.push_back(&option);
  return out;
}

constexpr std::string_view kVariables = "METAL_CANDLE_";

std::string environment_name(const Option& option) {
  std::string out(kVariables);
  for (const char c : option.name.substr(2))
    out += c == '-' ? '_' : static_cast<char>(c >= 'a' && c <= 'z' ? c - 32 : c);
  return out;
}

/// One that nothing reads was meant to be another.
void warn_of_unknown_variables(const Invocation& run) {
  std::set<std::string> known;
  for (const Option* option : settings(run.command()))
    known.insert(environment_name(*option).substr(kVariables.size()));
  for (char** variable = environ; *variable != nullptr; ++variable) {
    std::string_view name(*variable, std::strcspn(*variable, "="));
    if (!name.starts_with(kVariables)) continue;
    name.remove_prefix(kVariables.size());
    if (known.count(std::string(name)) > 0) continue;
    const auto near = nearest(name, {known.begin(), known.end()});
    warn(run, fmt::format("{}{} is no variable that train reads{}", kVariables, name,
                          near ? fmt::format("; did you mean {}{}?", kVariables, *near) : ""));
  }
}

std::string text_of(const toml::node& node, const std::string& file, const std::string& key) {
  if (const auto* text = node.as_string()) return text->get();
  if (const auto* whole = node.as_integer()) return fmt::format("{}", whole->get());
  if (const auto* number = node.as_floating_point()) return fmt::format("{}", number->get());
  if (const auto* on = node.as_boolean()) return on->get() ? "true" : "false";
  const auto* list = node.as_array();
  const auto type = [](const toml::node& n) { return fmt::format("a {}", fmt::streamed(n.type())); };
  if (!list)
    throw FileError(FileFault::bad, file, key, "a text, a number, true or false, or a list of texts", type(node));
  std::string out;
  for (const toml::node& one : *list) {
    if (!one.is_string()) throw FileError(FileFault::bad, file, key, "a list of texts", type(one) + " in it");
    out += (out.empty() ? "" : ",") + one.as_string()->get();
  }
  return out;
}

void add_file(Invocation& run, const std::string& path) {
  if (!std::filesystem::exists(path)) throw FileError(FileFault::missing, path, "", "a TOML file", "nothing");
  if (std::filesystem::is_directory(path)) throw FileError(FileFault::bad, path, "", "a TOML file", "a folder");
  std::ifstream file(path, std::ios::binary);  // a pipe, too
  if (!file) throw FileError(FileFault::missing, path, "", "a TOML file that may be read");
  const std::string text{std::istreambuf_iterator<char>(file), {}};
  const toml::parse_result parsed = toml::parse(text, path);
  if (!parsed)
    throw FileError(FileFault::bad, path, fmt::format("line {}", parsed.error().source().begin.line),
                    std::string(parsed.error().description()));
  const auto known = settings(run.command());
  std::set<std::string> seen;
  for (const auto& [key, node] : parsed.table()) {
    std::string name = "--" + std::string(key.str());
    std::replace(name.begin(), name.end(), '_', '-');
    const auto option = std::find_if(known.begin(), known.end(), [&](const Option* o) { return o->name == name; });
    if (option == known.end()) {
      std::vector<std::string_view> names;
      for (const Option* o : known) names.push_back(o->name.substr(2));
      const auto near = nearest(std::string_view(name).substr(2), names);
      throw FileError(FileFault::bad, path, std::string(key.str()),
                      "is no option of train that a file may set" +
                          (near ? fmt::format("; did you mean {}?", *near) : std::string()));
    }
    if (!seen.insert(name).second)
      throw FileError(FileFault::bad, path, std::string(key.str()), "is there twice, spelt with - and with _");
    run.set_default(name, text_of(node, path, std::string(key.str())), {path, true});
  }
}

}  // namespace

void add_settings(Invocation& run) {
  for (const Option* option : settings(run.command()))
    if (const std::string name = environment_name(*option); const char* value = std::getenv(name.c_str()))
      run.set_default(option->name, value, {name});
  warn_of_unknown_variables(run);
  if (run.has("--config")) add_file(run, run.text("--config"));
  run.yield("--steps", "--epochs"), run.yield("--epochs", "--steps");
  for (const char* brought : {"--rank", "--alpha", "--rslora", "--target-modules"})
    run.yield(brought, "--init-adapter");
}

TrainOptions train_options(const Invocation& run) {
  TrainOptions o;
  o.output = run.text("--output");
  o.lora.rank = run.whole("--rank", 16, 1, 1 << 16);
  o.lora.alpha = run.number("--alpha", 2.0 * static_cast<double>(o.lora.rank), 1e-9, 1e9);
  o.lora.dropout = run.number("--dropout", 0, 0, 0.999);
  o.lora.rslora = run.has("--rslora");
  o.lora.base_model = run.text("--model");
  o.lora.set_targets(run.maybe("--target-modules").value_or("all-linear"));
  if (run.has("--init-adapter")) o.init_adapter = run.text("--init-adapter");
  if (run.has("--dropout")) o.init_dropout = o.lora.dropout;
  o.learning_rate = run.number("--learning-rate", 2e-4, 0, kInfinity);
  o.schedule = schedule_kind(run.maybe("--schedule").value_or("linear"));
  o.warmup = run.whole("--warmup", 0);
  o.weight_decay = run.number("--weight-decay", 0.01, 0, kInfinity);
  o.max_grad_norm = run.number("--max-grad-norm", 1, 0, kInfinity);
  o.batch_size = run.whole("--batch-size", 8, 1, 65536);
  o.accumulate = run.whole("--accumulate", 1, 1, 65536);
  o.max_length = run.whole("--max-length", 1024, 2);
  o.train_on = train_on(run.maybe("--train-on").value_or("answers"));
  o.packing = run.has("--packing");
  o.shuffle = !run.has("--no-shuffle");
  o.checkpointing = run.has("--checkpointing");
  if (run.has("--steps") && run.has("--epochs")) throw UsageError("train needs only one of --steps, --epochs");
  if (run.has("--steps")) o.steps = run.whole("--steps", 0, 1);
  o.epochs = run.number("--epochs", 1, 1e-9, 1e9);
  o.eval_every = run.whole("--eval-every", 0);
  o.save_every = run.whole("--save-every", 0);
  o.early_stop = run.whole("--early-stop", 0);
  o.resume = run.has("--resume");
  o.seed = run.seed();
  return o;
}

void check_init_adapter(const Invocation& run, const TrainOptions& options, const Model& model) {
  if (!options.init_adapter) return;
  const LoRAAdapter adapter = LoRAAdapter::load(*options.init_adapter, model);
  const LoRAConfig &its = adapter.config(), &said = options.lora;
  const auto refuse = [&](std::string_view option, const std::string& has) {
    throw UsageError(fmt::format("{}{} contradicts --init-adapter {}, which {}; it brings its own", option,
                                 option == "--rslora" ? "" : " " + run.text(option), options.init_adapter->string(),
                                 has));
  };
  if (run.has("--rank") && said.rank != its.rank) refuse("--rank", fmt::format("has rank {}", its.rank));
  if (run.has("--alpha") && said.alpha != its.alpha) refuse("--alpha", fmt::format("has alpha {}", its.alpha));
  if (run.has("--rslora") && !its.rslora) refuse("--rslora", "scales by alpha / rank");
  if (!run.has("--target-modules")) return;
  LoRAConfig small{.rank = 1};
  small.set_targets(run.text("--target-modules"));
  if (LoRAAdapter::create(model, small, Key(0)).modules() != adapter.modules())
    refuse("--target-modules", fmt::format("has {}", fmt::join(its.target_modules, ",")));
}

namespace {

/// An option as TOML shows it, and as JSON does.
struct Setting {
  std::string_view key;
  std::string toml;
  Json json;
};

std::vector<Setting> settings(const Invocation& run, const TrainOptions& o) {
  std::vector<Setting> out;
  auto text = [&](std::string_view key, const std::string& value) {
    out.push_back({key, Json(value).dump(), value});  // JSON's strings are TOML's
  };
  auto other = [&](std::string_view key, auto value) { out.push_back({key, fmt::format("{}", value), value}); };
  auto given = [&](std::string_view key) {
    if (const auto value = run.maybe("--" + std::string(key))) text(key, *value);
  };
  text("model", run.text("--model"));
  given("data"), given("valid");
  text("output", o.output.string());
  given("init-adapter");
  if (!o.init_adapter) {  // an adapter brings its own
    other("rank", o.lora.rank), other("alpha", o.lora.alpha), other("rslora", o.lora.rslora);
    text("target-modules", run.maybe("--target-modules").value_or("all-linear"));
  }
  if (!o.init_adapter || o.init_dropout) other("dropout", o.lora.dropout);
  other("learning-rate", o.learning_rate);
  text("schedule", std::string(name_of(o.schedule)));
  other("warmup", o.warmup), other("weight-decay", o.weight_decay), other("max-grad-norm", o.max_grad_norm);
  other("batch-size", o.batch_size), other("accumulate", o.accumulate), other("max-length", o.max_length);
  if (o.steps) other("steps", *o.steps);
  else other("epochs", o.epochs);
  other("eval-every", o.eval_every), other("save-every", o.save_every), other("early-stop", o.early_stop);
  other("no-shuffle", !o.shuffle), other("packing", o.packing);
  text("train-on", o.train_on == TrainOn::all ? "all" : "answers");
  other("checkpointing", o.checkpointing), other("resume", o.resume);
  text("dtype", run.maybe("--dtype").value_or("auto"));
  text("device", run.maybe("--device").value_or("auto"));
  if (run.has("--threads")) other("threads", run.whole("--threads", 1));
  other("seed", o.seed);
  return out;
}

}  // namespace

std::string as_toml(const Invocation& run, const TrainOptions& o) {
  std::string out;
  for (const Setting& s : settings(run, o)) out += fmt::format("{} = {}\n", s.key, s.toml);
  return out;
}

Json as_event(const Invocation& run, const TrainOptions& o) {
  Json event = Json::object({{"event", "config"}});
  for (Setting& s : settings(run, o)) event.set(s.key, std::move(s.json));
  return event;
}

}  // namespace metal_candle::cli
