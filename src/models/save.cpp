// Model folders, written.
#include "io/files.h"
#include "metal_candle/bundle.hpp"
#include "metal_candle/error.hpp"
#include "metal_candle/gguf.hpp"
#include "metal_candle/json.hpp"
#include "metal_candle/safetensors.hpp"
#include "models/end_tokens.h"

namespace metal_candle {

namespace {

namespace fs = std::filesystem;

/// What transformers may want beside the weights.
constexpr const char* kCopied[] = {
    "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json",     "vocab.json",
    "merges.txt",     "tokenizer.model",       "chat_template.jinja",     "generation_config.json"};

constexpr const char* kMoreTemplates = "additional_chat_templates";

void copy_text_files(const fs::path& from, const fs::path& to) {
  for (const char* name : kCopied)
    if (fs::exists(from / name)) io::write_file(to / name, io::read_file(from / name));
  if (!fs::is_directory(from / kMoreTemplates)) return;
  fs::create_directory(to / kMoreTemplates);
  for (const fs::directory_entry& file : fs::directory_iterator(from / kMoreTemplates))
    if (file.path().extension() == ".jinja")
      io::write_file(to / kMoreTemplates / file.path().filename(), io::read_file(file.path()));
}

/// A template, or the list of all where there are more, each under its name.
Json chat_templates(const Gguf& file, const GgufValue& plain) {
  constexpr std::string_view kMore = "tokenizer.chat_template.";
  Json list = Json::array({Json::object({{"name", "default"}, {"template", plain.as_string()}})});
  for (const GgufValue& value : file.values())
    if (value.key().starts_with(kMore))
      list.push_back(Json::object({{"name", value.key().substr(kMore.size())}, {"template", value.as_string()}}));
  return list.size() > 1 ? list : Json(plain.as_string());
}

/// The text side of a GGUF file as the files of a folder.
void write_text_files(const Gguf& file, const fs::path& to) {
  io::write_file(to / "tokenizer.json", tokenizer_json(file).dump());
  Json config = Json::object({{"tokenizer_class", "PreTrainedTokenizerFast"}, {"clean_up_tokenization_spaces", false}});
  const auto tokens = file.at("tokenizer.ggml.tokens").strings();
  for (const auto& [name, key] :
       {std::pair("bos_token", "tokenizer.ggml.bos_token_id"), std::pair("eos_token", "tokenizer.ggml.eos_token_id")})
    if (const GgufValue* id = file.find(key))
      config.set(name, tokens[static_cast<std::size_t>(id->as_int(0, static_cast<std::int64_t>(tokens.size()) - 1))]);
  if (const GgufValue* chat = file.find("tokenizer.chat_template"))
    config.set("chat_template", chat_templates(file, *chat));
  io::write_file(to / "tokenizer_config.json", config.dump(2) + "\n");
}

/// Where answers begin and end, which transformers would else take from config.json alone.
void write_generation_config(const Gguf& file, const ModelConfig& config, const fs::path& to) {
  Json json = Json::object();
  if (const GgufValue* id = file.find("tokenizer.ggml.bos_token_id"))
    json.set("bos_token_id", id->as_int(0, 0x7fffffff));
  Json ends = Json::array();
  for (const std::int32_t id : gguf_end_tokens(Tokenizer::load(file.path()), config)) ends.push_back(id);
  if (ends.size() > 0) json.set("eos_token_id", std::move(ends));
  if (const GgufValue* id = file.find("tokenizer.ggml.padding_token_id"))
    json.set("pad_token_id", id->as_int(0, 0x7fffffff));
  io::write_file(to / "generation_config.json", json.dump(2) + "\n");
}

}  // namespace

void save_model(const fs::path& folder, const Model& model, const fs::path& source,
                const std::function<bool()>& stopped) {
  io::AtomicFolder output(folder);
  io::write_file(output.path() / "config.json", model.config().to_json(model.dtype()).dump(2) + "\n");
  if (fs::is_directory(source)) {
    copy_text_files(source, output.path());
  } else {
    const Gguf file = Gguf::open(source);
    write_text_files(file, output.path());
    write_generation_config(file, model.config(), output.path());
  }
  std::vector<TensorSource> tensors;
  for (const auto& [path, tensor] : model.parameters())
    tensors.push_back({path, tensor.dtype(), tensor.shape(), [&, t = tensor]() mutable {
                         if (stopped && stopped()) throw FileError(FileFault::transfer, folder.string(), "", "stopped");
                         return t.eval();
                       }});
  save_safetensors(output.path() / "model.safetensors", std::move(tensors), {{"format", "pt"}});
  output.commit();
}

}  // namespace metal_candle
