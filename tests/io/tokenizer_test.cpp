// Tokenizers against the reference's ids, offsets and texts (tests/fixtures/make_tokenizer_fixtures.py).
#include "metal_candle/tokenizer.hpp"

#include <gtest/gtest.h>

#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <string>
#include <thread>
#include <vector>

#include "metal_candle/error.hpp"
#include "metal_candle/json.hpp"
#include "tests/io/tokenizer_fixture.h"

namespace metal_candle {
namespace {

const Json& cases() {
  static const Json value = tokenizer_fixture("cases.json");
  return value;
}

std::vector<std::string> names() {
  std::vector<std::string> out;
  for (const JsonMember& m : cases().items()) {
    if (m.key != "strings") out.emplace_back(m.key);
  }
  return out;
}

class Hash {
 public:
  void add(std::string_view bytes) {
    for (const char b : bytes) h_ = (h_ ^ static_cast<unsigned char>(b)) * 0x100000001B3u;
  }
  void add(std::uint32_t n) {
    for (int i = 0; i < 4; ++i) h_ = (h_ ^ (n >> 8 * i & 0xFF)) * 0x100000001B3u;
  }
  std::string hex() const {
    char out[17];
    std::snprintf(out, sizeof out, "%016llx", static_cast<unsigned long long>(h_));
    return out;
  }

 private:
  std::uint64_t h_ = 0xCBF29CE484222325u;
};

std::string streamed(const Tokenizer& t, const std::vector<std::int32_t>& ids, bool skip) {
  DecodeStream stream(t, skip);
  std::string out;
  for (std::size_t i = 0; i < ids.size(); ++i) {
    out += stream.push(ids[i]);
    if (i >= 40) continue;
    EXPECT_EQ(out + stream.waiting(), t.decode(std::span(ids).first(i + 1), skip));
  }
  return out + stream.rest();
}

class Reference : public testing::TestWithParam<std::string> {};

TEST_P(Reference, IdsOffsetsAndTextsAreTheReferences) {
  const Tokenizer t = tokenizer(GetParam());
  const Json& mine = cases().at(GetParam());
  const Json& strings = cases().at("strings");
  ASSERT_GT(strings.size(), 200u);
  for (std::size_t i = 0; i < strings.size(); ++i) {
    const std::string s(strings.at(i).as_string());
    const Tokenizer::Encoding e = t.encode_with_offsets(s);
    if (i < mine.at("ids").size()) {
      std::vector<std::int32_t> want;
      for (const Json& id : mine.at("ids").at(i).elements()) want.push_back(static_cast<std::int32_t>(id.as_int64()));
      EXPECT_EQ(e.ids, want) << s;
    }
    EXPECT_EQ(t.encode(s), e.ids) << s;
    Hash h;
    for (const std::int32_t id : e.ids) h.add(static_cast<std::uint32_t>(id));
    for (const auto& [begin, end] : e.offsets) h.add(begin), h.add(end);
    for (const bool skip : {false, true}) {
      const std::string text = t.decode(e.ids, skip);
      h.add(text);
      EXPECT_EQ(streamed(t, e.ids, skip), text) << s;
    }
    EXPECT_EQ(h.hex(), mine.at("hashes").at(i).as_string()) << "string " << i << ": " << s;
  }
}
INSTANTIATE_TEST_SUITE_P(Tokenizer, Reference, testing::ValuesIn(names()), [](const auto& info) { return info.param; });

TEST(Tokenizer, BatchesAndThreadsGiveWhatOneCallGives) {
  const Tokenizer t = tokenizer("qwen2");
  std::vector<std::string> texts;
  for (int rep = 0; rep < 40; ++rep) {
    for (const Json& s : cases().at("strings").elements()) texts.emplace_back(s.as_string());
  }
  const auto batch = t.encode_batch(texts);
  ASSERT_EQ(batch.size(), texts.size());
  for (std::size_t i = 0; i < texts.size(); ++i) EXPECT_EQ(batch[i], t.encode(texts[i]));
  std::vector<std::thread> threads;
  std::atomic<int> wrong = 0;
  for (int n = 0; n < 4; ++n) {
    threads.emplace_back([&, copy = t] {
      for (std::size_t i = 0; i < 1000; ++i) wrong += copy.encode(texts[i]) != batch[i];
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(wrong, 0);
}

TEST(Tokenizer, ByteLevelTextComesBackByteForByte) {
  const Tokenizer t = tokenizer("gpt2");
  for (const Json& s : cases().at("strings").elements()) EXPECT_EQ(t.decode(t.encode(s.as_string())), s.as_string());
}

TEST(Tokenizer, InvalidUtf8IsTakenForReplacementCharacters) {
  const Tokenizer t = tokenizer("gpt2");
  const struct {
    const char *given, *taken;
  } kCases[] = {
      {"a\xFF\x62", "a\uFFFDb"},
      {"\xE2\x82", "\uFFFD"},    // cut short
      {"\xE2\x82z", "\uFFFDz"},  // one for the longest beginning
      {"\xF0\x9F\x98", "\uFFFD"},
      {"\xC0\x80", "\uFFFD\uFFFD"},            // overlong
      {"\xED\xA0\x80", "\uFFFD\uFFFD\uFFFD"},  // a surrogate
      {"\xF4\x90\x80\x80", "\uFFFD\uFFFD\uFFFD\uFFFD"},
      {"\x80\x80 ok", "\uFFFD\uFFFD ok"},
  };
  for (const auto& c : kCases) EXPECT_EQ(t.encode(c.given), t.encode(c.taken)) << c.taken;
  // Offsets are those of the bytes that were given.
  const auto e = t.encode_with_offsets("a\xE2\x82z");
  EXPECT_EQ(e.offsets.front(), std::pair(0u, 1u));
  EXPECT_EQ(e.offsets[1], std::pair(1u, 3u));
  EXPECT_EQ(e.offsets.back(), std::pair(3u, 4u));
}

TEST(Tokenizer, SpecialTokensAreTextIfAskedTo) {
  const Tokenizer t = tokenizer("gpt2");
  const std::int32_t end = t.token_to_id("<|im_end|>").value();
  EXPECT_EQ(t.encode("<|im_end|>"), std::vector{end});
  const auto ids = t.encode("<|im_end|>", {.parse_special = false});
  EXPECT_GT(ids.size(), 1u);
  EXPECT_EQ(t.decode(ids), "<|im_end|>");
  EXPECT_TRUE(t.is_special(end));
  EXPECT_FALSE(t.is_special(ids[0]));
  EXPECT_EQ(t.id_to_token(end), "<|im_end|>");
  EXPECT_EQ(t.decode(std::vector{end}, true), "");
}

TEST(Tokenizer, IdsThatAreNoneAreRefused) {
  const Tokenizer t = tokenizer("gpt2");
  EXPECT_EQ(t.vocab_size(), 600);
  EXPECT_FALSE(t.token_to_id("no such token").has_value());
  for (const std::int32_t id : {-1, t.vocab_size(), 0x7fffffff}) {
    EXPECT_THROW(t.id_to_token(id), UserError);
    EXPECT_FALSE(t.is_special(id));
  }
  EXPECT_THROW(t.decode(std::vector{-1}), UserError);
  EXPECT_THROW(DecodeStream(t).push(-1), UserError);
}

// As the reference decodes: a model may have more rows than there are tokens.
TEST(Tokenizer, IdsBehindTheVocabularyHaveNoText) {
  for (const char* name : {"gpt2", "llama2", "bert", "t5"}) {
    const Tokenizer t = tokenizer(name);
    const std::int32_t end = t.vocab_size();
    const std::vector<std::int32_t> ids = t.encode("some text", {.add_special_tokens = false});
    ASSERT_GT(ids.size(), 1u);
    std::vector<std::int32_t> more = {end};
    for (const std::int32_t id : ids) more.insert(more.end(), {id, end + 3, 0x7fffffff});
    EXPECT_EQ(t.decode(more), t.decode(ids)) << name;
    DecodeStream stream(t);
    std::string text;
    for (const std::int32_t id : more) text += stream.push(id);
    EXPECT_EQ(text + stream.rest(), t.decode(ids)) << name;
    EXPECT_EQ(t.decode(std::vector{end}), "") << name;
  }
}

// As the reference has it: white space that the token before has swallowed is no token.
TEST(Tokenizer, AddedTokensOfWhiteSpaceAreFoundOnce) {
  Json json = tokenizer_json("gpt2"), added = Json::array();
  for (const Json& token : json.at("added_tokens").elements()) added.push_back(token);
  added.push_back(Json::object({{"id", 100000},
                                {"content", "\n"},
                                {"single_word", false},
                                {"lstrip", true},
                                {"rstrip", true},
                                {"normalized", false},
                                {"special", false}}));
  json.set("added_tokens", added);
  const Tokenizer t = tokenizer_of(json, "gpt2");
  for (const char* text : {"a\nb", "a\n\nb", "a \n \n\n b"}) EXPECT_EQ(t.encode(text).size(), 3u) << text;
}

// As the reference has it: of two that the normalizer makes one, the later.
TEST(Tokenizer, AddedTokensThatBecomeOneAreTheLater) {
  Json json = tokenizer_json("gpt2"), added = Json::array();
  json.set("normalizer", Json::object({{"type", "Lowercase"}}));
  for (const Json& token : json.at("added_tokens").elements()) added.push_back(token);
  int id = 100000;
  for (const char* text : {"QUX", "Qux", "qUX", "quX"})
    added.push_back(Json::object({{"id", id++},
                                  {"content", text},
                                  {"single_word", false},
                                  {"lstrip", false},
                                  {"rstrip", false},
                                  {"normalized", true},
                                  {"special", false}}));
  json.set("added_tokens", added);
  const Tokenizer t = tokenizer_of(json, "gpt2");
  EXPECT_EQ(t.encode("qux"), std::vector<std::int32_t>{t.token_to_id("quX").value()});
}

// As the reference has it: no decoder joins tokens by spaces, an empty sequence of them by nothing.
TEST(Tokenizer, AnEmptySequenceOfDecodersIsADecoder) {
  const auto decoded = [](const Json& decoder) {
    Json json = tokenizer_json("gpt2");
    json.set("decoder", decoder);
    const Tokenizer t = tokenizer_of(json, "gpt2");
    return t.decode(std::vector<int>{t.token_to_id("a").value(), t.token_to_id("b").value()});
  };
  const Json empty = Json::object({{"type", "Sequence"}, {"decoders", Json::array()}});
  EXPECT_EQ(decoded(nullptr), "a b");
  EXPECT_EQ(decoded(empty), "ab");
  EXPECT_EQ(decoded(Json::object({{"type", "Sequence"}, {"decoders", Json::array({empty})}})), "ab");
}

// As the reference has it (tokenizers 0.23 gave these ids): a template hands on a part for each of its pieces, and BERT's
// and RoBERTa's put their tokens around each of them.
TEST(Tokenizer, PostProcessorsBehindEachOther) {
  const auto special = [](const char* name, int id) {
    return Json::object({{"id", name}, {"ids", Json::array({id})}, {"tokens", Json::array({name})}});
  };
  const auto piece = [](const char* kind, const char* name) {
    return Json::object({{kind, Json::object({{"id", name}, {"type_id", 0}})}});
  };
  const Json single = Json::array({piece("SpecialToken", "x"), piece("Sequence", "A"), piece("SpecialToken", "y")});
  const Json one = Json::object({{"type", "TemplateProcessing"},
                                 {"single", single},
                                 {"pair", single},
                                 {"special_tokens", Json::object({{"x", special("x", 2)}, {"y", special("y", 3)}})}});
  const Json bert =
      Json::object({{"type", "BertProcessing"}, {"sep", Json::array({"y", 3})}, {"cls", Json::array({"x", 2})}});
  const Json roberta = Json::object({{"type", "RobertaProcessing"},
                                     {"sep", Json::array({"w", 5})},
                                     {"cls", Json::array({"v", 4})},
                                     {"trim_offsets", true},
                                     {"add_prefix_space", true}});
  const auto with = [](const std::vector<Json>& steps) {
    Json json = tokenizer_json("gpt2"), list = Json::array();
    for (const Json& step : steps) list.push_back(step);
    json.set("post_processor", Json::object({{"type", "Sequence"}, {"processors", list}}));
    return tokenizer_of(json, "gpt2");
  };
  struct Case {
    std::vector<Json> steps;
    std::vector<std::int32_t> before, after;
  };
  for (const Case& c : {Case{{one, bert}, {2, 2, 3}, {3, 3, 3}}, Case{{bert, bert}, {2, 2}, {3, 3}},
                        Case{{roberta, one}, {2, 4}, {5, 3}}, Case{{one, roberta}, {4, 2, 5, 5}, {5, 5, 3, 5}},
                        Case{{bert, roberta}, {4, 2}, {3, 5}}}) {
    const Tokenizer t = with(c.steps);
    const auto text = t.encode("some text", {.add_special_tokens = false});
    EXPECT_EQ(text, tokenizer("gpt2").encode("some text", {.add_special_tokens = false}));
    std::vector<std::int32_t> want = c.before;
    want.insert(want.end(), text.begin(), text.end());
    want.insert(want.end(), c.after.begin(), c.after.end());
    EXPECT_EQ(t.encode("some text"), want);
  }
  EXPECT_THROW(with({one, one}), FileError);  // "not yet implemented"
}

TEST(DecodeStream, NeverGivesHalfACharacter) {
  const Tokenizer t = tokenizer("gpt2");
  const std::string text = "a🙂b漢é";
  DecodeStream stream(t);
  std::string all;
  for (const std::int32_t id : t.encode(text)) {
    const std::string part = stream.push(id);
    // Each part is whole characters of the text that is left.
    EXPECT_EQ(text.compare(all.size(), part.size(), part), 0);
    all += part;
    EXPECT_TRUE(all.size() == text.size() || (text[all.size()] & 0xC0) != 0x80);
  }
  EXPECT_EQ(all + stream.rest(), text);
  // Half an emoji and the end: what is missing is a replacement character, and the stream is ready for more.
  const auto half = t.encode("🙂");
  stream.push(half[0]);
  EXPECT_EQ(stream.rest(), "\uFFFD");
  EXPECT_EQ(stream.push(t.encode("x")[0]), "x");
}

TEST(Tokenizer, LongWordsTakeNLogN) {
  // A quadratic search would take minutes.
  const Tokenizer t = tokenizer("gpt2");
  const std::string word(1 << 20, 'e');
  const auto ids = t.encode(word);
  EXPECT_EQ(t.decode(ids), word);
  const Tokenizer l = tokenizer("llama2");
  EXPECT_EQ(l.decode(l.encode(word, {.add_special_tokens = false})), word);
  const std::string spaces(1 << 20, ' ');
  EXPECT_EQ(t.decode(t.encode(spaces)), spaces);
  EXPECT_FALSE(tokenizer("t5").encode(word).empty());
  EXPECT_FALSE(tokenizer("bert").encode(word).empty());
}

// Drives tests/fixtures/compare_tokenizers.py: MC_TOKENIZER is a tokenizer's path, MC_TOKENIZER_IN a file of strings
// (u32 length, bytes), MC_TOKENIZER_OUT gets for each u32 count, ids, offsets, and both decoded texts (u32 length,
// bytes).
TEST(TokenizerPeer, EncodesAFile) {
  const char* path = std::getenv("MC_TOKENIZER");
  if (!path) GTEST_SKIP() << "for compare_tokenizers.py";
  const char *special = std::getenv("MC_TOKENIZER_SPECIAL"), *target = std::getenv("MC_TOKENIZER_OUT");
  ASSERT_TRUE(special && target);
  const Tokenizer t = Tokenizer::load(path);
  std::ifstream in(std::getenv("MC_TOKENIZER_IN"), std::ios::binary);
  std::ofstream out(target, std::ios::binary);
  const auto put = [&out](std::uint32_t n) { out.write(reinterpret_cast<const char*>(&n), 4); };
  for (std::uint32_t length; in.read(reinterpret_cast<char*>(&length), 4);) {
    std::string s(length, '\0');
    in.read(s.data(), length);
    const EncodeOptions options{.add_special_tokens = *special != '\0'};
    const auto e = t.encode_with_offsets(s, options);
    ASSERT_EQ(e.ids, t.encode(s, options)) << s;
    put(static_cast<std::uint32_t>(e.ids.size()));
    for (const std::int32_t id : e.ids) put(static_cast<std::uint32_t>(id));
    for (const auto& [begin, end] : e.offsets) put(begin), put(end);
    for (const bool skip : {false, true}) {
      const std::string text = t.decode(e.ids, skip);
      ASSERT_EQ(text, streamed(t, e.ids, skip));
      put(static_cast<std::uint32_t>(text.size()));
      out << text;
    }
  }
}

}  // namespace
}  // namespace metal_candle
