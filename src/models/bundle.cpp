// A model's folder: weights, tokenizer, template and generation_config.json; or one GGUF file that has all of it.
#include "metal_candle/bundle.hpp"

#include <algorithm>
#include <fstream>
#include <iterator>

#include "metal_candle/error.hpp"
#include "metal_candle/gguf.hpp"
#include "metal_candle/json.hpp"

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

std::optional<ChatTemplate> folder_template(const fs::path& folder) {
  const std::optional<Json> config = load_if_there(folder / "tokenizer_config.json");
  const auto source = template_source(folder, config);
  if (!source) return std::nullopt;
  return ChatTemplate(source->first, token_text(config, "bos_token"), token_text(config, "eos_token"), source->second);
}

std::optional<ChatTemplate> gguf_template(const Gguf& file, const Tokenizer& tokenizer) {
  const GgufValue* source = file.find("tokenizer.chat_template");
  if (!source) return std::nullopt;
  const auto text = [&](const char* key) -> std::string {
    const GgufValue* id = file.find(key);
    if (!id) return {};
    return tokenizer.id_to_token(static_cast<std::int32_t>(id->as_int(0, tokenizer.vocab_size() - 1)));
  };
  return ChatTemplate(source->as_string(), text("tokenizer.ggml.bos_token_id"), text("tokenizer.ggml.eos_token_id"),
                      file.path().string() + ": tokenizer.chat_template");
}

// ---- generation -----------------------------------------------------------------------------------------------------

GenerationDefaults folder_defaults(const fs::path& folder, const ModelConfig& config) {
  GenerationDefaults d{.end_tokens = config.eos};
  const std::optional<Json> json = load_if_there(folder / "generation_config.json");
  if (!json) return d;
  const auto real = [&](const char* key) {
    const Json* v = json->find_value(key);
    return v ? std::optional(v->as_double()) : std::nullopt;
  };
  if (const Json* sample = json->find_value("do_sample")) d.sample = sample->as_bool();
  d.temperature = real("temperature");
  d.top_p = real("top_p");
  d.min_p = real("min_p");
  d.repetition_penalty = real("repetition_penalty");
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

/// GGUF files often name one end token where a chat has another.
GenerationDefaults gguf_defaults(const Tokenizer& tokenizer, const ModelConfig& config) {
  GenerationDefaults d{.end_tokens = config.eos};
  for (const char* text : {"<|im_end|>", "<|eot_id|>", "<end_of_turn>"}) {
    const auto id = tokenizer.token_to_id(text);
    if (id && tokenizer.is_special(*id) &&
        std::find(d.end_tokens.begin(), d.end_tokens.end(), *id) == d.end_tokens.end())
      d.end_tokens.push_back(*id);
  }
  return d;
}

}  // namespace

Bundle Bundle::load(const fs::path& path, const LoadOptions& options) {
  Model model = Model::load(path, options);
  Tokenizer tokenizer = Tokenizer::load(path);
  if (fs::is_directory(path)) {
    auto chat = folder_template(path);
    GenerationDefaults defaults = folder_defaults(path, model.config());
    return {std::move(model), std::move(tokenizer), std::move(chat), std::move(defaults)};
  }
  auto chat = gguf_template(Gguf::open(path), tokenizer);
  GenerationDefaults defaults = gguf_defaults(tokenizer, model.config());
  return {std::move(model), std::move(tokenizer), std::move(chat), std::move(defaults)};
}

}  // namespace metal_candle
