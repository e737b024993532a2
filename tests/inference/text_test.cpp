// Text in and out: stop texts, pieces, streams that are read and cancelled elsewhere; and bundles, which bring it all.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <atomic>
#include <filesystem>
#include <fstream>
#include <functional>
#include <thread>

#include "inference/text_output.h"
#include "metal_candle/error.hpp"
#include "metal_candle/generate.hpp"
#include "metal_candle/safetensors.hpp"
#include "tests/support/in_child.h"
#include "tests/support/tiny_models.h"

namespace metal_candle::test {
namespace {

using testing::HasSubstr;
namespace fs = std::filesystem;

/// 31 tokens: a..z, space, the two bytes of an umlaut's first half and second, <begin>, <end>.
std::string tokenizer_json() {
  Json vocab = Json::object();
  for (int i = 0; i < 26; ++i) vocab.set(std::string(1, static_cast<char>('a' + i)), i);
  vocab.set(" ", 26);
  vocab.set("<0xC3>", 27);
  vocab.set("<0xA4>", 28);
  vocab.set("<begin>", 29);
  vocab.set("<end>", 30);
  const auto special = [](int id, const char* text) {
    return Json::object({{"id", id},
                         {"content", text},
                         {"single_word", false},
                         {"lstrip", false},
                         {"rstrip", false},
                         {"normalized", false},
                         {"special", true}});
  };
  return Json::object({{"version", "1.0"},
                       {"truncation", nullptr},
                       {"padding", nullptr},
                       {"added_tokens", Json::array({special(29, "<begin>"), special(30, "<end>")})},
                       {"normalizer", nullptr},
                       {"pre_tokenizer", nullptr},
                       {"post_processor", nullptr},
                       {"decoder", Json::object({{"type", "Sequence"},
                                                 {"decoders", Json::array({Json::object({{"type", "ByteFallback"}}),
                                                                           Json::object({{"type", "Fuse"}})})}})},
                       {"model", Json::object({{"type", "BPE"},
                                               {"dropout", nullptr},
                                               {"unk_token", nullptr},
                                               {"continuing_subword_prefix", nullptr},
                                               {"end_of_word_suffix", nullptr},
                                               {"fuse_unk", false},
                                               {"byte_fallback", true},
                                               {"ignore_merges", false},
                                               {"vocab", vocab},
                                               {"merges", Json::array()}})}})
      .dump();
}

Tokenizer letters() { return Tokenizer::from_json(tokenizer_json(), "letters"); }

GenerateOptions until(int count, std::vector<std::string> stop = {}) {
  GenerateOptions o;
  o.max_tokens = count;
  o.ignore_eos = true;
  o.stop = std::move(stop);
  return o;
}

TEST(TextOutput, HoldsBackWhatMayBeginAStop) {
  inference::TextOutput out(letters(), {"dog", "dune", ""});
  const auto push = [&](const char* text) { return out.push(*letters().token_to_id(text)); };
  EXPECT_EQ(push("a"), "a");
  EXPECT_EQ(push("d"), "");
  EXPECT_EQ(push("o"), "");
  EXPECT_EQ(push("d"), "do");
  EXPECT_EQ(push("u"), "");
  EXPECT_EQ(push("x"), "dux");
  EXPECT_EQ(push("d"), "");
  EXPECT_EQ(push("o"), "");
  EXPECT_FALSE(out.stopped());
  EXPECT_EQ(push("g"), "");
  EXPECT_TRUE(out.stopped());
  EXPECT_EQ(push("a"), "");
  EXPECT_EQ(out.finish(), "");
  EXPECT_EQ(out.text(), "adodux");
}

TEST(TextOutput, StopsAtASpecialTokenByItsName) {
  inference::TextOutput out(letters(), {"dog", "<end>"});
  EXPECT_EQ(out.push(0), "a");
  EXPECT_EQ(out.push(*letters().token_to_id("<begin>")), "");
  EXPECT_EQ(out.push(3), "");
  EXPECT_FALSE(out.stopped());
  EXPECT_EQ(out.push(*letters().token_to_id("<end>")), "d");
  EXPECT_TRUE(out.stopped());
  EXPECT_EQ(out.finish(), "");
  EXPECT_EQ(out.text(), "ad");
}

TEST(TextOutput, StopsAtBytesThatMayStillBecomeOthers) {
  inference::TextOutput out(letters(), {"b\xC3\xA4"});
  const auto push = [&](const std::vector<std::int32_t>& tokens) {
    std::string shown;
    for (const std::int32_t token : tokens) shown += out.push(token);
    return shown;
  };
  EXPECT_EQ(push({0, 1, 27}), "a");
  EXPECT_FALSE(out.stopped()) << "half a character";
  EXPECT_EQ(push({27, 28}), "");
  EXPECT_FALSE(out.stopped()) << "behind a byte that makes no text of them";
  EXPECT_EQ(push({0}),
            "b\xEF\xBF\xBD\xEF\xBF\xBD\xEF\xBF\xBD"
            "a");
  EXPECT_EQ(push({1, 27, 28}), "");
  EXPECT_TRUE(out.stopped());
  EXPECT_EQ(out.finish(), "");
  inference::TextOutput half(letters(), {"\xEF\xBF\xBD"});
  EXPECT_EQ(half.push(27), "");
  EXPECT_FALSE(half.stopped());
  EXPECT_EQ(half.push(28), "");
  EXPECT_EQ(half.finish(), "\xC3\xA4");
}

TEST(TextOutput, ShowsTheRestAtTheEnd) {
  inference::TextOutput out(letters(), {"zz"});
  EXPECT_EQ(out.push(25), "");
  EXPECT_EQ(out.finish(), "z");
  inference::TextOutput half(letters(), {});
  EXPECT_EQ(half.push(27), "");  // half a character
  half.push(28);
  half.finish();
  EXPECT_EQ(half.text(), "\xC3\xA4");
}

TEST(GeneratedText, IsItsPiecesAndItsTokens) {
  Generator generator(tiny_model("llama"), letters());
  std::string pieces;
  const Generated g = generator.generate("hello you", until(40), [&](const Piece& p) {
    pieces += p.text;
    return true;
  });
  EXPECT_EQ(g.prompt_tokens, letters().encode("hello you"));
  EXPECT_EQ(g.text, letters().decode(g.tokens, true));
  EXPECT_EQ(pieces, g.text);
}

TEST(GeneratedText, EndsBeforeAStop) {
  Generator generator(tiny_model("llama"), letters());
  const Generated whole = generator.generate("hello you", until(40));
  ASSERT_GT(whole.text.size(), 12u);
  const std::string stop = whole.text.substr(7, 3);
  const std::size_t at = whole.text.find(stop);
  std::string pieces;
  const Generated g = generator.generate("hello you", until(40, {"not there", stop}), [&](const Piece& p) {
    pieces += p.text;
    return true;
  });
  EXPECT_EQ(g.finish, Finish::stop);
  EXPECT_EQ(g.text, whole.text.substr(0, at));
  EXPECT_EQ(pieces, g.text);
  EXPECT_LT(g.tokens.size(), whole.tokens.size());
  EXPECT_EQ(std::vector<std::int32_t>(whole.tokens.begin(),
                                      whole.tokens.begin() + static_cast<std::ptrdiff_t>(g.tokens.size())),
            g.tokens);
}

TEST(GeneratedText, AStopThatTheEndBringsIsWhyItEnded) {
  GenerateOptions o = until(3, {"\xEF\xBF\xBD"});
  o.sampling.logit_bias = {{28, 1000}};
  const Generated g = Generator(tiny_model("llama"), letters()).generate("hello you", o);
  EXPECT_EQ(g.tokens.size(), 3u);
  EXPECT_EQ(g.text, "");
  EXPECT_EQ(g.finish, Finish::stop);
}

TEST(GeneratedText, AnEndTokenIsNoPartOfIt) {
  const Model model = tiny_model("llama");
  const Generated whole = Generator(model, letters()).generate("hello you", until(12));
  GenerateOptions o = until(12);
  o.stop_tokens = {whole.tokens[5]};
  const Generated g = Generator(model, letters()).generate("hello you", o);
  auto tokens = g.tokens;
  tokens.pop_back();
  EXPECT_EQ(g.text, letters().decode(tokens, true));
}

TEST(GeneratedText, NeedsATokenizer) {
  Generator generator(tiny_model("llama"));
  EXPECT_THROW(generator.generate("hello"), UserError);
  EXPECT_THROW(generator.generate(std::vector<std::int32_t>{1}, until(3, {"x"})), UserError);
  EXPECT_EQ(generator.generate(std::vector<std::int32_t>{1}, until(3)).text, "");
}

// ---- streams --------------------------------------------------------------------------------------------------------

TEST(Stream, BringsWhatGenerateGives) {
  Generator generator(tiny_model("qwen2"), letters());
  const Generated want = generator.generate("hello", until(30));
  GenerationStream stream = generator.stream("hello", until(30));
  std::string text;
  std::vector<std::int32_t> tokens;
  while (const auto piece = stream.next()) {
    text += piece->text;
    tokens.push_back(piece->token);
  }
  EXPECT_EQ(tokens, want.tokens);
  EXPECT_EQ(text, want.text);
  EXPECT_EQ(stream.result().logprobs, want.logprobs);
  EXPECT_FALSE(stream.next().has_value());
}

TEST(Stream, IsCancelled) {
  Generator generator(tiny_model("llama"), letters());
  GenerationStream stream = generator.stream("hello", until(50));
  ASSERT_TRUE(stream.next().has_value());
  stream.cancel();
  const Generated g = stream.result();
  EXPECT_EQ(g.finish, g.tokens.size() < 50 ? Finish::cancelled : Finish::length);  // it may have been quicker
  { const GenerationStream dropped = generator.stream("hello", until(50)); }
  EXPECT_EQ(generator.generate("hello", until(5)).tokens.size(), 5u);
}

TEST(Stream, TellsWhatWentWrong) {
  Generator generator(tiny_model("llama"), letters(), {.context = 4});
  GenerationStream stream = generator.stream("hello", until(5));
  EXPECT_THROW(stream.next(), UserError);
  EXPECT_THROW(stream.result(), UserError);
}

bool refused(const std::function<void()>& call) {
  try {
    call();
  } catch (const UserError&) {
    return true;
  }
  return false;
}

TEST(Stream, IsNotTakenIntoAChildOfFork) {
  if (!kForks) GTEST_SKIP();
  Generator generator(tiny_model("llama"), letters());
  const Generated want = generator.generate("hello", until(5));
  GenerationStream stream = generator.stream("hello", until(5));
  EXPECT_TRUE(in_child([&] {
    GenerationStream moved = std::move(stream);
    return refused([&] { moved.next(); }) && refused([&] { moved.result(); });
  }));
  EXPECT_EQ(stream.result().tokens, want.tokens);
  EXPECT_TRUE(in_child([&] { return generator.generate("hello", until(5)).tokens == want.tokens; }));
}

TEST(Generator, WhatAnotherThreadWasUsingIsRefusedInAChildOfFork) {
  if (!kForks) GTEST_SKIP();
  Generator generator(tiny_model("llama"), letters());
  std::atomic<bool> begun{false}, go_on{false};
  std::thread other([&] {
    generator.generate("hello", until(5), [&](const Piece&) {
      begun = true;
      begun.notify_all();
      go_on.wait(false);
      return true;
    });
  });
  begun.wait(false);
  EXPECT_TRUE(in_child([&] { return refused([&] { generator.generate("hello", until(5)); }); }));
  go_on = true;
  go_on.notify_all();
  other.join();
  EXPECT_EQ(generator.generate("hello", until(5)).tokens.size(), 5u);
}

// ---- bundles --------------------------------------------------------------------------------------------------------

class BundleFolder {
 public:
  BundleFolder() : path_(fs::temp_directory_path() / ("mc-bundle-" + std::to_string(::getpid()))) {
    fs::remove_all(path_);
    fs::create_directories(path_);
    write("config.json", tiny_case("llama").config.dump());
    write("tokenizer.json", tokenizer_json());
    std::vector<NamedTensor> tensors;
    const Model model = tiny_model("llama");
    for (const auto& [name, t] : model.parameters()) tensors.emplace_back(name, Tensor(t));
    save_safetensors(path_ / "model.safetensors", tensors);
  }
  ~BundleFolder() { fs::remove_all(path_); }
  void write(const std::string& name, const std::string& text) const {
    fs::create_directories((path_ / name).parent_path());
    std::ofstream(path_ / name) << text;
  }
  Bundle load() const { return Bundle::load(path_, {.dtype = DType::f32}); }

 private:
  fs::path path_;
};

TEST(Bundle, BringsTemplateAndDefaults) {
  const BundleFolder folder;
  const Bundle plain = folder.load();
  EXPECT_FALSE(plain.chat.has_value());
  EXPECT_EQ(plain.generation.end_tokens, plain.model.config().eos);
  EXPECT_FALSE(plain.generation.temperature.has_value());

  folder.write("generation_config.json",
               R"({"do_sample": true, "temperature": 0.6, "top_k": 20, "eos_token_id": [30, 4]})");
  folder.write("tokenizer_config.json", R"({"bos_token": {"content": "<begin>"}, "eos_token": "<end>",
    "chat_template": [{"name": "rag", "template": "x"}, {"name": "tool_use", "template": "{{ tools }}{{ pad_token }}"},
                      {"name": "default", "template": "{{ bos_token }}{% for m in messages %}{{ m.content }}{{ eos_token }}{% endfor %}"}]})");
  folder.write("special_tokens_map.json", R"({"eos_token": "<begin>", "pad_token": {"content": "<pad>"}})");
  const Bundle full = folder.load();
  EXPECT_EQ(full.end_of_text, full.tokenizer.token_to_id("<end>"));
  EXPECT_EQ(full.generation.end_tokens, (std::vector<std::int32_t>{30, 4}));
  EXPECT_EQ(full.generation.top_k, 20);
  EXPECT_TRUE(full.generation.sample);
  const Json messages = Json::parse(R"([{"role": "user", "content": "hi"}])", "test");
  ASSERT_TRUE(full.chat.has_value());
  EXPECT_EQ(full.chat->render(messages), "<begin>hi<end>");
  EXPECT_EQ(full.chat->render(messages, {.tools = Json::array({1})}), "[1]<pad>");
  folder.write("chat_template.jinja", "file {{ messages[0].content }}");
  EXPECT_EQ(folder.load().chat->render(messages), "file hi");
  folder.write("additional_chat_templates/tool_use.jinja", "tools");
  EXPECT_EQ(folder.load().chat->render(messages, {.tools = Json::array({1})}), "tools");

  Generator generator(full);
  GenerateOptions o;
  o.max_tokens = 60;
  const Generated g = generator.generate(full.chat->render(messages), o, {}, false);
  EXPECT_EQ(g.prompt_tokens.front(), 29);
  const auto ends = [](std::int32_t t) { return t == 30 || t == 4; };
  for (std::size_t i = 0; i + 1 < g.tokens.size(); ++i) EXPECT_FALSE(ends(g.tokens[i]));
  EXPECT_EQ(g.finish == Finish::stop, ends(g.tokens.back()));
}

TEST(Bundle, SaysWhatIsWrong) {
  const BundleFolder folder;
  folder.write("generation_config.json", R"({"top_k": -4, "eos_token_id": 3})");
  const Bundle bundle = folder.load();  // whoever trains has no use for it
  EXPECT_EQ(bundle.generation.end_tokens, bundle.model.config().eos);
  const std::function<void()> uses[] = {[&] { bundle.generation_defaults(); }, [&] { const Generator g(bundle); }};
  for (const auto& use : uses) {
    try {
      use();
      ADD_FAILURE();
    } catch (const FileError& e) {
      EXPECT_THAT(e.what(), testing::AllOf(HasSubstr("generation_config.json"), HasSubstr("top_k")));
    }
  }
  EXPECT_NO_THROW(Generator(bundle, {.end_tokens = std::vector<std::int32_t>{3}}));
}

}  // namespace
}  // namespace metal_candle::test
