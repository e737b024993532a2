// The vocabularies of GGUF files: byte-level BPE ("gpt2"), whose split patterns the file only names, and
// SentencePiece's BPE ("llama"), whose merges follow from the scores. A file that carries a whole tokenizer.json is
// read by that.
#include <algorithm>
#include <cmath>
#include <optional>

#include "io/tokenizer/state.h"
#include "metal_candle/error.hpp"
#include "metal_candle/gguf.hpp"

namespace metal_candle::io::tok {
namespace {

constexpr const char* kTokens = "tokenizer.ggml.tokens";
enum TokenType : std::int64_t { kNormal = 1, kUnknown, kControl, kUserDefined, kUnused, kByte };

struct File {
  const Gguf& gguf;
  std::vector<std::string_view> tokens;
  std::vector<std::int64_t> types;

  explicit File(const Gguf& g) : gguf(g), tokens(g.at(kTokens).strings()), types(tokens.size(), kNormal) {
    if (tokens.empty()) g.at(kTokens).fail("at least one token");
    if (const GgufValue* given = g.find("tokenizer.ggml.token_type")) {
      types = given->integers();
      if (types.size() != tokens.size())
        given->fail("one type for each of " + std::to_string(tokens.size()) + " tokens");
    }
    for (const std::string_view token : tokens) {
      if (!utf8_valid(token)) g.at(kTokens).fail("tokens in UTF-8");
    }
  }
  bool flag(const char* key, bool absent) const {
    const GgufValue* v = gguf.find(key);
    return v ? v->as_bool() : absent;
  }
  std::optional<std::int32_t> id(const char* key) const {
    const GgufValue* v = gguf.find(key);
    if (!v) return std::nullopt;
    return static_cast<std::int32_t>(v->as_int(0, static_cast<std::int64_t>(tokens.size()) - 1));
  }
  Vocabulary vocabulary() const {
    Vocabulary out;
    out.reserve(tokens.size(), tokens.size() * 8);
    for (std::size_t i = 0; i < tokens.size(); ++i) out.add(tokens[i], static_cast<std::int32_t>(i));
    return out;
  }
};

void add_special_tokens(const File& file, bool adds_first, State& state) {
  for (std::size_t i = 0; i < file.tokens.size(); ++i) {
    const std::int64_t type = file.types[i];
    if (type != kUnknown && type != kControl && type != kUserDefined) continue;
    AddedToken token{.content = std::string(file.tokens[i]), .special = type != kUserDefined};
    state.added.add(std::move(token), static_cast<std::int32_t>(i), nullptr);
  }
  auto& pieces = state.post_processor.pieces;
  const auto first = file.id("tokenizer.ggml.bos_token_id"), last = file.id("tokenizer.ggml.eos_token_id");
  if (file.flag("tokenizer.ggml.add_bos_token", adds_first) && first) pieces.push_back({false, {*first}});
  pieces.push_back({true, {}});
  if (file.flag("tokenizer.ggml.add_eos_token", false) && last) pieces.push_back({false, {*last}});
}

// ---- byte-level BPE
// --------------------------------------------------------------------------------------------------

/// How a named pre-tokenizer cuts: by patterns, each isolating its matches in what the ones before left.
struct Cut {
  std::vector<std::string_view> names;
  std::vector<const char*> patterns;
  bool nfc = false, ignore_merges = false, adds_first = false;
};

const std::vector<Cut>& cuts() {
  static const std::vector<Cut> all = {
      {{"gpt-2", "gpt2", "phi-2", "roberta-bpe", "jina-v2-de", "jina-v2-es", "jina-v2-code", "exaone4", "modern-bert",
        "mellum"},
       {kGpt2Pattern}},
      {{"smollm", "starcoder", "refact", "command-r", "codeshell", "exaone"}, {R"(\p{N})", kGpt2Pattern}},
      {{"qwen2", "deepseek-r1-qwen", "megrez"}, {kQwen2Pattern}, true},
      {{"stablelm2", "hunyuan"}, {kQwen2Pattern}},
      {{"llama3", "llama-v3", "llama-bpe", "falcon3"}, {kLlama3Pattern}, false, true, true},
      {{"dbrx", "smaug-bpe"}, {kLlama3Pattern}},
      {{"default"}, {R"([\p{P}\$\+<=>\^~\|]+)", kGpt2Pattern, R"(\p{N}+)", "[0-9][0-9][0-9]"}},
  };
  return all;
}

const Cut& cut_of(const Gguf& gguf) {
  const GgufValue* pre = gguf.find("tokenizer.ggml.pre");
  const std::string_view name = pre ? pre->as_string() : "default";
  std::string known;
  for (const Cut& cut : cuts()) {
    for (const std::string_view n : cut.names) {
      if (n == name) return cut;
      known.append(known.empty() ? "" : ", ").append(n);
    }
  }
  pre->fail("a known pre-tokenizer: " + known);
}

std::vector<Merge> merges(const Gguf& gguf, const Vocabulary& vocabulary) {
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

void load_byte_level(const File& file, State& state) {
  const Cut& cut = cut_of(file.gguf);
  if (cut.nfc) state.normalizer = make_form(Form::nfc);
  std::vector<PreTokenizerSpec> specs;
  for (const char* pattern : cut.patterns) {
    PreTokenizerSpec spec;
    spec.made = std::string_view(pattern) == R"(\p{N})" ? make_digits(true)
                                                        : make_split(make_regex(pattern), Behavior::isolated, false);
    specs.push_back(std::move(spec));
  }
  specs.push_back({PreTokenizerSpec::Kind::byte_level, nullptr, false, false});
  BpeOptions on;
  on.ignore_merges = cut.ignore_merges;
  on.bytes = add_pre_tokenizers(std::move(specs), true, state);
  Vocabulary words = file.vocabulary();
  const std::vector<Merge> list = merges(file.gguf, words);
  state.model = make_bpe(std::move(words), list, std::move(on));
  state.decoders.push_back(make_byte_level_decoder());
  add_special_tokens(file, cut.adds_first, state);
}

// ---- SentencePiece's BPE
// ---------------------------------------------------------------------------------------------

/// Any two tokens that make a third may merge; the better the third one's score, the sooner.
std::vector<Merge> merges_of_scores(const File& file, const Vocabulary& vocabulary) {
  const GgufValue& given = file.gguf.at("tokenizer.ggml.scores");
  const std::vector<double> scores = given.reals();
  if (scores.size() != file.tokens.size())
    given.fail("a score for each of " + std::to_string(file.tokens.size()) + " tokens");
  if (std::any_of(scores.begin(), scores.end(), [](double s) { return !std::isfinite(s); }))
    given.fail("finite scores");
  std::vector<double> ranked = scores;
  std::sort(ranked.begin(), ranked.end(), std::greater<>());
  ranked.erase(std::unique(ranked.begin(), ranked.end()), ranked.end());
  std::vector<Merge> out;
  for (std::size_t i = 0; i < file.tokens.size(); ++i) {
    const std::string_view whole = file.tokens[i];
    const auto id = static_cast<std::int32_t>(i);
    // A long token would cost its length squared, and none is.
    if (file.types[i] != kNormal || vocabulary.find(whole) != id || whole.size() > 256) continue;
    const auto rank = std::lower_bound(ranked.begin(), ranked.end(), scores[i], std::greater<>()) - ranked.begin();
    for (std::size_t cut = 0; cut < whole.size();) {
      cut += utf8_length(whole[cut]);
      if (cut >= whole.size()) break;
      const std::int32_t left = vocabulary.find(whole.substr(0, cut)), right = vocabulary.find(whole.substr(cut));
      if (left != kNoToken && right != kNoToken) out.push_back({left, right, id, static_cast<std::uint32_t>(rank)});
    }
  }
  return out;
}

void load_sentence_piece(const File& file, State& state) {
  constexpr const char* kMark = "\u2581";
  std::vector<NormalizerPtr> steps;
  const bool prefix = file.flag("tokenizer.ggml.add_space_prefix", true);
  if (prefix) steps.push_back(make_prepend(kMark));
  steps.push_back(make_replace(make_literal(" "), kMark));
  state.normalizer = make_normalizer_sequence(std::move(steps));
  Vocabulary words = file.vocabulary();
  const std::vector<Merge> list = merges_of_scores(file, words);
  BpeOptions on;
  on.unknown = file.id("tokenizer.ggml.unknown_token_id").value_or(0);
  on.fuse_unknown = on.byte_fallback = true;
  state.model = make_bpe(std::move(words), list, std::move(on));
  state.decoders.push_back(make_replace_decoder(make_literal(kMark), " "));
  state.decoders.push_back(make_byte_fallback_decoder());
  state.decoders.push_back(make_fuse_decoder());
  if (prefix) state.decoders.push_back(make_strip_decoder(U' ', 1, 0));
  add_special_tokens(file, true, state);
}

}  // namespace

std::shared_ptr<const State> state_from_gguf(const Gguf& gguf) {
  if (const GgufValue* whole = gguf.find("tokenizer.huggingface.json"))
    return state_from_json(Json::parse(whole->as_string(), gguf.path().string() + ": tokenizer.huggingface.json"));
  const GgufValue& kind = gguf.at("tokenizer.ggml.model");
  const std::string_view name = kind.as_string();
  if (name != "gpt2" && name != "llama") kind.fail("gpt2 or llama");
  const File file(gguf);
  auto state = std::make_shared<State>();
  name == "gpt2" ? load_byte_level(file, *state) : load_sentence_piece(file, *state);
  state->finish();
  return state;
}

}  // namespace metal_candle::io::tok
