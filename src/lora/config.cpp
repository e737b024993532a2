// LoRAConfig: PEFT's adapter_config.json, and which modules it means.
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>

#include "lora/expression.h"
#include "metal_candle/error.hpp"
#include "metal_candle/lora.hpp"

namespace metal_candle {
namespace {

using lora::matches;

/// The name, or an end of it that begins behind a dot.
bool is_end_of(std::string_view name, std::string_view end) {
  if (end.empty() || !name.ends_with(end)) return false;
  return name.size() == end.size() || name[name.size() - end.size() - 1] == '.';
}
bool any_end(std::string_view name, const std::vector<std::string>& ends) {
  return std::any_of(ends.begin(), ends.end(), [&](const std::string& end) { return is_end_of(name, end); });
}

template <class T>
T by_pattern(const std::vector<std::pair<std::string, T>>& patterns, std::string_view module, T otherwise) {
  for (const auto& [pattern, value] : patterns)
    if (matches("(.*\\.)?(" + pattern + ")", module)) return value;
  return otherwise;
}

/// The number of a module's layer: of the first ".N." that has two names before it, or that stands behind one of the
/// patterns; -1 where there is none.
std::int64_t layer_of(std::string_view module, const std::vector<std::string>& patterns) {
  for (std::size_t dot = module.find('.'); dot != std::string_view::npos; dot = module.find('.', dot + 1)) {
    const std::size_t end = module.find('.', dot + 1);
    if (end == std::string_view::npos) break;
    const std::string_view digits = module.substr(dot + 1, end - dot - 1), before = module.substr(0, dot);
    std::int64_t layer = -1;
    const auto [rest, error] = std::from_chars(digits.data(), digits.data() + digits.size(), layer);
    if (error != std::errc() || rest != digits.data() + digits.size() || layer < 0) continue;
    if (patterns.empty() ? before.find('.') != std::string_view::npos
                         : std::any_of(patterns.begin(), patterns.end(),
                                       [&](const std::string& p) { return matches("(.*\\.)?(" + p + ")", before); }))
      return layer;
  }
  return -1;
}

// ---- reading --------------------------------------------------------------------------------------------------------

/// A string, or a list of them; `single` says which it was.
std::vector<std::string> names(const Json& value, bool& single) {
  single = value.is_string();
  if (single) return {std::string(value.as_string())};
  if (!value.is_array()) value.fail("a name or a list of names");
  std::vector<std::string> all;
  for (const Json& name : value.elements()) all.emplace_back(name.as_string());
  return all;
}

bool is_blank(const Json& value) {
  using Kind = Json::Kind;
  switch (value.kind()) {
    case Kind::null: return true;
    case Kind::boolean: return !value.as_bool();
    case Kind::string: return value.as_string().empty();
    case Kind::array:
    case Kind::object: return value.size() == 0;
    default: return false;
  }
}

// Keys that are read below, or say nothing about how the adapter computes.
constexpr std::array<std::string_view, 28> kHarmless{"r",
                                                     "lora_alpha",
                                                     "lora_dropout",
                                                     "use_rslora",
                                                     "target_modules",
                                                     "exclude_modules",
                                                     "rank_pattern",
                                                     "alpha_pattern",
                                                     "layers_to_transform",
                                                     "layers_pattern",
                                                     "modules_to_save",
                                                     "base_model_name_or_path",
                                                     "peft_type",
                                                     "task_type",
                                                     "auto_mapping",
                                                     "peft_version",
                                                     "revision",
                                                     "inference_mode",
                                                     "megatron_core",
                                                     "qalora_group_size",
                                                     "loftq_config",
                                                     "eva_config",
                                                     "corda_config",
                                                     "lora_ga_config",
                                                     "runtime_config",
                                                     "bias",
                                                     "init_lora_weights",
                                                     "fan_in_fan_out"};

void refuse_what_is_not_supported(const Json& config) {
  for (const JsonMember& m : config.items()) {
    if (std::find(kHarmless.begin(), kHarmless.end(), m.key) != kHarmless.end() || is_blank(m.value)) continue;
    m.value.fail("the default: \"" + std::string(m.key) + "\" is not supported, and would change what is computed");
  }
  if (const Json* bias = config.find_value("bias"); bias && bias->as_string() != "none")
    bias->fail("\"none\": trained biases are not supported");
  if (const Json* turned = config.find_value("fan_in_fan_out"); turned && turned->as_bool())
    turned->fail("false: weights stored as [in, out] are not supported");
  // These begin with another base than the file's user has.
  if (const Json* init = config.find_value("init_lora_weights"); init && init->is_string())
    for (const std::string_view changing : {"pissa", "olora", "corda", "loftq", "lora_ga"})
      if (init->as_string().starts_with(changing)) init->fail("an initialisation that leaves the base weights alone");
}

void read_patterns(const Json& config, LoRAConfig& c) {
  if (const Json* ranks = config.find_value("rank_pattern"))
    for (const JsonMember& m : ranks->items()) c.rank_pattern.emplace_back(m.key, m.value.positive());
  if (const Json* alphas = config.find_value("alpha_pattern"))
    for (const JsonMember& m : alphas->items()) c.alpha_pattern.emplace_back(m.key, m.value.as_double());
  if (const Json* layers = config.find_value("layers_to_transform")) {
    if (layers->is_integer()) c.layers_to_transform.push_back(layers->as_int(0, 1 << 20));
    else
      for (const Json& layer : layers->elements()) c.layers_to_transform.push_back(layer.as_int(0, 1 << 20));
  }
  bool single = false;
  if (const Json* patterns = config.find_value("layers_pattern")) c.layers_pattern = names(*patterns, single);
}

/// What is wrong with settings: PEFT's name of the one, and why.
struct Fault {
  const char* field;
  std::string why;
};

std::optional<Fault> fault_of_pattern(const char* field, const std::string& pattern) {
  try {
    lora::check_expression(pattern);
  } catch (const UserError& e) {
    return Fault{field, e.what()};
  }
  return std::nullopt;
}

template <class T, class Check>
std::optional<Fault> fault_of_patterns(const char* field, const std::vector<std::pair<std::string, T>>& patterns,
                                       Check&& is_good) {
  for (const auto& [pattern, value] : patterns) {
    if (!is_good(value)) return Fault{field, fmt::format("{} of {} for \"{}\"", field, value, pattern)};
    if (auto fault = fault_of_pattern(field, pattern)) return fault;
  }
  return std::nullopt;
}

std::optional<Fault> fault_of(const LoRAConfig& c) {
  constexpr std::int64_t kMostRank = 1 << 20;
  const auto is_rank = [](std::int64_t r) { return r >= 1 && r <= kMostRank; };
  const auto is_number = [](double x) { return std::isfinite(x); };
  if (!is_rank(c.rank)) return Fault{"r", fmt::format("a rank of {}; it must be from 1 to {}", c.rank, kMostRank)};
  if (!is_number(c.alpha)) return Fault{"lora_alpha", "an alpha that is no number"};
  if (!(c.dropout >= 0 && c.dropout < 1))
    return Fault{"lora_dropout", fmt::format("a dropout of {}; it must lie in [0, 1)", c.dropout)};
  if (c.target_modules.empty() && c.modules_to_save.empty()) return Fault{"target_modules", "no target modules"};
  if (auto fault = fault_of_patterns("rank_pattern", c.rank_pattern, is_rank)) return fault;
  if (auto fault = fault_of_patterns("alpha_pattern", c.alpha_pattern, is_number)) return fault;
  std::optional<Fault> fault;
  if (c.target_regex) fault = fault_of_pattern("target_modules", c.target_modules.at(0));
  if (!fault && c.exclude_regex) fault = fault_of_pattern("exclude_modules", c.exclude_modules.at(0));
  for (const std::string& pattern : c.layers_pattern)
    if (!fault) fault = fault_of_pattern("layers_pattern", pattern);
  return fault;
}

/// Expressions are tried when the file is read, so that the error names the file.
void check_read(const LoRAConfig& c, const Json& config) {
  if (const auto fault = fault_of(c))
    throw FileError(FileFault::bad, config.file(), fault->field, "a setting that makes sense", fault->why);
}

Json number(double value) {
  const bool whole = std::abs(value) < 1e15 && value == std::floor(value);
  return whole ? Json(static_cast<std::int64_t>(value)) : Json(value);
}

Json list_or_null(const std::vector<std::string>& names, bool single = false) {
  if (names.empty()) return nullptr;
  if (single) return names[0];
  Json list = Json::array();
  for (const std::string& name : names) list.push_back(name);
  return list;
}

}  // namespace

LoRAConfig LoRAConfig::from_json(const Json& config) {
  const std::string_view type = config.at("peft_type").as_string();
  if (type != "LORA") config.at("peft_type").fail("\"LORA\"");
  refuse_what_is_not_supported(config);
  LoRAConfig c;
  c.alpha = 8;  // PEFT's, where the file is silent
  if (const Json* r = config.find_value("r")) c.rank = r->positive();
  if (const Json* alpha = config.find_value("lora_alpha")) c.alpha = alpha->as_double();
  if (const Json* dropout = config.find_value("lora_dropout")) c.dropout = dropout->as_double();
  if (const Json* rs = config.find_value("use_rslora")) c.rslora = rs->as_bool();
  c.target_modules = names(config.at("target_modules"), c.target_regex);
  if (c.target_regex && c.target_modules[0] == "all-linear") c.target_regex = false;
  if (const Json* out = config.find_value("exclude_modules")) c.exclude_modules = names(*out, c.exclude_regex);
  bool single = false;
  if (const Json* whole = config.find_value("modules_to_save")) c.modules_to_save = names(*whole, single);
  if (const Json* base = config.find_value("base_model_name_or_path")) c.base_model = base->as_string();
  read_patterns(config, c);
  check_read(c, config);
  return c;
}

Json LoRAConfig::to_json() const {
  Json ranks = Json::object(), alphas = Json::object(), layers = Json::array();
  for (const auto& [pattern, r] : rank_pattern) ranks.set(pattern, r);
  for (const auto& [pattern, a] : alpha_pattern) alphas.set(pattern, number(a));
  for (const std::int64_t layer : layers_to_transform) layers.push_back(layer);
  const bool one = target_regex || (target_modules.size() == 1 && target_modules[0] == "all-linear");
  return Json::object({{"alpha_pattern", alphas},
                       {"auto_mapping", nullptr},
                       {"base_model_name_or_path", base_model.empty() ? Json() : Json(base_model)},
                       {"bias", "none"},
                       {"exclude_modules", list_or_null(exclude_modules, exclude_regex)},
                       {"fan_in_fan_out", false},
                       {"inference_mode", true},
                       {"init_lora_weights", true},
                       {"layers_pattern", list_or_null(layers_pattern)},
                       {"layers_to_transform", layers_to_transform.empty() ? Json() : layers},
                       {"lora_alpha", number(alpha)},
                       {"lora_bias", false},
                       {"lora_dropout", dropout},
                       {"modules_to_save", list_or_null(modules_to_save)},
                       {"peft_type", "LORA"},
                       {"r", rank},
                       {"rank_pattern", ranks},
                       {"revision", nullptr},
                       {"target_modules", list_or_null(target_modules, one)},
                       {"task_type", "CAUSAL_LM"},
                       {"use_dora", false},
                       {"use_rslora", rslora}});
}

void LoRAConfig::set_targets(std::string_view list) {
  target_regex = list.find_first_of("*+?()[]{}|^$\\") != std::string_view::npos;
  target_modules.clear();
  if (target_regex) {
    target_modules.emplace_back(list);
    return;
  }
  while (!list.empty()) {
    const std::size_t comma = std::min(list.find(','), list.size());
    std::string_view name = list.substr(0, comma);
    while (name.starts_with(' ')) name.remove_prefix(1);
    while (name.ends_with(' ')) name.remove_suffix(1);
    if (!name.empty()) target_modules.emplace_back(name);
    list.remove_prefix(std::min(list.size(), comma + 1));
  }
}

void LoRAConfig::check() const {
  if (const auto fault = fault_of(*this)) throw UserError(ErrorKind::argument, "LoRA: " + fault->why);
}

// Unlike target_modules these are ends of the name wherever they begin: "norm" is "post_attention_layernorm" too.
bool LoRAConfig::saves(std::string_view module) const {
  return std::any_of(modules_to_save.begin(), modules_to_save.end(),
                     [&](const std::string& end) { return !end.empty() && module.ends_with(end); });
}

bool LoRAConfig::targets(std::string_view module, bool linear_not_head) const {
  if (!exclude_modules.empty() &&
      (exclude_regex ? matches(exclude_modules[0], module) : any_end(module, exclude_modules)))
    return false;
  if (saves(module)) return false;
  if (target_regex) return matches(target_modules.at(0), module);
  if (target_modules.size() == 1 && target_modules[0] == "all-linear") return linear_not_head;
  if (std::find(target_modules.begin(), target_modules.end(), module) != target_modules.end()) return true;
  if (!any_end(module, target_modules)) return false;
  if (layers_to_transform.empty()) return true;
  const std::int64_t layer = layer_of(module, layers_pattern);
  return std::find(layers_to_transform.begin(), layers_to_transform.end(), layer) != layers_to_transform.end();
}

std::int64_t LoRAConfig::rank_of(std::string_view module) const { return by_pattern(rank_pattern, module, rank); }

double LoRAConfig::scale_of(std::string_view module) const {
  const auto r = static_cast<double>(rank_of(module));
  return by_pattern(alpha_pattern, module, alpha) / (rslora ? std::sqrt(r) : r);
}

}  // namespace metal_candle
