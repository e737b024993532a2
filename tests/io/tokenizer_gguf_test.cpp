// Vocabularies of GGUF files: the same ids as the tokenizer.json they came from, or as SentencePiece's.
#include <gtest/gtest.h>

#include <algorithm>
#include <string>
#include <vector>

#include "metal_candle/bundle.hpp"
#include "metal_candle/error.hpp"
#include "metal_candle/gguf.hpp"
#include "tests/io/gguf_bytes.h"
#include "tests/io/temp_folder.h"
#include "tests/io/tokenizer_fixture.h"

namespace metal_candle {
namespace {

enum : std::uint32_t { kI32 = 5, kF32 = 6, kU32 = 4, kBool = 7, kString = 8, kArray = 9 };

/// Metadata of a vocabulary; members may be changed before it is written.
struct Vocabulary {
  std::string model = "gpt2", pre = "gpt-2";
  std::vector<std::string> tokens, merges;
  std::vector<std::int32_t> types;
  std::vector<float> scores;
  int bos = -1, eos = -1;
  bool add_bos = false, add_eos = false;

  std::string bytes() const {
    GgufBytes values;
    int count = 0;
    const auto key = [&](const char* name, std::uint32_t type) -> GgufBytes& {
      ++count;
      return values.key(name, type);
    };
    const auto array = [&](const char* name, std::uint32_t type, std::size_t size) -> GgufBytes& {
      return key(name, kArray).put(type).put<std::uint64_t>(size);
    };
    key("tokenizer.ggml.model", kString).text(model);
    if (!pre.empty()) key("tokenizer.ggml.pre", kString).text(pre);
    array("tokenizer.ggml.tokens", kString, tokens.size());
    for (const std::string& t : tokens) values.text(t);
    if (!types.empty()) array("tokenizer.ggml.token_type", kI32, types.size());
    for (const std::int32_t t : types) values.put(t);
    if (!merges.empty()) array("tokenizer.ggml.merges", kString, merges.size());
    for (const std::string& m : merges) values.text(m);
    if (!scores.empty()) array("tokenizer.ggml.scores", kF32, scores.size());
    for (const float s : scores) values.put(s);
    if (bos >= 0) key("tokenizer.ggml.bos_token_id", kU32).put<std::uint32_t>(static_cast<std::uint32_t>(bos));
    if (eos >= 0) key("tokenizer.ggml.eos_token_id", kU32).put<std::uint32_t>(static_cast<std::uint32_t>(eos));
    key("tokenizer.ggml.add_bos_token", kBool).put<std::uint8_t>(add_bos);
    key("tokenizer.ggml.add_eos_token", kBool).put<std::uint8_t>(add_eos);
    return GgufBytes().header(0, static_cast<std::uint64_t>(count)).raw(static_cast<const std::string&>(values)).pad();
  }
  Tokenizer load() const {
    const TempFolder folder;
    return Tokenizer::load(folder.write("vocabulary.gguf", bytes()));
  }
  /// By way of the tokenizer.json that it makes.
  Tokenizer converted() const {
    const TempFolder folder;
    return tokenizer_of(tokenizer_json(Gguf::open(folder.write("a.gguf", bytes()))), "converted");
  }
};

Vocabulary of_json(const std::string& name, const std::string& pre) {
  const Json json = tokenizer_json(name);
  Vocabulary out;
  out.pre = pre;
  const Json& vocab = json.at("model").at("vocab");
  out.tokens.resize(vocab.size());
  for (const JsonMember& m : vocab.items()) out.tokens.at(static_cast<std::size_t>(m.value.as_int64())) = m.key;
  for (const Json& m : json.at("model").at("merges").elements())
    out.merges.push_back(std::string(m.at(0).as_string()) + ' ' + std::string(m.at(1).as_string()));
  out.types.assign(out.tokens.size(), 1);
  for (const Json& a : json.at("added_tokens").elements()) {
    const auto id = static_cast<std::size_t>(a.at("id").as_int64());
    if (id >= out.tokens.size()) {
      out.tokens.resize(id + 1);
      out.types.resize(id + 1);
    }
    out.tokens[id] = a.at("content").as_string();
    out.types[id] = a.at("special").as_bool() ? 3 : 4;
  }
  return out;
}

class SameAsJson : public testing::TestWithParam<std::pair<const char*, const char*>> {};

TEST_P(SameAsJson, Ids) {
  const auto [name, pre] = GetParam();
  const Tokenizer want = tokenizer(name), got = of_json(name, pre).load(), converted = of_json(name, pre).converted();
  EXPECT_EQ(got.vocab_size(), want.vocab_size());
  const Json cases = tokenizer_fixture("cases.json");
  const EncodeOptions plain{.add_special_tokens = false};
  for (const Json& s : cases.at("strings").elements()) {
    // Which added tokens are normalized, a GGUF file does not say.
    if (s.as_string().find("<think>") != std::string_view::npos) continue;
    const auto ids = want.encode(s.as_string(), plain);
    EXPECT_EQ(got.encode(s.as_string(), plain), ids) << s.as_string();
    EXPECT_EQ(converted.encode(s.as_string(), plain), ids) << s.as_string();
    EXPECT_EQ(got.decode(ids), want.decode(ids));
    EXPECT_EQ(converted.decode(ids, true), want.decode(ids, true));
    EXPECT_EQ(got.decode(ids, true), want.decode(ids, true));
  }
}
INSTANTIATE_TEST_SUITE_P(TokenizerGguf, SameAsJson,
                         testing::Values(std::pair("gpt2", "gpt-2"), std::pair("smollm", "smollm"),
                                         std::pair("qwen2", "qwen2"), std::pair("llama3", "llama-bpe")),
                         [](const auto& info) { return std::string(info.param.first); });

TEST(TokenizerGguf, SentencePiecesAreMergedByScore) {
  const Json fixture = tokenizer_fixture("sentencepiece.json");
  Vocabulary v;
  v.model = "llama";
  v.pre = "default";
  v.add_bos = true;
  v.bos = 1;
  for (const Json& t : fixture.at("tokens").elements()) v.tokens.emplace_back(t.as_string());
  for (const Json& t : fixture.at("types").elements()) v.types.push_back(static_cast<std::int32_t>(t.as_int64()));
  for (const Json& s : fixture.at("scores").elements()) v.scores.push_back(static_cast<float>(s.as_double()));
  const Tokenizer t = v.load(), converted = v.converted();
  const Json& strings = fixture.at("strings");
  ASSERT_GT(strings.size(), 50u);
  for (std::size_t i = 0; i < strings.size(); ++i) {
    std::vector<std::int32_t> want{1};
    for (const Json& id : fixture.at("ids").at(i).elements()) want.push_back(static_cast<std::int32_t>(id.as_int64()));
    EXPECT_EQ(t.encode(strings.at(i).as_string()), want) << strings.at(i).as_string();
    EXPECT_EQ(converted.encode(strings.at(i).as_string()), want) << strings.at(i).as_string();
    EXPECT_EQ(t.decode(want, true), strings.at(i).as_string());
    EXPECT_EQ(converted.decode(want, true), strings.at(i).as_string());
  }
}

// Merges go as far as a piece does: what is one token here is within a piece there.
TEST(TokenizerGguf, CutsOfNewerModels) {
  const auto tokens = [](const char* pre, std::string_view text) {
    Vocabulary v = of_json("gpt2", pre);
    for (const char* pair : {"a B", "1 2", "t '", "t' s", "/ \xC4\x8A", "B a"}) {
      v.merges.insert(v.merges.begin(), pair);
      std::string whole = pair;
      v.tokens.push_back(whole.erase(whole.find(' '), 1));
      v.types.push_back(1);
    }
    EXPECT_EQ(v.load().encode(text), v.converted().encode(text)) << text;
    return v.load().encode(text).size();
  };
  for (const auto& [text, gpt2, tekken, gpt4o] : {std::tuple("aB", 1u, 2u, 2u),
                                                  {"12", 1u, 2u, 1u},
                                                  {"t's", 2u, 2u, 1u},
                                                  {"/\n", 2u, 1u, 1u},
                                                  {"Ba", 1u, 1u, 1u}}) {
    EXPECT_EQ(tokens("gpt-2", text), gpt2) << text;
    EXPECT_EQ(tokens("tekken", text), tekken) << text;
    EXPECT_EQ(tokens("gpt-4o", text), gpt4o) << text;
  }
}

TEST(TokenizerGguf, SpecialTokensAroundTheText) {
  Vocabulary v = of_json("gpt2", "gpt-2");
  v.bos = 1, v.eos = 2, v.add_bos = v.add_eos = true;
  const Tokenizer t = v.load();
  const auto plain = t.encode("ab", {.add_special_tokens = false});
  auto want = plain;
  want.insert(want.begin(), 1);
  want.push_back(2);
  EXPECT_EQ(t.encode("ab"), want);
  EXPECT_EQ(v.converted().encode("ab"), want);
  EXPECT_EQ(t.decode(want, true), "ab");
}

TEST(TokenizerGguf, AWholeTokenizerJsonIsPreferred) {
  GgufBytes values;
  values.key("tokenizer.huggingface.json", kString).text(tokenizer_json("bert").dump());
  const TempFolder folder;
  const Tokenizer t = Tokenizer::from_gguf(Gguf::open(folder.write(
      "a.gguf",
      static_cast<const std::string&>(GgufBytes().header(0, 1).raw(static_cast<const std::string&>(values)).pad()))));
  EXPECT_EQ(t.encode("Hello, world!"), tokenizer("bert").encode("Hello, world!"));
}

/// What is wrong, and where.
template <class Change>
void refused(const char* field, const char* part, Change change) {
  Vocabulary v = of_json("gpt2", "gpt-2");
  change(v);
  try {
    v.load();
    ADD_FAILURE() << "accepted: " << field << ' ' << part;
  } catch (const FileError& e) {
    EXPECT_NE(e.field().find(field), std::string::npos) << e.what();
    EXPECT_NE(std::string(e.what()).find(part), std::string::npos) << e.what();
  }
}

TEST(TokenizerGguf, WhatDoesNotFitIsRefused) {
  refused("tokenizer.ggml.model", "mamba", [](Vocabulary& v) { v.model = "mamba"; });
  refused("tokenizer.ggml.pre", "klingon", [](Vocabulary& v) { v.pre = "klingon"; });
  refused("tokenizer.ggml.pre", "smollm", [](Vocabulary& v) { v.pre = "klingon"; });
  refused("tokenizer.ggml.token_type", "600", [](Vocabulary& v) { v.types.pop_back(); });
  refused("tokenizer.ggml.merges", "\"zz qq\"", [](Vocabulary& v) { v.merges[3] = "zz qq"; });
  refused("tokenizer.ggml.merges", "space", [](Vocabulary& v) { v.merges[3] = "zzqq"; });
  refused("tokenizer.ggml.merges", "", [](Vocabulary& v) { v.merges.clear(); });
  refused("tokenizer.ggml.tokens", "", [](Vocabulary& v) { v.tokens.clear(), v.types.clear(); });
  refused("tokenizer.ggml.tokens", "UTF-8", [](Vocabulary& v) { v.tokens[9] = "\xFF"; });
  refused("tokenizer.ggml.bos_token_id", "", [](Vocabulary& v) { v.bos = 600, v.add_bos = true; });
  refused("tokenizer.ggml.scores", "", [](Vocabulary& v) { v.model = "llama"; });
  refused("tokenizer.ggml.scores", "600", [](Vocabulary& v) { v.model = "llama", v.scores = {1, 2}; });
  refused("tokenizer.ggml.scores", "finite",
          [](Vocabulary& v) { v.model = "llama", v.scores.assign(600, std::numeric_limits<float>::quiet_NaN()); });
}

}  // namespace
}  // namespace metal_candle
