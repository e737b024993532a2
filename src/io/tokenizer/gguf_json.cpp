// A GGUF file's vocabulary as the tokenizer.json that says the same, for folders that other programs load.
#include <algorithm>
#include <cmath>
#include <optional>
#include <unordered_map>

#include "io/tokenizer/scanners.h"
#include "io/tokenizer/utf8.h"
#include "metal_candle/bundle.hpp"
#include "metal_candle/error.hpp"
#include "metal_candle/gguf.hpp"
#include "metal_candle/json.hpp"

namespace metal_candle {

namespace {

using namespace io::tok;

enum TokenType : std::int64_t { kNormal = 1, kUnknown, kControl, kUserDefined };

/// How a named pre-tokenizer of byte-level BPE cuts.
struct Cuts {
  std::string_view name;
  std::vector<const char*> patterns;
  bool nfc = false, ignore_merges = false, adds_first = false;
};

const Cuts& cuts_of(const Gguf& file) {
  static const std::vector<Cuts> all = {
      {"gpt-2", {kGpt2Pattern}},
      {"smollm", {R"(\p{N})", kGpt2Pattern}},
      {"qwen2", {kQwen2Pattern}, true},
      {"llama-bpe", {kLlama3Pattern}, false, true, true},
      {"default", {R"([\p{P}\$\+<=>\^~\|]+)", kGpt2Pattern, R"(\p{N}+)", "[0-9][0-9][0-9]"}},
  };
  const GgufValue* given = file.find("tokenizer.ggml.pre");
  const std::string_view name = given ? given->as_string() : "default";
  const auto found = std::find_if(all.begin(), all.end(), [&](const Cuts& c) { return c.name == name; });
  if (found == all.end()) given->fail("gpt-2, smollm, qwen2, llama-bpe or default");
  return *found;
}

class Writer {
 public:
  explicit Writer(const Gguf& file) : file_(file), tokens_(file.at("tokenizer.ggml.tokens").strings()) {
    const GgufValue* types = file.find("tokenizer.ggml.token_type");
    types_ = types ? types->integers() : std::vector<std::int64_t>(tokens_.size(), kNormal);
    if (types_.size() != tokens_.size())
      types->fail("one type for each of " + std::to_string(tokens_.size()) + " tokens");
    for (std::size_t i = 0; i < tokens_.size(); ++i) ids_.try_emplace(tokens_[i], i);
  }

  Json write() {
    const GgufValue& kind = file_.at("tokenizer.ggml.model");
    const bool byte_level = kind.as_string() == "gpt2";
    if (!byte_level && kind.as_string() != "llama") kind.fail("gpt2 or llama");
    Json out = Json::object(
        {{"version", "1.0"}, {"truncation", nullptr}, {"padding", nullptr}, {"added_tokens", added_tokens()}});
    byte_level ? write_byte_level(out) : write_sentence_piece(out);
    return out;
  }

 private:
  bool flag(const char* key, bool absent) const {
    const GgufValue* v = file_.find(key);
    return v ? v->as_bool() : absent;
  }
  std::optional<std::size_t> id(const char* key) const {
    const GgufValue* v = file_.find(key);
    if (!v) return std::nullopt;
    return static_cast<std::size_t>(v->as_int(0, static_cast<std::int64_t>(tokens_.size()) - 1));
  }

  Json added_tokens() const {
    Json out = Json::array();
    for (std::size_t i = 0; i < tokens_.size(); ++i) {
      if (types_[i] != kUnknown && types_[i] != kControl && types_[i] != kUserDefined) continue;
      out.push_back(Json::object({{"id", i},
                                  {"content", tokens_[i]},
                                  {"single_word", false},
                                  {"lstrip", false},
                                  {"rstrip", false},
                                  {"normalized", false},
                                  {"special", types_[i] != kUserDefined}}));
    }
    return out;
  }

  Json vocabulary() const {
    Json out = Json::object();
    for (std::size_t i = 0; i < tokens_.size(); ++i)
      if (ids_.at(tokens_[i]) == i) out.set(tokens_[i], i);
    return out;
  }

  Json post_processor(bool adds_first) const {
    Json single = Json::array(), special = Json::object();
    auto add = [&](std::size_t token) {
      single.push_back(Json::object({{"SpecialToken", Json::object({{"id", tokens_[token]}, {"type_id", 0}})}}));
      special.set(tokens_[token], Json::object({{"id", tokens_[token]},
                                                {"ids", Json::array({token})},
                                                {"tokens", Json::array({tokens_[token]})}}));
    };
    const auto first = id("tokenizer.ggml.bos_token_id"), last = id("tokenizer.ggml.eos_token_id");
    const bool begins = flag("tokenizer.ggml.add_bos_token", adds_first) && first;
    const bool ends = flag("tokenizer.ggml.add_eos_token", false) && last;
    if (!begins && !ends) return {};
    if (begins) add(*first);
    single.push_back(Json::object({{"Sequence", Json::object({{"id", "A"}, {"type_id", 0}})}}));
    if (ends && !(begins && *first == *last)) add(*last);
    Json pair = single;
    pair.push_back(Json::object({{"Sequence", Json::object({{"id", "B"}, {"type_id", 1}})}}));
    return Json::object(
        {{"type", "TemplateProcessing"}, {"single", single}, {"pair", pair}, {"special_tokens", special}});
  }

  void write_byte_level(Json& out) const {
    const Cuts& cuts = cuts_of(file_);
    Json steps = Json::array();
    for (const char* pattern : cuts.patterns)
      steps.push_back(Json::object({{"type", "Split"},
                                    {"pattern", Json::object({{"Regex", pattern}})},
                                    {"behavior", "Isolated"},
                                    {"invert", false}}));
    const Json bytes = Json::object(
        {{"type", "ByteLevel"}, {"add_prefix_space", false}, {"trim_offsets", true}, {"use_regex", false}});
    steps.push_back(bytes);
    Json merges = Json::array();
    for (const std::string_view merge : file_.at("tokenizer.ggml.merges").strings()) merges.push_back(merge);
    out.set("normalizer", cuts.nfc ? Json::object({{"type", "NFC"}}) : Json());
    out.set("pre_tokenizer", Json::object({{"type", "Sequence"}, {"pretokenizers", steps}}));
    out.set("post_processor", post_processor(cuts.adds_first));
    out.set("decoder", bytes);
    out.set("model", model(std::move(merges), false, cuts.ignore_merges, nullptr));
  }

  Json model(Json merges, bool byte_fallback, bool ignore_merges, Json unknown) const {
    return Json::object({{"type", "BPE"},
                         {"dropout", nullptr},
                         {"unk_token", std::move(unknown)},
                         {"continuing_subword_prefix", nullptr},
                         {"end_of_word_suffix", nullptr},
                         {"fuse_unk", byte_fallback},
                         {"byte_fallback", byte_fallback},
                         {"ignore_merges", ignore_merges},
                         {"vocab", vocabulary()},
                         {"merges", std::move(merges)}});
  }

  /// SentencePiece has no list of merges: any two tokens that make a third may merge, the best third one first.
  Json merges_of_scores() const {
    const GgufValue& given = file_.at("tokenizer.ggml.scores");
    const std::vector<double> scores = given.reals();
    if (scores.size() != tokens_.size())
      given.fail("a score for each of " + std::to_string(tokens_.size()) + " tokens");
    if (std::any_of(scores.begin(), scores.end(), [](double s) { return !std::isfinite(s); }))
      given.fail("finite scores");
    std::vector<std::size_t> order;
    for (std::size_t i = 0; i < tokens_.size(); ++i)
      if (types_[i] == kNormal && !tokens_[i].empty() && ids_.at(tokens_[i]) == i && tokens_[i].size() <= 512)
        order.push_back(i);
    std::stable_sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) { return scores[a] > scores[b]; });
    Json merges = Json::array();
    for (const std::size_t i : order) {
      const std::string_view whole = tokens_[i];
      for (std::size_t cut = utf8_length(whole[0]); cut < whole.size(); cut += utf8_length(whole[cut]))
        if (ids_.contains(whole.substr(0, cut)) && ids_.contains(whole.substr(cut)))
          merges.push_back(Json::array({whole.substr(0, cut), whole.substr(cut)}));
    }
    return merges;
  }

  void write_sentence_piece(Json& out) const {
    constexpr const char* kMark = "\u2581";
    auto literal = [](const char* text) { return Json::object({{"String", text}}); };
    const bool prefix = flag("tokenizer.ggml.add_space_prefix", true);
    Json before = Json::array(), after = Json::array();
    if (prefix) before.push_back(Json::object({{"type", "Prepend"}, {"prepend", kMark}}));
    before.push_back(Json::object({{"type", "Replace"}, {"pattern", literal(" ")}, {"content", kMark}}));
    after.push_back(Json::object({{"type", "Replace"}, {"pattern", literal(kMark)}, {"content", " "}}));
    after.push_back(Json::object({{"type", "ByteFallback"}}));
    after.push_back(Json::object({{"type", "Fuse"}}));
    if (prefix) after.push_back(Json::object({{"type", "Strip"}, {"content", " "}, {"start", 1}, {"stop", 0}}));
    out.set("normalizer", Json::object({{"type", "Sequence"}, {"normalizers", before}}));
    out.set("pre_tokenizer", nullptr);
    out.set("post_processor", post_processor(true));
    out.set("decoder", Json::object({{"type", "Sequence"}, {"decoders", after}}));
    const std::size_t unknown = id("tokenizer.ggml.unknown_token_id").value_or(0);
    out.set("model", model(merges_of_scores(), true, false, tokens_[unknown]));
  }

  const Gguf& file_;
  std::vector<std::string_view> tokens_;
  std::vector<std::int64_t> types_;
  std::unordered_map<std::string_view, std::size_t> ids_;
};

}  // namespace

Json tokenizer_json(const Gguf& file) {
  if (const GgufValue* whole = file.find("tokenizer.huggingface.json"))
    return Json::parse(whole->as_string(), file.path().string() + ": tokenizer.huggingface.json");
  return Writer(file).write();
}

}  // namespace metal_candle
