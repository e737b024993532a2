// Rows of training data: samples that can be learned from, or an error with the line.
#include "metal_candle/chat_template.hpp"
#include "metal_candle/dataset.hpp"
#include "metal_candle/error.hpp"
#include "metal_candle/json.hpp"
#include "metal_candle/tokenizer.hpp"
#include "tests/fuzz/targets.h"

namespace metal_candle::fuzz {
namespace {

constexpr const char* kTokenizer =
    R"({"added_tokens": [{"id": 0, "content": "<e>", "single_word": false, "lstrip": false, "rstrip": false,
                          "normalized": false, "special": true},
                         {"id": 1, "content": "<u>", "single_word": false, "lstrip": false, "rstrip": false,
                          "normalized": false, "special": true}],
        "pre_tokenizer": {"type": "Split", "pattern": {"Regex": "."}, "behavior": "Isolated", "invert": false},
        "model": {"type": "WordLevel", "unk_token": "?", "vocab": {"<e>": 0, "<u>": 1, "?": 2, "a": 3, "b": 4}}})";
constexpr const char* kChat = "{% for m in messages %}<u>{{ m.role }}{{ m.content }}<e>{% endfor %}{{ tools }}";

}  // namespace

void jsonl(std::string_view bytes) {
  static const Tokenizer tokenizer = Tokenizer::from_json(kTokenizer, "tokenizer.json");
  static const ChatRenderer chat = chat_renderer(ChatTemplate(kChat, "", "<e>", "template"));
  for (const TrainOn what : {TrainOn::answers, TrainOn::all}) {
    try {
      const DatasetOptions options{.max_length = 40, .train_on = what, .end_token = 0};
      const Dataset data = Dataset::parse(bytes, "fuzz.jsonl", tokenizer, chat, options);
      const Dataset::Counts& counts = data.counts();
      must(data.size() > 0 && counts.rows == static_cast<std::int64_t>(data.size()) + counts.left_out,
           "every row is used or left out");
      for (const Sample& s : data) {
        must(s.tokens.size() <= 40 && s.supervised.size() == s.tokens.size(), "a mask for every token");
        must(!s.supervised[0] && s.line > 0, "the first token is not predicted, and lines have numbers");
      }
    } catch (const FileError& e) {
      must(e.file().starts_with("fuzz.jsonl"), "an error with its file");
    }
  }
}

}  // namespace metal_candle::fuzz
