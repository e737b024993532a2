// Chat templates: messages to the text a model was trained on.
//
//   auto chat = mc::ChatTemplate(source, "<s>", "</s>", "model/tokenizer_config.json: chat_template");
//   std::string prompt = chat.render(mc::Json::parse(R"([{"role": "user", "content": "Hello"}])", "prompt"));
//
// A template is a small Jinja program that came with the model. It runs here as it does under transformers: the same
// dialect (blocks trimmed, loop controls, generation blocks, `tojson`, `raise_exception`, `strftime_now`), the same
// text to the byte. It is foreign code, so it runs in a sandbox: it sees what `render` is given and nothing else,
// cannot change it, and is stopped when it takes too many steps, nests too deep or writes too much.
//
// Threads: a ChatTemplate is immutable; any number of threads may render at once. Copies share the parsed template.
#pragma once

#include <cstddef>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "metal_candle/error.hpp"
#include "metal_candle/json.hpp"

namespace metal_candle {

/// What is wrong with a template, or with what it was given. what() names file and line.
class TemplateError : public FileError {
 public:
  enum class Reason {
    syntax,       // it cannot be read
    unsupported,  // it asks for what chat templates have no business with: include, import, ...
    undefined,    // it uses a value that is not there
    type,         // an operation on the wrong kind of value
    value,        // ... or on a value out of its range
    security,     // it reaches for what the sandbox keeps from it
    raised,       // it refused the messages: raise_exception(text)
    limit,        // too many steps, too deep, too long
  };

  TemplateError(Reason reason, std::string origin, int line, int column, std::string message);

  Reason reason() const { return reason_; }
  /// Of the template, from 1. The column is 0 where only the line is known.
  int line() const { return line_; }
  int column() const { return column_; }
  /// What happened, without the place; for `raised` the template's own text.
  const std::string& message() const { return expected(); }

 private:
  Reason reason_;
  int line_, column_;
};

struct ChatTemplateOptions {
  /// Ends with what makes the model answer.
  bool add_generation_prompt = true;
  /// JSON schemas of functions, or null.
  Json tools = {};
  /// An object of whatever else the template knows: enable_thinking, documents, ...
  Json extra = {};
  /// What strftime_now shows: "2026-07-26", or empty for today.
  std::string date = {};
};

struct RenderedChat {
  std::string text;
  /// Bytes [from, to) of the text that the template itself marks as the model's, by {% generation %} blocks. Most
  /// templates mark nothing.
  std::vector<std::pair<std::size_t, std::size_t>> answers;
};

/// A template as a model's files have it.
struct ChatTemplateSource {
  std::string text;
  std::string origin;  // names it in errors
  /// The one for conversations with tools, where a model has two; else empty.
  std::string with_tools = {};
  /// An object of what templates call the model's special tokens: bos_token, eos_token, pad_token, ...
  Json tokens = {};
};

class ChatTemplate {
 public:
  /// Parses; throws TemplateError.
  explicit ChatTemplate(const ChatTemplateSource& source);
  /// One with two special tokens; one that the model does not have is empty.
  ChatTemplate(std::string_view source, std::string bos_token, std::string eos_token, std::string origin);

  /// `messages` is an array of objects such as {"role": "user", "content": "..."}. Throws TemplateError: `raised` where
  /// the template refuses them, else where it cannot be run; UserError for messages that are no messages.
  std::string render(const Json& messages, const ChatTemplateOptions& options = {}) const;
  RenderedChat render_marked(const Json& messages, const ChatTemplateOptions& options = {}) const;

 private:
  struct Parts;
  std::shared_ptr<const Parts> parts_;
};

}  // namespace metal_candle
