// A GGUF file's vocabulary as the tokenizer.json that says the same, for folders that other programs load.
#include "io/tokenizer/gguf_vocabulary.h"
#include "metal_candle/bundle.hpp"
#include "metal_candle/json.hpp"

namespace metal_candle {
namespace {

using io::tok::GgufVocabulary;

Json literal(const char* text) { return Json::object({{"String", text}}); }
Json sequence(const char* list, Json steps) { return Json::object({{"type", "Sequence"}, {list, std::move(steps)}}); }

Json added_tokens(const GgufVocabulary& from) {
  Json out = Json::array();
  for (std::size_t i = 0; i < from.tokens.size(); ++i) {
    if (!from.added(i)) continue;
    out.push_back(Json::object({{"id", i},
                                {"content", from.tokens[i]},
                                {"single_word", false},
                                {"lstrip", false},
                                {"rstrip", false},
                                {"normalized", false},
                                {"special", from.special(i)}}));
  }
  return out;
}

Json post_processor(const GgufVocabulary& from) {
  Json single = Json::array(), pair = Json::array(), special = Json::object();
  const auto token = [&](std::optional<std::int32_t> id, int type) {
    if (!id) return;
    const std::string_view name = from.tokens[static_cast<std::size_t>(*id)];
    const Json piece = Json::object({{"SpecialToken", Json::object({{"id", name}, {"type_id", type}})}});
    if (type == 0) single.push_back(piece);
    pair.push_back(piece);
    special.set(name, Json::object({{"id", name}, {"ids", Json::array({*id})}, {"tokens", Json::array({name})}}));
  };
  const auto text = [](const char* id, int type) {
    return Json::object({{"Sequence", Json::object({{"id", id}, {"type_id", type}})}});
  };
  if (!from.first() && !from.last()) return {};
  token(from.first(), 0);
  single.push_back(text("A", 0));
  pair.push_back(text("A", 0));
  token(from.last(), 0);
  token(from.first(), 1);
  pair.push_back(text("B", 1));
  token(from.last(), 1);
  return Json::object(
      {{"type", "TemplateProcessing"}, {"single", single}, {"pair", pair}, {"special_tokens", special}});
}

void write_byte_level(const GgufVocabulary& from, Json& out) {
  Json steps = Json::array();
  for (const char* pattern : from.cut().patterns) {
    steps.push_back(pattern == io::tok::kEachNumber ? Json::object({{"type", "Digits"}, {"individual_digits", true}})
                                                    : Json::object({{"type", "Split"},
                                                                    {"pattern", Json::object({{"Regex", pattern}})},
                                                                    {"behavior", "Isolated"},
                                                                    {"invert", false}}));
  }
  const Json bytes =
      Json::object({{"type", "ByteLevel"}, {"add_prefix_space", false}, {"trim_offsets", true}, {"use_regex", false}});
  steps.push_back(bytes);
  out.set("normalizer", from.cut().nfc ? Json::object({{"type", "NFC"}}) : Json());
  out.set("pre_tokenizer", sequence("pretokenizers", steps));
  out.set("decoder", bytes);
}

void write_sentence_piece(const GgufVocabulary& from, Json& out) {
  constexpr const char* kMark = "\u2581";
  Json before = Json::array(), after = Json::array();
  if (from.space_prefix()) before.push_back(Json::object({{"type", "Prepend"}, {"prepend", kMark}}));
  before.push_back(Json::object({{"type", "Replace"}, {"pattern", literal(" ")}, {"content", kMark}}));
  after.push_back(Json::object({{"type", "Replace"}, {"pattern", literal(kMark)}, {"content", " "}}));
  after.push_back(Json::object({{"type", "ByteFallback"}}));
  after.push_back(Json::object({{"type", "Fuse"}}));
  if (from.space_prefix())
    after.push_back(Json::object({{"type", "Strip"}, {"content", " "}, {"start", 1}, {"stop", 0}}));
  out.set("normalizer", sequence("normalizers", before));
  out.set("pre_tokenizer", nullptr);
  out.set("decoder", sequence("decoders", after));
}

Json model(const GgufVocabulary& from) {
  const bool pieces = from.sentence_piece;
  const io::tok::Vocabulary words = from.vocabulary();
  Json vocabulary = Json::object(), merges = Json::array();
  for (std::size_t i = 0; i < from.tokens.size(); ++i) {
    // Of equal tokens the last one is found.
    if (words.find(from.tokens[i]) == static_cast<std::int32_t>(i)) vocabulary.set(from.tokens[i], i);
  }
  for (const io::tok::Merge& m : from.merges(words))
    merges.push_back(Json::array({*words.token(m.left), *words.token(m.right)}));
  return Json::object({{"type", "BPE"},
                       {"dropout", nullptr},
                       {"unk_token", pieces ? Json(from.tokens[static_cast<std::size_t>(from.unknown())]) : Json()},
                       {"continuing_subword_prefix", nullptr},
                       {"end_of_word_suffix", nullptr},
                       {"fuse_unk", pieces},
                       {"byte_fallback", pieces},
                       {"ignore_merges", !pieces && from.cut().ignore_merges},
                       {"vocab", std::move(vocabulary)},
                       {"merges", std::move(merges)}});
}

}  // namespace

Json tokenizer_json(const Gguf& file) {
  if (const GgufValue* whole = file.find("tokenizer.huggingface.json"))
    return Json::parse(whole->as_string(), file.path().string() + ": tokenizer.huggingface.json");
  const GgufVocabulary from(file);
  Json out = Json::object(
      {{"version", "1.0"}, {"truncation", nullptr}, {"padding", nullptr}, {"added_tokens", added_tokens(from)}});
  from.sentence_piece ? write_sentence_piece(from, out) : write_byte_level(from, out);
  out.set("post_processor", post_processor(from));
  out.set("model", model(from));
  return out;
}

}  // namespace metal_candle
