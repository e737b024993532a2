// tokenizer.json: from the file's fields to a tokenizer's parts. What a field says wrongly, or what is not known here,
// is refused where it stands.
#include <algorithm>
#include <optional>

#include "io/tokenizer/state.h"
#include "metal_candle/error.hpp"

namespace metal_candle::io::tok {
namespace {

std::string text(const Json& j) { return std::string(j.as_string()); }
bool flag(const Json& object, std::string_view key, std::optional<bool> absent = {}) {
  const Json* j = absent ? object.find_value(key) : nullptr;
  return absent && !j ? *absent : object.at(key).as_bool();
}
char32_t character(const Json& j) {
  const std::string_view s = j.as_string();
  if (s.empty() || utf8_length(s[0]) != s.size()) j.fail("one character");
  return utf8_at(s.data());
}
std::size_t count(const Json& j) { return static_cast<std::size_t>(j.as_int(0, 0x7fffffff)); }

constexpr int kDeepest = 32;

/// The elements of a sequence, opened up: f(element) for each that is none itself.
template <class F>
void each_step(const Json& j, std::string_view list, F f, int depth = 0) {
  if (depth > kDeepest) j.fail("sequences nested at most 32 deep");
  if (j.at("type").as_string() != "Sequence") {
    f(j);
    return;
  }
  for (const Json& element : j.at(list).elements()) each_step(element, list, f, depth + 1);
}

std::shared_ptr<const Pattern> pattern(const Json& j) {
  if (const Json* literal = j.find("String")) return make_literal(text(*literal));
  const Json* regex = j.find("Regex");
  if (!regex) j.fail(R"({"String": ...} or {"Regex": ...})");
  try {
    return make_regex(text(*regex));
  } catch (const PatternError& e) {
    regex->fail(std::string("a regular expression (") + e.what() + ")");
  }
}

std::string base64(const Json& j) {
  const std::string_view s = j.as_string();
  std::string out;
  std::uint32_t bits = 0;
  int have = 0;
  std::size_t n = s.size();
  if (n % 4) j.fail("base64");
  while (n > 0 && n + 2 > s.size() && s[n - 1] == '=') --n;
  for (std::size_t i = 0; i < n; ++i) {
    const char c = s[i];
    const int v = c >= 'A' && c <= 'Z'   ? c - 'A'
                  : c >= 'a' && c <= 'z' ? c - 'a' + 26
                  : c >= '0' && c <= '9' ? c - '0' + 52
                  : c == '+'             ? 62
                  : c == '/'             ? 63
                                         : -1;
    if (v < 0) j.fail("base64");
    bits = bits << 6 | static_cast<std::uint32_t>(v);
    if ((have += 6) >= 8) out.push_back(static_cast<char>(bits >> (have -= 8)));
  }
  return out;
}

// ---- normalizers ----------------------------------------------------------------------------------------------------

NormalizerPtr normalizer_step(const Json& j) {
  const std::string_view type = j.at("type").as_string();
  if (type == "NFC") return make_form(Form::nfc);
  if (type == "NFD") return make_form(Form::nfd);
  if (type == "NFKC") return make_form(Form::nfkc);
  if (type == "NFKD") return make_form(Form::nfkd);
  if (type == "Lowercase") return make_lowercase();
  if (type == "Strip") return make_strip(flag(j, "strip_left"), flag(j, "strip_right"));
  if (type == "StripAccents") return make_strip_accents();
  if (type == "Replace") return make_replace(pattern(j.at("pattern")), text(j.at("content")));
  if (type == "Prepend") return make_prepend(text(j.at("prepend")));
  if (type == "Nmt") return make_nmt();
  if (type == "ByteLevel") return make_byte_level_normalizer();
  if (type == "Precompiled") {
    const Json& map = j.at("precompiled_charsmap");
    NormalizerPtr out = make_precompiled(base64(map));
    if (!out) map.fail("a compiled map of characters");
    return out;
  }
  if (type == "BertNormalizer" || type == "Bert") {
    const bool lowercase = flag(j, "lowercase");
    return make_bert_normalizer(
        {flag(j, "clean_text"), flag(j, "handle_chinese_chars"), flag(j, "strip_accents", lowercase), lowercase});
  }
  j.at("type").fail("a known normalizer");
}

NormalizerPtr normalizer(const Json& j) {
  std::vector<NormalizerPtr> steps;
  each_step(j, "normalizers", [&](const Json& step) { steps.push_back(normalizer_step(step)); });
  if (steps.empty()) return nullptr;
  return steps.size() == 1 ? std::move(steps[0]) : make_normalizer_sequence(std::move(steps));
}

// ---- pre-tokenizers -------------------------------------------------------------------------------------------------

Behavior behavior(const Json& j) {
  const std::string_view s = j.as_string();
  if (s == "Removed") return Behavior::removed;
  if (s == "Isolated") return Behavior::isolated;
  if (s == "MergedWithPrevious") return Behavior::merged_with_previous;
  if (s == "MergedWithNext") return Behavior::merged_with_next;
  if (s == "Contiguous") return Behavior::contiguous;
  j.fail("Removed, Isolated, MergedWithPrevious, MergedWithNext or Contiguous");
}

PrependScheme prepend_scheme(const Json& j) {
  const Json* scheme = j.find_value("prepend_scheme");
  if (!scheme) return flag(j, "add_prefix_space", true) ? PrependScheme::always : PrependScheme::never;
  const std::string_view s = scheme->as_string();
  const PrependScheme out = s == "first"   ? PrependScheme::first
                            : s == "never" ? PrependScheme::never
                                           : PrependScheme::always;
  if (out == PrependScheme::always && s != "always") scheme->fail("first, never or always");
  if (out != PrependScheme::never && !flag(j, "add_prefix_space", true))
    scheme->fail("never, as add_prefix_space is false");
  return out;
}

std::string replacement(const Json& j) {
  std::string out;
  utf8_append(out, character(j.at("replacement")));
  return out;
}

PreTokenizerPtr pre_tokenizer_step(const Json& j) {
  const std::string_view type = j.at("type").as_string();
  if (type == "Split") return make_split(pattern(j.at("pattern")), behavior(j.at("behavior")), flag(j, "invert"));
  if (type == "Whitespace") return make_whitespace();
  if (type == "WhitespaceSplit") return make_whitespace_split();
  if (type == "Metaspace") return make_metaspace(replacement(j), prepend_scheme(j), flag(j, "split", true));
  if (type == "Digits") return make_digits(flag(j, "individual_digits"));
  if (type == "UnicodeScripts") return make_unicode_scripts();
  if (type == "CharDelimiterSplit" || type == "Delimiter") return make_char_delimiter(character(j.at("delimiter")));
  if (type == "Punctuation") {
    const Json* how = j.find("behavior");
    return make_punctuation(how ? behavior(*how) : Behavior::isolated);
  }
  if (type == "FixedLength") {
    const Json* length = j.find("length");
    return make_fixed_length(length ? static_cast<std::size_t>(length->positive()) : 5);
  }
  j.at("type").fail("a known pre-tokenizer");
}

std::vector<PreTokenizerSpec> pre_tokenizers(const Json& root) {
  std::vector<PreTokenizerSpec> out;
  const auto add = [&out](PreTokenizerPtr step) {
    out.push_back({PreTokenizerSpec::Kind::other, std::move(step), false, false});
  };
  each_step(root, "pretokenizers", [&](const Json& j) {
    const std::string_view type = j.at("type").as_string();
    if (type == "ByteLevel") {
      out.push_back(
          {PreTokenizerSpec::Kind::byte_level, nullptr, flag(j, "add_prefix_space"), flag(j, "use_regex", true)});
    } else if (type == "BertPreTokenizer") {
      add(make_whitespace_split());
      add(make_punctuation(Behavior::isolated));
    } else {
      add(pre_tokenizer_step(j));
    }
  });
  return out;
}

// ---- models ---------------------------------------------------------------------------------------------------------

Vocabulary vocabulary(const Json& j) {
  Vocabulary out;
  std::size_t bytes = 0;
  for (const JsonMember& m : j.items()) bytes += m.key.size();
  out.reserve(j.size(), bytes);
  // Holes are allowed, but one id must not cost what the file does not.
  const auto most = static_cast<std::int64_t>(j.size()) * 2 + 65'536;
  for (const JsonMember& m : j.items()) out.add(m.key, static_cast<std::int32_t>(m.value.as_int(0, most)));
  return out;
}

std::pair<std::string_view, std::string_view> merge_parts(const Json& j) {
  if (j.is_array()) {
    if (j.size() != 2) j.fail("two tokens");
    return {j.at(0).as_string(), j.at(1).as_string()};
  }
  const std::string_view s = j.as_string();
  const std::size_t space = s.find(' ');
  if (space == std::string_view::npos || s.find(' ', space + 1) != std::string_view::npos)
    j.fail("two tokens with a space between");
  return {s.substr(0, space), s.substr(space + 1)};
}

std::vector<Merge> merges(const Json& list, const Vocabulary& vocabulary, std::size_t prefix) {
  std::vector<Merge> out;
  out.reserve(list.size());
  std::string whole;
  for (const Json& j : list.elements()) {
    if (j.is_string() && j.as_string().starts_with("#version")) continue;
    const auto [a, b] = merge_parts(j);
    if (b.size() < prefix) j.fail("a second token with the continuing_subword_prefix");
    whole.assign(a).append(b.substr(prefix));
    const Merge m{vocabulary.find(a), vocabulary.find(b), vocabulary.find(whole),
                  static_cast<std::uint32_t>(out.size())};
    if (m.left == kNoToken || m.right == kNoToken || m.to == kNoToken)
      j.fail("a merge whose parts and result are in the vocabulary");
    out.push_back(m);
  }
  return out;
}

std::string optional_text(const Json& object, std::string_view key) {
  const Json* j = object.find_value(key);
  return j ? text(*j) : std::string();
}

ModelPtr bpe(const Json& j, std::vector<PreTokenizerSpec> specs, State& state) {
  BpeOptions on;
  if (const Json* dropout = j.find_value("dropout"); dropout && dropout->as_double() != 0)
    dropout->fail("null or 0: merges are not left out at random here");
  on.prefix = optional_text(j, "continuing_subword_prefix");
  on.suffix = optional_text(j, "end_of_word_suffix");
  on.fuse_unknown = flag(j, "fuse_unk", false);
  on.byte_fallback = flag(j, "byte_fallback", false);
  on.ignore_merges = flag(j, "ignore_merges", false);
  Vocabulary words = vocabulary(j.at("vocab"));
  if (const std::string name = optional_text(j, "unk_token"); j.find_value("unk_token")) {
    on.unknown = words.find(name);
    if (on.unknown == kNoToken) on.missing_unknown = name;
  }
  const std::vector<Merge> list = merges(j.at("merges"), words, on.prefix.size());
  // Fallback spells a byte character's two bytes, not the byte it stands for.
  on.bytes = add_pre_tokenizers(std::move(specs), on.prefix.empty() && on.suffix.empty() && !on.byte_fallback, state);
  return make_bpe(std::move(words), list, std::move(on));
}

ModelPtr unigram(const Json& j) {
  const Json& list = j.at("vocab");
  Vocabulary words;
  std::vector<double> scores;
  words.reserve(list.size(), list.size() * 8);
  for (const Json& piece : list.elements()) {
    if (piece.size() != 2 || !piece.is_array()) piece.fail("a token and its score");
    words.add(piece.at(0).as_string(), static_cast<std::int32_t>(scores.size()));
    scores.push_back(piece.at(1).as_double());
  }
  std::int32_t unknown = kNoToken;
  if (const Json* id = j.find_value("unk_id"))
    unknown = static_cast<std::int32_t>(id->as_int(0, static_cast<std::int64_t>(scores.size()) - 1));
  return make_unigram(std::move(words), std::move(scores), unknown, flag(j, "byte_fallback", false));
}

/// Old files do not say which it is.
std::string_view model_type(const Json& j) {
  if (const Json* type = j.find("type")) return type->as_string();
  if (j.contains("merges")) return "BPE";
  if (j.at("vocab").is_array()) return "Unigram";
  return j.contains("max_input_chars_per_word") ? "WordPiece" : "WordLevel";
}

ModelPtr model(const Json& j, std::vector<PreTokenizerSpec> specs, State& state) {
  const std::string_view type = model_type(j);
  if (type == "BPE") return bpe(j, std::move(specs), state);
  add_pre_tokenizers(std::move(specs), false, state);
  if (type == "Unigram") return unigram(j);
  if (type == "WordLevel") return make_word_level(vocabulary(j.at("vocab")), text(j.at("unk_token")));
  if (type == "WordPiece")
    return make_word_piece(vocabulary(j.at("vocab")), {text(j.at("unk_token")), text(j.at("continuing_subword_prefix")),
                                                       count(j.at("max_input_chars_per_word"))});
  j.at("type").fail("BPE, WordPiece, WordLevel or Unigram");
}

// ---- post-processors ------------------------------------------------------------------------------------------------

std::int32_t id_of(const Json& j) { return static_cast<std::int32_t>(j.as_int(0, 0x7fffffff)); }

// One processor hands the next a list of parts, of which a template makes one a piece.
using Part = std::vector<PostProcessor::Piece>;

/// BERT's and RoBERTa's: cls and sep around the first part, sep behind the others, and RoBERTa's before them, too.
void put_around(const Json& j, bool roberta, std::vector<Part>& parts) {
  const PostProcessor::Piece cls{false, {id_of(j.at("cls").at(1))}}, sep{false, {id_of(j.at("sep").at(1))}};
  for (Part& part : parts) {
    const bool first = &part == parts.data();
    if (first || roberta) part.insert(part.begin(), first ? cls : sep);
    part.push_back(sep);
  }
}

std::vector<Part> fill_template(const Json& j, const std::vector<Part>& parts) {
  if (parts.size() != 1) j.fail("no template behind another one: there is one text");
  std::vector<Part> out;
  for (const Json& piece : j.at("single").elements()) {
    if (const Json* sequence = piece.find("Sequence")) {
      if (sequence->at("id").as_string() != "A") sequence->at("id").fail("A, as there is one text");
      out.push_back(parts[0]);
      continue;
    }
    const Json& name = piece.at("SpecialToken").at("id");
    const Json* token = j.at("special_tokens").find(name.as_string());
    if (!token) name.fail("one of special_tokens");
    out.push_back({{false, {}}});
    for (const Json& id : token->at("ids").elements()) out.back()[0].ids.push_back(id_of(id));
  }
  return out;
}

PostProcessor post_processor(const Json& root) {
  PostProcessor out;
  std::vector<Part> parts{{{true, {}}}};
  bool adds = false;
  each_step(root, "processors", [&](const Json& j) {
    const std::string_view type = j.at("type").as_string();
    const bool roberta = type == "RobertaProcessing";
    if ((roberta || type == "ByteLevel") && flag(j, "trim_offsets", true))
      out.trims.push_back({flag(j, "add_prefix_space", true)});
    if (type == "ByteLevel") return;
    adds = true;
    if (roberta || type == "BertProcessing") put_around(j, roberta, parts);
    else if (type == "TemplateProcessing") parts = fill_template(j, parts);
    else j.at("type").fail("a known post-processor");
  });
  if (adds)
    for (const Part& part : parts) out.pieces.insert(out.pieces.end(), part.begin(), part.end());
  return out;
}

// ---- decoders -------------------------------------------------------------------------------------------------------

DecoderPtr decoder_step(const Json& j) {
  const std::string_view type = j.at("type").as_string();
  if (type == "ByteLevel") return make_byte_level_decoder();
  if (type == "WordPiece") return make_word_piece_decoder(text(j.at("prefix")), flag(j, "cleanup"));
  if (type == "Metaspace") return make_metaspace_decoder(replacement(j), prepend_scheme(j) != PrependScheme::never);
  if (type == "ByteFallback") return make_byte_fallback_decoder();
  if (type == "BPEDecoder") return make_bpe_decoder(text(j.at("suffix")));
  if (type == "Fuse") return make_fuse_decoder();
  if (type == "Strip") return make_strip_decoder(character(j.at("content")), count(j.at("start")), count(j.at("stop")));
  if (type == "Replace") return make_replace_decoder(pattern(j.at("pattern")), text(j.at("content")));
  if (type == "CTC")
    return make_ctc_decoder(text(j.at("pad_token")), text(j.at("word_delimiter_token")), flag(j, "cleanup"));
  j.at("type").fail("a known decoder");
}

// ---- the whole ------------------------------------------------------------------------------------------------------

void check_head(const Json& root) {
  if (const Json* version = root.find("version"); version && version->as_string() != "1.0") version->fail("\"1.0\"");
  for (const char* key : {"truncation", "padding"}) {
    const Json* j = root.find_value(key);
    if (j && !j->is_object()) j->fail("an object or null");
  }
}

void add_added(const Json& list, State& state) {
  for (const Json& j : list.elements()) {
    id_of(j.at("id"));  // the reference goes by the content, too
    state.added.add({text(j.at("content")), flag(j, "single_word"), flag(j, "lstrip"), flag(j, "rstrip"),
                     flag(j, "normalized"), flag(j, "special")},
                    state.model->vocabulary(), state.normalizer.get());
  }
}

}  // namespace

std::shared_ptr<const State> state_from_json(const Json& root) {
  auto state = std::make_shared<State>();
  check_head(root);
  std::vector<PreTokenizerSpec> specs;
  if (const Json* j = root.find_value("normalizer")) state->normalizer = normalizer(*j);
  if (const Json* j = root.find_value("pre_tokenizer")) specs = pre_tokenizers(*j);
  state->model = model(root.at("model"), std::move(specs), *state);
  if (const Json* j = root.find_value("post_processor")) state->post_processor = post_processor(*j);
  if (const Json* j = root.find_value("decoder")) {
    each_step(*j, "decoders", [&](const Json& step) { state->decoders.push_back(decoder_step(step)); });
    // Without a decoder tokens are joined by spaces; an empty sequence is one, and joins them by nothing.
    if (state->decoders.empty()) state->decoders.push_back(make_fuse_decoder());
  }
  if (const Json* j = root.find_value("added_tokens")) add_added(*j, *state);
  state->finish();
  return state;
}

}  // namespace metal_candle::io::tok
