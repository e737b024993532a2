// metal-candle inspect: what is this file or folder, and what is in it?
#include <fmt/format.h>

#include <fstream>

#include "cli/commands.h"
#include "cli/report.h"
#include "metal_candle/error.hpp"
#include "metal_candle/gguf.hpp"
#include "metal_candle/json.hpp"
#include "metal_candle/model.hpp"
#include "metal_candle/safetensors.hpp"
#include "metal_candle/tokenizer.hpp"

namespace metal_candle::cli {

namespace {

namespace fs = std::filesystem;

struct Listed {
  std::string name, type;
  std::vector<std::int64_t> shape;
  std::uint64_t bytes = 0;
};

struct Finding {
  std::string kind;
  std::vector<std::pair<std::string, Json>> facts = {};
  std::vector<Listed> tensors = {};
};

std::vector<Listed> listed(const SafeTensors& file) {
  std::vector<Listed> out;
  for (const TensorInfo& t : file.tensors()) {
    Listed one{t.name, std::string(t.format), {}, t.bytes};
    for (const std::int64_t extent : t.shape.dims()) one.shape.push_back(extent);
    out.push_back(std::move(one));
  }
  return out;
}

Finding inspect_gguf(const fs::path& path) {
  const Gguf file = Gguf::open(path);
  Finding found{.kind = "gguf"};
  found.facts.emplace_back("metadata", file.metadata(16));
  for (const GgufTensor& t : file.tensors()) {
    Listed one{std::string(t.name), std::string(t.encoding), {}, t.bytes};
    for (const std::int64_t extent : t.shape.dims()) one.shape.push_back(extent);
    found.tensors.push_back(std::move(one));
  }
  return found;
}

Finding inspect_safetensors(const fs::path& path) {
  const SafeTensors file = SafeTensors::open(path);
  Finding found{.kind = "safetensors", .tensors = listed(file)};
  Json metadata = Json::object();
  for (const auto& [key, value] : file.metadata()) metadata.set(key, value);
  found.facts.emplace_back("metadata", std::move(metadata));
  return found;
}

void add_tensors(const fs::path& path, Finding& found) {
  if (fs::exists(path)) found.tensors = listed(SafeTensors::open(path));
}

Finding inspect_adapter(const fs::path& folder) {
  const Json config = Json::load(folder / "adapter_config.json");
  Finding found{.kind = "adapter"};
  for (const char* key : {"peft_type", "base_model_name_or_path", "r", "lora_alpha", "lora_dropout", "use_rslora",
                          "target_modules", "modules_to_save", "fine_tune_type", "lora_parameters", "num_layers"})
    if (const Json* value = config.find_value(key)) found.facts.emplace_back(key, *value);
  add_tensors(folder / "adapter_model.safetensors", found);
  add_tensors(folder / "adapters.safetensors", found);
  return found;
}

/// Whether it is a language model that this library runs, and why not.
void add_verdict(const Json& config, Finding& found) {
  try {
    ModelConfig::from_json(config);
    found.facts.emplace_back("supported", true);
  } catch (const UserError& e) {
    found.facts.emplace_back("supported", false);
    found.facts.emplace_back("reason", e.what());
  }
}

/// "Transformer", "Pooling" .. of sentence-transformers' "sentence_transformers.models.Transformer" ..
Json module_names(const fs::path& file) {
  Json names = Json::array();
  const Json modules = Json::load(file);
  for (const Json& module : modules.elements()) {
    const std::string_view type = module.at("type").as_string();
    names.push_back(std::string(type.substr(type.rfind('.') + 1)));
  }
  return names;
}

Finding inspect_model(const fs::path& folder) {
  const Json json = Json::load(folder / "config.json");
  const bool embeds = fs::exists(folder / "modules.json");
  Finding found{.kind = embeds ? "embedding model" : "model"};
  for (const char* key : {"model_type", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
                          "num_key_value_heads", "head_dim", "vocab_size", "max_position_embeddings"})
    if (const Json* value = json.find_value(key)) found.facts.emplace_back(key, *value);
  if (embeds) found.facts.emplace_back("modules", module_names(folder / "modules.json"));
  else add_verdict(json, found);
  for (const char* name : {"tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "generation_config.json"})
    found.facts.emplace_back(name, fs::exists(folder / name));
  if (fs::exists(folder / "model.safetensors") || fs::exists(folder / "model.safetensors.index.json"))
    found.tensors = listed(SafeTensors::open(folder));
  return found;
}

Finding inspect_checkpoint(const fs::path& folder) {
  const Json state = Json::load(folder / "state.json");
  Finding found{.kind = "checkpoint"};
  for (const char* key : {"progress", "made_by"})
    if (const Json* value = state.find_value(key)) found.facts.emplace_back(key, *value);
  const Json* identity = state.find_value("identity");
  if (const Json* options = identity ? identity->find_value("options") : nullptr)
    found.facts.emplace_back("options", *options);
  add_tensors(folder / "adapter_model.safetensors", found);
  return found;
}

Finding inspect_folder(const fs::path& folder) {
  if (fs::exists(folder / "state.json")) return inspect_checkpoint(folder);
  if (fs::exists(folder / "adapter_config.json")) return inspect_adapter(folder);
  if (fs::exists(folder / "config.json")) return inspect_model(folder);
  throw FileError(FileFault::bad, folder.string(), "",
                  "a model (config.json), an adapter (adapter_config.json) or a checkpoint (state.json)",
                  "a folder with none of these");
}

Finding inspect_tokenizer(const fs::path& path) {
  const Json json = Json::load(path);
  if (!json.is_object() || !json.find("model"))
    throw FileError(FileFault::bad, path.string(), "", "a .gguf, a .safetensors, a tokenizer.json or a folder",
                    "other JSON");
  const Tokenizer tokenizer = Tokenizer::load(path);
  Finding found{.kind = "tokenizer"};
  if (const Json* type = json.at("model").find_value("type")) found.facts.emplace_back("model", *type);
  found.facts.emplace_back("vocabulary", tokenizer.vocab_size());
  return found;
}

Finding inspect_path(const fs::path& path) {
  std::error_code error;
  if (!fs::exists(path, error)) throw FileError(FileFault::missing, path.string(), "", "a file or folder", "nothing");
  if (fs::is_directory(path)) return inspect_folder(path);
  if (!fs::is_regular_file(path))
    throw FileError(FileFault::bad, path.string(), "", "a regular file or a folder", "neither");
  std::ifstream file(path, std::ios::binary);
  char magic[4] = {};
  file.read(magic, 4);
  if (std::string_view(magic, 4) == "GGUF" || path.extension() == ".gguf") return inspect_gguf(path);
  if (path.extension() == ".safetensors" || path.string().ends_with(".safetensors.index.json"))
    return inspect_safetensors(path);
  if (path.extension() == ".json") return inspect_tokenizer(path);
  throw FileError(FileFault::bad, path.string(), "", "a .gguf, a .safetensors, a tokenizer.json or a folder",
                  "none of these");
}

std::string shape_text(const std::vector<std::int64_t>& shape) { return fmt::format("[{}]", fmt::join(shape, ", ")); }

struct Totals {
  std::uint64_t parameters = 0, bytes = 0;
  std::map<std::string, std::uint64_t> by_type = {};
};

Totals totals(const std::vector<Listed>& tensors) {
  Totals all;
  for (const Listed& t : tensors) {
    std::uint64_t count = 1;
    for (const std::int64_t extent : t.shape) count *= static_cast<std::uint64_t>(extent);
    all.parameters += count;
    all.bytes += t.bytes;
    all.by_type[t.type] += t.bytes;
  }
  return all;
}

void write_json(const fs::path& path, const Finding& found) {
  const Totals all = totals(found.tensors);
  Json event = Json::object({{"event", "result"}, {"path", path.string()}, {"kind", found.kind}});
  for (const auto& [key, value] : found.facts) event.set(key, value);
  event.set("parameters", all.parameters);
  event.set("bytes", all.bytes);
  Json tensors = Json::array();
  for (const Listed& t : found.tensors) {
    Json shape = Json::array();
    for (const std::int64_t extent : t.shape) shape.push_back(extent);
    tensors.push_back(Json::object({{"name", t.name}, {"dtype", t.type}, {"shape", shape}, {"bytes", t.bytes}}));
  }
  event.set("tensors", std::move(tensors));
  write_event(event);
}

void write_people(const Invocation& run, const fs::path& path, const Finding& found) {
  std::string out = fmt::format("{}: {}\n", path.string(), found.kind);
  auto line = [&](std::string_view key, const Json& value) {
    std::string text = value.is_string() ? std::string(value.as_string()) : value.dump();
    for (char& c : text)
      if (static_cast<unsigned char>(c) < ' ') c = ' ';
    if (text.size() > 100) text = text.substr(0, 97) + "...";
    out += fmt::format("  {:<40} {}\n", key, text);
  };
  for (const auto& [key, value] : found.facts) {
    if (value.is_object())
      for (const JsonMember& member : value.items()) line(member.key, member.value);
    else line(key, value);
  }
  const Totals all = totals(found.tensors);
  if (!found.tensors.empty()) {
    const std::string count = all.parameters < 100'000
                                  ? fmt::format("{}", all.parameters)
                                  : fmt::format("{:.1f} M", static_cast<double>(all.parameters) / 1e6);
    out += fmt::format("  {} tensors, {} parameters, {}:", found.tensors.size(), count, size_text(all.bytes));
    for (const auto& [type, bytes] : all.by_type) out += fmt::format(" {} {}", type, size_text(bytes));
    out += '\n';
  }
  if (run.has("--tensors"))
    for (const Listed& t : found.tensors)
      out += fmt::format("  {:<60} {:<6} {:<20} {}\n", t.name, t.type, shape_text(t.shape), size_text(t.bytes));
  write_text(out);
}

}  // namespace

int inspect(const Invocation& run) {
  const fs::path path = run.positional();
  const Finding found = inspect_path(path);
  if (run.json()) write_json(path, found);
  else write_people(run, path, found);
  return kDone;
}

}  // namespace metal_candle::cli
