// The vocabularies of GGUF files: byte-level BPE ("gpt2"), whose split patterns the file only names, and SentencePiece's
// BPE ("llama"). A file that carries a whole tokenizer.json is read by that.
#include "io/tokenizer/gguf_vocabulary.h"
#include "io/tokenizer/state.h"

namespace metal_candle::io::tok {
namespace {

void add_special_tokens(const GgufVocabulary& from, State& state) {
  for (std::size_t i = 0; i < from.tokens.size(); ++i) {
    if (!from.added(i)) continue;
    AddedToken token{.content = std::string(from.tokens[i]), .special = from.special(i)};
    state.added.add(std::move(token), static_cast<std::int32_t>(i), nullptr);
  }
  auto& pieces = state.post_processor.pieces;
  if (const auto id = from.first()) pieces.push_back({false, {*id}});
  pieces.push_back({true, {}});
  if (const auto id = from.last()) pieces.push_back({false, {*id}});
}

void load_byte_level(const GgufVocabulary& from, State& state) {
  const GgufCut& cut = from.cut();
  if (cut.nfc) state.normalizer = make_form(Form::nfc);
  std::vector<PreTokenizerSpec> specs;
  for (const char* pattern : cut.patterns) {
    PreTokenizerSpec spec;
    spec.made = pattern == kEachNumber ? make_digits(true) : make_split(make_regex(pattern), Behavior::isolated, false);
    specs.push_back(std::move(spec));
  }
  specs.push_back({PreTokenizerSpec::Kind::byte_level, nullptr, false, false});
  BpeOptions on;
  on.ignore_merges = cut.ignore_merges;
  on.bytes = add_pre_tokenizers(std::move(specs), true, state);
  Vocabulary words = from.vocabulary();
  const std::vector<Merge> merges = from.merges(words);
  state.model = make_bpe(std::move(words), merges, std::move(on));
  state.decoders.push_back(make_byte_level_decoder());
}

void load_sentence_piece(const GgufVocabulary& from, State& state) {
  constexpr const char* kMark = "\u2581";
  std::vector<NormalizerPtr> steps;
  if (from.space_prefix()) steps.push_back(make_prepend(kMark));
  steps.push_back(make_replace(make_literal(" "), kMark));
  state.normalizer = make_normalizer_sequence(std::move(steps));
  Vocabulary words = from.vocabulary();
  const std::vector<Merge> merges = from.merges(words);
  BpeOptions on;
  on.unknown = from.unknown();
  on.fuse_unknown = on.byte_fallback = true;
  state.model = make_bpe(std::move(words), merges, std::move(on));
  state.decoders.push_back(make_replace_decoder(make_literal(kMark), " "));
  state.decoders.push_back(make_byte_fallback_decoder());
  state.decoders.push_back(make_fuse_decoder());
  if (from.space_prefix()) state.decoders.push_back(make_strip_decoder(U' ', 1, 0));
}

}  // namespace

std::shared_ptr<const State> state_from_gguf(const Gguf& gguf) {
  if (const GgufValue* whole = gguf.find("tokenizer.huggingface.json"))
    return state_from_json(Json::parse(whole->as_string(), gguf.path().string() + ": tokenizer.huggingface.json"));
  const GgufVocabulary from(gguf);
  auto state = std::make_shared<State>();
  from.sentence_piece ? load_sentence_piece(from, *state) : load_byte_level(from, *state);
  add_special_tokens(from, *state);
  state->finish();
  return state;
}

}  // namespace metal_candle::io::tok
