#include "io/tokenizer/gguf_vocabulary.h"

#include <algorithm>
#include <cmath>
#include <functional>

#include "io/tokenizer/scanners.h"
#include "io/tokenizer/utf8.h"
#include "metal_candle/error.hpp"

namespace metal_candle::io::tok {
namespace {

constexpr const char* kTokens = "tokenizer.ggml.tokens";

// Words end where a small letter is followed by a capital one. OpenAI's of this kind keep what follows an apostrophe with
// its word, and cut numbers into threes.
#define MC_CAPITALS R"([\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}])"
#define MC_SMALLS R"([\p{Ll}\p{Lm}\p{Lo}\p{M}])"
#define MC_BEFORE R"([^\r\n\p{L}\p{N}]?)"
#define MC_REST R"(| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+)"
#define MC_SHORT R"((?i:'s|'t|'re|'ve|'m|'ll|'d)?)"
constexpr const char* kTekkenPattern = MC_BEFORE MC_CAPITALS "*" MC_SMALLS "+|" MC_BEFORE MC_CAPITALS "+" MC_SMALLS
                                                             "*"
                                                             R"(|\p{N})" MC_REST;
constexpr const char* kGpt4oPattern = MC_BEFORE MC_CAPITALS "*" MC_SMALLS "+" MC_SHORT "|" MC_BEFORE MC_CAPITALS
                                                            "+" MC_SMALLS "*" MC_SHORT R"(|\p{N}{1,3})" MC_REST;

const std::vector<GgufCut>& cuts() {
  static const std::vector<GgufCut> all = {
      {{"gpt-2", "gpt2", "phi-2", "roberta-bpe", "jina-v2-de", "jina-v2-es", "jina-v2-code", "exaone4", "modern-bert",
        "mellum"},
       {kGpt2Pattern}},
      {{"smollm", "starcoder", "refact", "command-r", "codeshell", "exaone"}, {kEachNumber, kGpt2Pattern}},
      {{"qwen2", "deepseek-r1-qwen", "megrez"}, {kQwen2Pattern}, true},
      {{"stablelm2", "hunyuan"}, {kQwen2Pattern}},
      {{"llama3", "llama-v3", "llama-bpe", "falcon3"}, {kLlama3Pattern}, false, true, true},
      {{"tekken"}, {kTekkenPattern}, false, true},
      {{"gpt-4o", "llama4"}, {kGpt4oPattern}},
      {{"dbrx", "smaug-bpe"}, {kLlama3Pattern}},
      {{"default"}, {R"([\p{P}\$\+<=>\^~\|]+)", kGpt2Pattern, R"(\p{N}+)", "[0-9][0-9][0-9]"}},
  };
  return all;
}

std::vector<Merge> listed_merges(const Gguf& gguf, const Vocabulary& vocabulary) {
  const GgufValue& list = gguf.at("tokenizer.ggml.merges");
  std::vector<Merge> out;
  std::string whole;
  for (const std::string_view line : list.strings()) {
    const std::size_t space = line.find(' ', 1);
    if (space == std::string_view::npos)
      list.fail("two tokens with a space between, not \"" + std::string(line) + "\"");
    const std::string_view a = line.substr(0, space), b = line.substr(space + 1);
    whole.assign(a).append(b);
    const Merge m{vocabulary.find(a), vocabulary.find(b), vocabulary.find(whole),
                  static_cast<std::uint32_t>(out.size())};
    if (m.left == kNoToken || m.right == kNoToken || m.to == kNoToken)
      list.fail("merges whose parts and results are among the tokens, not \"" + std::string(line) + "\"");
    out.push_back(m);
  }
  return out;
}

std::vector<Merge> merges_of_scores(const GgufVocabulary& from, const Vocabulary& vocabulary) {
  const GgufValue& given = from.file.at("tokenizer.ggml.scores");
  const std::vector<double> scores = given.reals();
  if (scores.size() != from.tokens.size())
    given.fail("a score for each of " + std::to_string(from.tokens.size()) + " tokens");
  if (std::any_of(scores.begin(), scores.end(), [](double s) { return !std::isfinite(s); }))
    given.fail("finite scores");
  std::vector<double> ranked = scores;
  std::sort(ranked.begin(), ranked.end(), std::greater<>());
  ranked.erase(std::unique(ranked.begin(), ranked.end()), ranked.end());
  std::vector<Merge> out;
  for (std::size_t i = 0; i < from.tokens.size(); ++i) {
    const std::string_view whole = from.tokens[i];
    const auto id = static_cast<std::int32_t>(i);
    // A long token would cost its length squared, and none is.
    if (from.types[i] != kNormalToken || vocabulary.find(whole) != id || whole.size() > 256) continue;
    const auto rank = std::lower_bound(ranked.begin(), ranked.end(), scores[i], std::greater<>()) - ranked.begin();
    for (std::size_t cut = 0; cut < whole.size();) {
      cut += utf8_length(whole[cut]);
      if (cut >= whole.size()) break;
      const std::int32_t left = vocabulary.find(whole.substr(0, cut)), right = vocabulary.find(whole.substr(cut));
      if (left != kNoToken && right != kNoToken) out.push_back({left, right, id, static_cast<std::uint32_t>(rank)});
    }
  }
  std::stable_sort(out.begin(), out.end(), [](const Merge& a, const Merge& b) { return a.rank < b.rank; });
  return out;
}

}  // namespace

GgufVocabulary::GgufVocabulary(const Gguf& g) : file(g) {
  const GgufValue& kind = g.at("tokenizer.ggml.model");
  if (kind.as_string() != "gpt2" && kind.as_string() != "llama") kind.fail("gpt2 or llama");
  sentence_piece = kind.as_string() == "llama";
  tokens = g.at(kTokens).strings();
  if (tokens.empty()) g.at(kTokens).fail("at least one token");
  types.assign(tokens.size(), kNormalToken);
  if (const GgufValue* given = g.find("tokenizer.ggml.token_type")) {
    types = given->integers();
    if (types.size() != tokens.size()) given->fail("one type for each of " + std::to_string(tokens.size()) + " tokens");
  }
  for (const std::string_view token : tokens) {
    if (!utf8_valid(token)) g.at(kTokens).fail("tokens in UTF-8");
  }
}

bool GgufVocabulary::flag(const char* key, bool absent) const {
  const GgufValue* v = file.find(key);
  return v ? v->as_bool() : absent;
}

std::optional<std::int32_t> GgufVocabulary::id(const char* key) const {
  const GgufValue* v = file.find(key);
  if (!v) return std::nullopt;
  return static_cast<std::int32_t>(v->as_int(0, static_cast<std::int64_t>(tokens.size()) - 1));
}

std::optional<std::int32_t> GgufVocabulary::first() const {
  const auto out = id("tokenizer.ggml.bos_token_id");
  return flag("tokenizer.ggml.add_bos_token", sentence_piece || cut().adds_first) ? out : std::nullopt;
}

std::optional<std::int32_t> GgufVocabulary::last() const {
  const auto out = id("tokenizer.ggml.eos_token_id");
  return flag("tokenizer.ggml.add_eos_token", false) ? out : std::nullopt;
}

const GgufCut& GgufVocabulary::cut() const {
  const GgufValue* pre = file.find("tokenizer.ggml.pre");
  const std::string_view name = pre ? pre->as_string() : "default";
  std::string known;
  for (const GgufCut& cut : cuts()) {
    for (const std::string_view n : cut.names) {
      if (n == name) return cut;
      known.append(known.empty() ? "" : ", ").append(n);
    }
  }
  pre->fail("a known pre-tokenizer: " + known);
}

Vocabulary GgufVocabulary::vocabulary() const {
  Vocabulary out;
  out.reserve(tokens.size(), tokens.size() * 8);
  for (std::size_t i = 0; i < tokens.size(); ++i) out.add(tokens[i], static_cast<std::int32_t>(i));
  return out;
}

std::vector<Merge> GgufVocabulary::merges(const Vocabulary& vocabulary) const {
  return sentence_piece ? merges_of_scores(*this, vocabulary) : listed_merges(file, vocabulary);
}

}  // namespace metal_candle::io::tok
