// What a model's folder says about answers: how they are drawn, where they end, and how a chat is shown.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>

#include "tests/cli/command.h"

namespace metal_candle::test {
namespace {

namespace fs = std::filesystem;
using testing::HasSubstr;

/// A copy of the model with one file more, or another.
std::string model_with(const std::string& name, const std::string& text) {
  const fs::path folder = playground() / "changed";
  fs::remove_all(folder);
  fs::copy(model(), folder, fs::copy_options::recursive);
  std::ofstream(folder / name, std::ios::binary) << text;
  return folder.string();
}

Ran generate(const std::string& folder, const std::vector<std::string>& more = {}, const char* count = "24") {
  std::vector<std::string> line = {"generate",     "--model", folder,    "--prompt", "One",
                                   "--max-tokens", count,     "--dtype", "f32",      "--json"};
  line.insert(line.end(), more.begin(), more.end());
  Ran ran = command(line);
  EXPECT_EQ(ran.code, 0) << ran.err;
  return ran;
}
Json tokens(const Ran& ran) { return ran.events().at(0).at("tokens"); }

TEST(Sampling, IsWhatTheModelRecommends) {
  const Ran plain = generate(model(), {"--ignore-eos"});
  EXPECT_THAT(plain.err, HasSubstr("greedy"));
  const std::string folder =
      model_with("generation_config.json", R"({"do_sample": true, "temperature": 1.5, "top_k": 40, "top_p": 0.9})");
  const Ran recommended = generate(folder, {"--ignore-eos"});
  EXPECT_THAT(recommended.err, HasSubstr("sampled with temperature 1.5, top-k 40, top-p 0.9"));
  EXPECT_NE(tokens(recommended), tokens(plain));
  // The same by flags, on a model that recommends nothing.
  EXPECT_EQ(tokens(recommended),
            tokens(generate(model(), {"--ignore-eos", "--temperature", "1.5", "--top-k", "40", "--top-p", "0.9"})));
}

TEST(Sampling, FlagsTakeThePlaceOfWhatIsRecommended) {
  const std::string folder =
      model_with("generation_config.json", R"({"do_sample": true, "temperature": 1.5, "repetition_penalty": 1.3})");
  EXPECT_THAT(generate(folder, {"--top-k", "3"}).err, HasSubstr("temperature 1.5, top-k 3, repetition penalty 1.3"));
  const Ran greedy = generate(folder, {"--temperature", "0", "--ignore-eos"});  // a penalty is no sampling
  EXPECT_THAT(greedy.err, HasSubstr("greedy, repetition penalty 1.3;"));
  EXPECT_EQ(tokens(greedy), tokens(generate(model(), {"--ignore-eos", "--repetition-penalty", "1.3"})));
  const Ran plain = generate(folder, {"--temperature", "0", "--repetition-penalty", "1", "--ignore-eos"});
  EXPECT_THAT(plain.err, HasSubstr("greedy;"));
  EXPECT_EQ(tokens(plain), tokens(generate(model(), {"--ignore-eos"})));
  EXPECT_NE(tokens(plain), tokens(greedy));
  EXPECT_THAT(command({"generate", "--help"}).out, HasSubstr("generation_config.json"));
}

TEST(Sampling, WithoutDoSampleNumbersMeanNothing) {
  const std::string folder = model_with("generation_config.json", R"({"temperature": 0.6, "top_p": 0.9})");
  const Ran ran = generate(folder, {"--ignore-eos"});
  EXPECT_THAT(ran.err, HasSubstr("greedy;"));
  EXPECT_EQ(tokens(ran), tokens(generate(model(), {"--ignore-eos"})));
  const std::string penalised = model_with("generation_config.json", R"({"repetition_penalty": 1.3})");
  EXPECT_THAT(generate(penalised).err, HasSubstr("greedy, repetition penalty 1.3;"));
}

TEST(Sampling, EndsAtAnyOfTheEndTokens) {
  const Json all = tokens(generate(model(), {"--ignore-eos"}));
  const std::int64_t third = all.at(2).as_int64();
  const std::string folder =
      model_with("generation_config.json", R"({"eos_token_id": [7, )" + std::to_string(third) + "]}");
  const Ran ran = generate(folder);
  EXPECT_EQ(ran.events().at(0).at("finish_reason").as_string(), "stop");
  EXPECT_LE(tokens(ran).size(), 3u);
  EXPECT_EQ(tokens(ran).at(static_cast<std::int64_t>(tokens(ran).size()) - 1).as_int64(), third);
}

TEST(Sampling, RefusesRecommendationsThatMakeNoSense) {
  for (const char* text : {R"({"do_sample": true, "temperature": -1})", R"({"top_p": 1.5})", R"({"do_sample": "yes"})",
                           R"({"min_p": "x"})", R"({"repetition_penalty": 0})", R"({"top_k": -2})", "[]", "{"}) {
    const Ran ran = command({"generate", "--model", model_with("generation_config.json", text), "--prompt", "x"});
    EXPECT_EQ(ran.code, 65) << text;
    EXPECT_THAT(ran.err, HasSubstr("generation_config.json")) << text;
  }
}

TEST(Sampling, OfTheLikeliestAlone) {
  const std::string folder = model_with("generation_config.json", R"({"do_sample": true, "top_p": 0.0})");
  EXPECT_EQ(tokens(generate(folder)), tokens(generate(model())));
  EXPECT_EQ(tokens(generate(model(), {"--temperature", "2", "--top-p", "0"})), tokens(generate(model())));
}

TEST(Sampling, WhatIsNotFollowedIsSaid) {
  const std::string folder = model_with(
      "generation_config.json",
      R"({"stop_strings": ["e"], "no_repeat_ngram_size": 2, "num_beams": 1, "bad_words_ids": null, "typical_p": 0.5})");
  const Ran ran = generate(folder);
  EXPECT_THAT(ran.err, HasSubstr("generation_config.json: stop_strings, no_repeat_ngram_size are not followed"));
  EXPECT_EQ(tokens(ran), tokens(generate(model())));
  EXPECT_THAT(generate(model()).err, testing::Not(HasSubstr("not followed")));
}

TEST(Sampling, IsNothingToAScoreAndToTraining) {
  const std::string folder = model_with("generation_config.json", R"({"top_k": -1, "eos_token_id": [2, -1]})");
  EXPECT_EQ(command({"score", "--model", folder, "--text", "One"}).code, 0);
  const Ran trained = command({"train", "--model", folder, "--data", (playground() / "train.jsonl").string(),
                               "--output", (playground() / "unadvised").string(), "--steps", "1", "--rank", "1"});
  EXPECT_EQ(trained.code, 0) << trained.err;
  EXPECT_EQ(command({"generate", "--model", folder, "--prompt", "One"}).code, 65);
}

TEST(Sampling, ABiasIsGivenOnce) {
  const Ran ran =
      command({"generate", "--model", model(), "--prompt", "x", "--logit-bias", "5=1", "--logit-bias", "5=2"});
  EXPECT_EQ(ran.code, 2);
  EXPECT_THAT(ran.err, HasSubstr("token 5 is given twice"));
}

TEST(ChatTemplates, ThatCannotBeReadAreInNobodysWayButOfAChat) {
  const std::string folder = model_with("chat_template.jinja", "{% for m in messages %}\n{{ m.content");
  EXPECT_EQ(tokens(generate(folder)), tokens(generate(model())));
  EXPECT_EQ(command({"score", "--model", folder, "--text", "One"}).code, 0);
  for (const std::vector<std::string>& line :
       {std::vector<std::string>{"generate", "--model", folder, "--prompt", "One", "--chat"},
        {"chat", "--model", folder}}) {
    const Ran ran = command(line);
    EXPECT_EQ(ran.code, 65);
    EXPECT_THAT(ran.err, HasSubstr("chat_template.jinja: line 2"));
  }
  const std::string out = (playground() / "untaught").string(), rows = (playground() / "chats.jsonl").string();
  std::ofstream(rows) << R"({"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]})"
                      << "\n";
  const Ran taught = command({"train", "--model", folder, "--data", rows, "--output", out, "--steps", "1"});
  EXPECT_EQ(taught.code, 65);
  EXPECT_THAT(taught.err, testing::AllOf(HasSubstr("chats.jsonl:1"), HasSubstr("chat_template.jinja: line 2")));
  const std::string prompts = (playground() / "train.jsonl").string();
  EXPECT_EQ(
      command({"train", "--model", folder, "--data", prompts, "--output", out, "--steps", "1", "--rank", "1"}).code, 0);
}

}  // namespace
}  // namespace metal_candle::test
