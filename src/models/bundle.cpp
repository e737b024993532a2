// A model's folder: weights, tokenizer, template and generation_config.json; or one GGUF file that has all of it.
#include "metal_candle/bundle.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <fstream>
#include <future>
#include <iterator>

#include "metal_candle/error.hpp"
#include "metal_candle/gguf.hpp"
#include "metal_candle/json.hpp"
#include "models/end_tokens.h"

namespace metal_candle {
namespace {

namespace fs = std::filesystem;

std::optional<Json> load_if_there(const fs::path& path) {
  return fs::exists(path) ? std::optional(Json::load(path)) : std::nullopt;
}

// ---- chat templates -------------------------------------------------------------------------------------------------

/// A token of tokenizer_config.json: a string, or an object with its content.
std::string token_text(const std::optional<Json>& config, const char* key) {
  const Json* token = config ? config->find_value(key) : nullptr;
  if (!token) return {};
  return std::string((token->is_object() ? token->at("content") : *token).as_string());
}

std::string read_text(const fs::path& path) {
  std::ifstream in(path, std::ios::binary);
  if (!in) throw FileError(FileFault::missing, path.string(), "", "a chat template", "nothing that can be read");
  return {std::istreambuf_iterator<char>(in), {}};
}

/// The source and its place, for messages.
std::optional<std::pair<std::string, std::string>> template_source(const fs::path& folder,
                                                                   const std::optional<Json>& config) {
  const fs::path file = folder / "chat_template.jinja";
  if (fs::exists(file)) return std::pair(read_text(file), file.string());
  const Json* source = config ? config->find_value("chat_template") : nullptr;
  if (!source) return std::nullopt;
  const std::string origin = (folder / "tokenizer_config.json").string() + ": chat_template";
  if (!source->is_array()) return std::pair(std::string(source->as_string()), origin);
  for (const Json& named : source->elements())
    if (named.at("name").as_string() == "default")
      return std::pair(std::string(named.at("template").as_string()), origin);
  return std::nullopt;
}

/// A model whose template cannot be read still goes on from prompts: what is wrong is kept until somebody wants to chat.
void set_template(Bundle& bundle, std::string_view source, const std::string& bos, const std::string& eos,
                  const std::string& origin) {
  try {
    bundle.chat = ChatTemplate(source, bos, eos, origin);
  } catch (const TemplateError& e) {
    bundle.chat_fault = e;
  }
}

void add_folder_template(Bundle& bundle, const fs::path& folder) {
  const std::optional<Json> config = load_if_there(folder / "tokenizer_config.json");
  const auto source = template_source(folder, config);
  if (!source) return;
  set_template(bundle, source->first, token_text(config, "bos_token"), token_text(config, "eos_token"), source->second);
}

void add_gguf_template(Bundle& bundle, const Gguf& file) {
  const Tokenizer& tokenizer = bundle.tokenizer;
  const GgufValue* source = file.find("tokenizer.chat_template");
  if (!source) return;
  const auto text = [&](const char* key) -> std::string {
    const GgufValue* id = file.find(key);
    if (!id) return {};
    return tokenizer.id_to_token(static_cast<std::int32_t>(id->as_int(0, tokenizer.vocab_size() - 1)));
  };
  set_template(bundle, source->as_string(), text("tokenizer.ggml.bos_token_id"), text("tokenizer.ggml.eos_token_id"),
               file.path().string() + ": tokenizer.chat_template");
}

// ---- generation -----------------------------------------------------------------------------------------------------

GenerationDefaults folder_defaults(const fs::path& folder, const ModelConfig& config) {
  GenerationDefaults d{.end_tokens = config.eos};
  const std::optional<Json> json = load_if_there(folder / "generation_config.json");
  if (!json) return d;
  const auto real = [&](const char* key, double least, double most) -> std::optional<double> {
    const Json* v = json->find_value(key);
    if (!v) return std::nullopt;
    const double number = v->as_double();
    if (!(number >= least && number <= most)) v->fail(fmt::format("a number from {} to {}", least, most));
    return number;
  };
  if (const Json* sample = json->find_value("do_sample")) d.sample = sample->as_bool();
  d.temperature = real("temperature", 0, 1e6);
  d.top_p = real("top_p", 0, 1);
  d.min_p = real("min_p", 0, 1);
  d.repetition_penalty = real("repetition_penalty", 1e-3, 1e3);
  if (const Json* k = json->find_value("top_k")) d.top_k = static_cast<int>(k->as_int(0, 0x7fffffff));
  const auto token = [](const Json& id) { return static_cast<std::int32_t>(id.as_int(0, 0x7fffffff)); };
  if (const Json* eos = json->find_value("eos_token_id")) {
    d.end_tokens.clear();
    if (eos->is_array())
      for (const Json& id : eos->elements()) d.end_tokens.push_back(token(id));
    else d.end_tokens.push_back(token(*eos));
  }
  return d;
}

}  // namespace

std::vector<std::int32_t> gguf_end_tokens(const Tokenizer& tokenizer, const ModelConfig& config) {
  std::vector<std::int32_t> ids = config.eos;
  for (const char* text : {"<|im_end|>", "<|eot_id|>", "<end_of_turn>"}) {
    const auto id = tokenizer.token_to_id(text);
    if (id && tokenizer.is_special(*id) && std::find(ids.begin(), ids.end(), *id) == ids.end()) ids.push_back(*id);
  }
  return ids;
}

const ChatTemplate& Bundle::chat_template() const {
  if (chat_fault) throw *chat_fault;
  if (!chat) throw FileError(FileFault::bad, "the model", "chat_template", "a chat template", "none");
  return *chat;
}

Bundle Bundle::load(const fs::path& path, const LoadOptions& options) {
  // The tokenizer is one thread's work, while most of the weights' time is memory's.
  std::future<Tokenizer> reading = std::async(std::launch::async, [&path] { return Tokenizer::load(path); });
  Model model = Model::load(path, options);
  Tokenizer tokenizer = reading.get();
  const bool folder = fs::is_directory(path);
  GenerationDefaults defaults = folder ? folder_defaults(path, model.config())
                                       : GenerationDefaults{.end_tokens = gguf_end_tokens(tokenizer, model.config())};
  Bundle bundle{std::move(model), std::move(tokenizer), std::nullopt, std::move(defaults)};
  folder ? add_folder_template(bundle, path) : add_gguf_template(bundle, Gguf::open(path));
  return bundle;
}

}  // namespace metal_candle
