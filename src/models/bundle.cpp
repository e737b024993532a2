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

/// What the model's files call its special tokens. special_tokens_map.json counts where tokenizer_config.json is silent.
Json special_tokens(const fs::path& folder, const std::optional<Json>& config) {
  const std::optional<Json> map = load_if_there(folder / "special_tokens_map.json");
  Json tokens = Json::object();
  for (const char* name :
       {"bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"}) {
    const Json* token = config ? config->find_value(name) : nullptr;
    if (!token && map) token = map->find_value(name);
    if (token) tokens.set(name, (token->is_object() ? token->at("content") : *token).as_string());
  }
  return tokens;
}

std::string read_text(const fs::path& path) {
  std::ifstream in(path, std::ios::binary);
  if (!in) throw FileError(FileFault::missing, path.string(), "", "a chat template", "nothing that can be read");
  return {std::istreambuf_iterator<char>(in), {}};
}

/// Of several with names, the one for tools and the one for everything else. A list of {name, template}, or an object.
void set_named(const Json& named, ChatTemplateSource& source) {
  const auto take = [&](std::string_view name, const Json& text) {
    if (name == "default") source.text = text.as_string();
    if (name == "tool_use") source.with_tools = text.as_string();
  };
  if (named.is_object())
    for (const JsonMember& member : named.items()) take(member.key, member.value);
  else
    for (const Json& one : named.elements()) take(one.at("name").as_string(), one.at("template"));
}

std::optional<ChatTemplateSource> template_source(const fs::path& folder, const std::optional<Json>& config) {
  ChatTemplateSource source;
  const fs::path file = folder / "chat_template.jinja", tools = folder / "additional_chat_templates/tool_use.jinja";
  if (fs::exists(file)) {
    source = {.text = read_text(file), .origin = file.string()};
    if (fs::exists(tools)) source.with_tools = read_text(tools);
    return source;
  }
  const Json* text = config ? config->find_value("chat_template") : nullptr;
  if (!text) return std::nullopt;
  source.origin = (folder / "tokenizer_config.json").string() + ": chat_template";
  if (text->is_string()) source.text = text->as_string();
  else set_named(*text, source);
  return source.text.empty() && !text->is_string() ? std::nullopt : std::optional(source);
}

/// A model whose template cannot be read still goes on from prompts: what is wrong is kept until somebody wants to chat.
void set_template(Bundle& bundle, const ChatTemplateSource& source) {
  try {
    bundle.chat.emplace(source);
  } catch (const TemplateError& e) {
    bundle.chat_fault = e;
  }
}

void add_folder_template(Bundle& bundle, const fs::path& folder) {
  const std::optional<Json> config = load_if_there(folder / "tokenizer_config.json");
  Json tokens = special_tokens(folder, config);
  if (const Json* eos = tokens.find_value("eos_token"))
    bundle.end_of_text = bundle.tokenizer.token_to_id(eos->as_string());
  std::optional<ChatTemplateSource> source = template_source(folder, config);
  if (!source) return;
  source->tokens = std::move(tokens);
  set_template(bundle, *source);
}

void add_gguf_template(Bundle& bundle, const Gguf& file) {
  const Tokenizer& tokenizer = bundle.tokenizer;
  const GgufValue* text = file.find("tokenizer.chat_template");
  if (!text) return;
  ChatTemplateSource source{.text = std::string(text->as_string()),
                            .origin = file.path().string() + ": tokenizer.chat_template",
                            .tokens = Json::object()};
  if (const GgufValue* tools = file.find("tokenizer.chat_template.tool_use")) source.with_tools = tools->as_string();
  for (const auto& [name, key] :
       {std::pair("bos_token", "tokenizer.ggml.bos_token_id"), std::pair("eos_token", "tokenizer.ggml.eos_token_id")})
    if (const GgufValue* id = file.find(key))
      source.tokens.set(name,
                        tokenizer.id_to_token(static_cast<std::int32_t>(id->as_int(0, tokenizer.vocab_size() - 1))));
  set_template(bundle, source);
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

/// Whoever generates nothing has no use for it: what is wrong is kept until somebody does.
void add_folder_defaults(Bundle& bundle, const fs::path& folder) {
  try {
    bundle.generation = folder_defaults(folder, bundle.model.config());
  } catch (const FileError& e) {
    bundle.generation.end_tokens = bundle.model.config().eos;
    bundle.generation_fault = e;
  }
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

const GenerationDefaults& Bundle::generation_defaults() const {
  if (generation_fault) throw *generation_fault;
  return generation;
}

Bundle Bundle::load(const fs::path& path, const LoadOptions& options) {
  // The tokenizer is one thread's work, while most of the weights' time is memory's.
  std::future<Tokenizer> reading = std::async(std::launch::async, [&path] { return Tokenizer::load(path); });
  Model model = Model::load(path, options);
  Tokenizer tokenizer = reading.get();
  const bool folder = fs::is_directory(path);
  Bundle bundle{std::move(model), std::move(tokenizer), std::nullopt, {}};
  if (folder) {
    add_folder_defaults(bundle, path);
    add_folder_template(bundle, path);
  } else {
    bundle.generation.end_tokens = gguf_end_tokens(bundle.tokenizer, bundle.model.config());
    add_gguf_template(bundle, Gguf::open(path));
  }
  return bundle;
}

}  // namespace metal_candle
