// Everything that lies in a model's folder or GGUF file: weights, tokenizer, chat template, how to generate.
//
//   auto bundle = mc::Bundle::load("SmolLM2-135M-Instruct");
//   mc::Generator generator(bundle);
//   std::string prompt = bundle.chat_template().render(
//       mc::Json::parse(R"([{"role": "user", "content": "Hello"}])", "prompt"));
//   // The template wrote the special tokens, so none are added.
//   std::cout << generator.generate(prompt, {.max_tokens = 64}, {}, /*add_special_tokens=*/false).text;
#pragma once

#include <filesystem>
#include <functional>
#include <optional>
#include <vector>

#include "metal_candle/chat_template.hpp"
#include "metal_candle/error.hpp"
#include "metal_candle/model.hpp"
#include "metal_candle/tokenizer.hpp"

namespace metal_candle {

/// What generation_config.json recommends; what it leaves out is empty. `recommended_sampling` makes options of it.
struct GenerationDefaults {
  bool sample = false;  // else greedy, whatever the numbers
  std::optional<double> temperature, top_p, min_p, repetition_penalty;
  std::optional<int> top_k;
  std::vector<std::int32_t> end_tokens;  // any of these ends an answer; from config.json where nothing else says
};

struct Bundle {
  Model model;
  Tokenizer tokenizer;
  std::optional<ChatTemplate>
      chat;  // chat_template.jinja, or what tokenizer_config.json has; of several the "default", and "tool_use" with tools
  GenerationDefaults generation;
  std::optional<std::int32_t> end_of_text = {};    // the tokenizer's eos_token, where a folder names one
  std::optional<TemplateError> chat_fault = {};    // why `chat` is empty where there is a template: it cannot be read
  std::optional<FileError> generation_fault = {};  // why `generation` has end tokens alone: its file cannot be read

  /// The template; throws what is wrong with it, or a FileError that there is none.
  const ChatTemplate& chat_template() const;
  /// `generation`; throws what is wrong with its file.
  const GenerationDefaults& generation_defaults() const;

  /// Throws FileError naming file and field.
  static Bundle load(const std::filesystem::path& folder_or_gguf, const LoadOptions& options = {});
};

/// Writes a model folder that transformers loads, whole or not at all: config.json, model.safetensors, and tokenizer,
/// template and generation_config.json from where the model came from (a folder or a GGUF file). Throws FileError,
/// `create` where `folder` is there already and not empty. Between tensors `stopped` is asked: once it says so, nothing is
/// left, and that is a FileError (`transfer`), too.
void save_model(const std::filesystem::path& folder, const Model& model, const std::filesystem::path& source,
                const std::function<bool()>& stopped = {});

/// The tokenizer.json that says what a GGUF file's vocabulary says. Throws FileError for a kind that is not known.
Json tokenizer_json(const Gguf& file);

}  // namespace metal_candle
