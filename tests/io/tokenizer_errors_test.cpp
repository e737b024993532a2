// Tokenizer files that are wrong: each is refused with the field's name.
#include <gtest/gtest.h>

#include <string>

#include "metal_candle/error.hpp"
#include "tests/io/temp_folder.h"
#include "tests/io/tokenizer_fixture.h"

namespace metal_candle {
namespace {

/// The fixture's text with `from` replaced once; it must be there.
std::string changed(const std::string& name, const std::string& from, const std::string& to) {
  std::string text = tokenizer_json(name).dump();
  const std::size_t at = text.find(from);
  EXPECT_NE(at, std::string::npos) << from;
  return at == std::string::npos ? text : text.replace(at, from.size(), to);
}

struct Wrong {
  const char *name, *from, *to;
  const char *field, *part;  // of the error
};

TEST(TokenizerErrors, NameTheFieldAndWhatItHas) {
  const Wrong kWrong[] = {
      {"gpt2", R"("type": "ByteLevel")", R"("type": "Klingon")", "pre_tokenizer.type", "Klingon"},
      {"gpt2", R"("type": "BPE")", R"("type": "Morfessor")", "model.type", "Morfessor"},
      {"gpt2", R"("version": "1.0")", R"("version": "2.0")", "version", "2.0"},
      {"gpt2", R"("truncation": null)", R"("truncation": 512)", "truncation", "512"},
      {"gpt2", R"("dropout": null)", R"("dropout": 0.1)", "model.dropout", "0.1"},
      {"gpt2", R"("merges": [[)", R"("merges": [["zz", "qq"], [)", "model.merges[0]", "vocabulary"},
      {"gpt2", R"("merges": [[)", R"("merges": ["abc", [)", "model.merges[0]", "space"},
      {"gpt2", R"("merges": [[)", R"("merges": [["a"], [)", "model.merges[0]", "two tokens"},
      {"gpt2", R"("merges": [[)", R"("merges": [7, [)", "model.merges[0]", "7"},
      {"gpt2", R"("<|endoftext|>": 0)", R"("<|endoftext|>": -1)", "model.vocab", "-1"},
      {"gpt2", R"("<|endoftext|>": 0)", R"("<|endoftext|>": 2147483647)", "model.vocab", "2147483647"},
      {"gpt2", R"("<|endoftext|>": 0)", R"("<|endoftext|>": 0.5)", "model.vocab", "0.5"},
      {"gpt2", R"("special": true)", R"("special": 1)", "added_tokens[0].special", "1"},
      {"gpt2", R"("content": "<|endoftext|>")", R"("content": null)", "added_tokens[0].content", "null"},
      {"gpt2", R"("lstrip": false, )", "", "added_tokens[0]", "lstrip"},
      {"qwen2", R"("type": "NFC")", R"("type": "NFZ")", "normalizer.type", "NFZ"},
      {"qwen2", "(?i:'s", "(?i:[", "pre_tokenizer.pretokenizers[0].pattern.Regex", "regular expression"},
      {"qwen2", "(?i:'s", "(?~a)|(?i:'s", "pre_tokenizer.pretokenizers[0].pattern.Regex", "(?~"},
      {"qwen2", "(?i:'s", "[a&&b]|(?i:'s", "pre_tokenizer.pretokenizers[0].pattern.Regex", "&&"},
      {"qwen2", "(?i:'s", "(?i:ss|'s", "pre_tokenizer.pretokenizers[0].pattern.Regex", "one character"},
      {"qwen2", R"("behavior": "Isolated")", R"("behavior": "Sometimes")", "pretokenizers[0].behavior", "Sometimes"},
      {"bert", R"("lowercase": true)", R"("lowercase": "yes")", "normalizer.lowercase", "yes"},
      {"bert", R"("max_input_chars_per_word": 100)", R"("max_input_chars_per_word": -3)", "max_input_chars_per_word",
       "-3"},
      {"bert", R"("SpecialToken": {"id": "[CLS]")", R"("SpecialToken": {"id": "[NIX]")",
       "post_processor.single[0].SpecialToken.id", "[NIX]"},
      {"bert_cased", R"("type": "BertProcessing")", R"("type": "ErnieProcessing")", "post_processor.type", "Ernie"},
      {"llama2", R"("type": "ByteFallback")", R"("type": "Fallback")", "decoder.decoders[1].type", "Fallback"},
      {"llama2", R"("content": " ", "start": 1)", R"("content": "ab", "start": 1)", "decoder.decoders[3].content",
       "ab"},
      {"t5", R"("unk_id": 2)", R"("unk_id": 100000)", "model.unk_id", "100000"},
      {"t5", R"("precompiled_charsmap": ")", R"("precompiled_charsmap": "!)", "precompiled_charsmap", "base64"},
      {"t5", R"("precompiled_charsmap": ")", R"("precompiled_charsmap": "/////)", "precompiled_charsmap", "map"},
      {"t5", R"("replacement": "▁")", R"("replacement": "")", "replacement", "one character"},
      {"t5", R"("prepend_scheme": "always")", R"("prepend_scheme": "often")", "prepend_scheme", "often"},
  };
  for (const Wrong& w : kWrong) {
    try {
      Tokenizer::from_json(changed(w.name, w.from, w.to), "tokenizer.json");
      ADD_FAILURE() << "accepted: " << w.to;
    } catch (const FileError& e) {
      EXPECT_EQ(e.file(), "tokenizer.json");
      EXPECT_NE(e.field().find(w.field), std::string::npos) << e.what() << "\n" << w.to;
      EXPECT_NE(std::string(e.what()).find(w.part), std::string::npos) << e.what() << "\n" << w.to;
    }
  }
}

/// A copy in which the node that makes `at` zero is replaced, or left out if `with` is null. Vocabularies keep only
/// their first elements in the count.
Json with_damage(const Json& j, int& at, const Json* with) {
  if (at-- == 0) return with ? *with : Json();
  int few = 4;
  if (j.is_array()) {
    Json out = Json::array();
    for (const Json& e : j.elements()) {
      const bool gone = !with && at == 0;
      Json copy = --few >= 0 || j.size() < 40 ? with_damage(e, at, with) : e;
      if (!gone) out.push_back(std::move(copy));
    }
    return out;
  }
  if (!j.is_object()) return j;
  Json out = Json::object();
  for (const JsonMember& m : j.items()) {
    const bool gone = !with && at == 0;
    Json copy = --few >= 0 || j.size() < 40 ? with_damage(m.value, at, with) : m.value;
    if (!gone) out.set(m.key, std::move(copy));
  }
  return out;
}

TEST(TokenizerErrors, DamagedFilesAreReadOrRefused) {
  const Json kValues[] = {Json(), true, -1, 0, 7, 1e9, 1.5, "", "x", "ByteLevel", Json::array(), Json::object()};
  int refused = 0, read = 0;
  const auto take = [&](const Json& json) {
    try {
      const Tokenizer t = tokenizer_of(json, "damaged");
      ++read;
      const Tokenizer::Encoding e = t.encode_with_offsets("Hello, w\u00f6rld 12  <mask>\n");
      for (const auto& [begin, end] : e.offsets) EXPECT_LE(begin, end);
      t.decode(t.encode("It's", {.add_special_tokens = false}));
    } catch (const FileError&) {
      ++refused;
    } catch (const UserError&) {  // an unknown token that is not there, when it is needed
    }
  };
  for (const char* name : {"qwen2", "llama3", "roberta", "bert_cased", "t5", "mistral", "clip", "delimited"}) {
    const Json whole = tokenizer_json(name);
    for (int n = 1;; ++n) {
      int at = n;
      take(with_damage(whole, at, nullptr));
      if (at >= 0) break;
      for (const Json& value : kValues) {
        at = n;
        take(with_damage(whole, at, &value));
      }
    }
  }
  EXPECT_GT(refused, 2000);
  EXPECT_GT(read, 500);
}

TEST(TokenizerErrors, FilesThatAreNotThereOrNoTokenizers) {
  const TempFolder folder;
  EXPECT_THROW(Tokenizer::load(folder.path()), FileError);
  EXPECT_THROW(Tokenizer::load(folder / "none.gguf"), FileError);
  for (const char* text :
       {"", "[]", "{}", "{\"model\": {}}", "{\"model\": null}", "null", "{\"model\": {\"vocab\": {}}}"}) {
    folder.write("tokenizer.json", text);
    EXPECT_THROW(Tokenizer::load(folder.path()), FileError) << text;
  }
}

TEST(TokenizerErrors, AnUnknownTokenThatIsMissingIsNamedWhenItIsNeeded) {
  const Tokenizer t =
      Tokenizer::from_json(R"({"model": {"type": "WordLevel", "vocab": {"a": 0}, "unk_token": "[X]"}})", "t");
  EXPECT_EQ(t.encode("a"), std::vector<std::int32_t>{0});
  try {
    t.encode("b");
    ADD_FAILURE();
  } catch (const UserError& e) {
    EXPECT_NE(std::string(e.what()).find("[X]"), std::string::npos);
  }
}

TEST(TokenizerErrors, APatternThatTakesForeverEnds) {
  const Tokenizer t = Tokenizer::from_json(
      changed("gpt2", R"("pre_tokenizer": {"type": "ByteLevel")",
              R"x("pre_tokenizer": {"type": "Split", "pattern": {"Regex": "(a+a+)+[^a]"}, "behavior": "Isolated", )x"
              R"x("invert": false}, "ignored": {"type": "ByteLevel")x"),
      "t");
  EXPECT_THROW(t.encode(std::string(5000, 'a')), UserError);
}

}  // namespace
}  // namespace metal_candle
