// What does not fit: tokens without an embedding, rows and conversations longer than the context, weights that are not
// finite, flags that contradict what is there.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <limits>
#include <sstream>

#include "metal_candle/bundle.hpp"
#include "metal_candle/ops.hpp"
#include "metal_candle/random.hpp"
#include "metal_candle/runtime.hpp"
#include "metal_candle/safetensors.hpp"
#include "tests/cli/command.h"

namespace metal_candle::test {
namespace {

namespace fs = std::filesystem;
using testing::AllOf;
using testing::HasSubstr;
using testing::Not;

fs::path copy_of_model(const char* name) {
  fs::path to = playground() / name;
  fs::remove_all(to);
  fs::copy(model(), to, fs::copy_options::recursive);
  return to;
}

/// A model with more rows of embeddings than its tokenizer has tokens, and the first of these.
std::pair<std::string, std::int64_t> model_with_more_rows() {
  const fs::path to = playground() / "more_rows";
  const Model small = Model::load(model(), {.dtype = DType::f32});
  ModelConfig config = small.config();
  const std::int64_t first = config.vocabulary;
  config.vocabulary += 8;
  if (!fs::exists(to)) save_model(to, Model::random(config, Key(3)), model());
  return {to.string(), first};
}

std::vector<std::string> one_step(const std::string& output, const std::vector<std::string>& more,
                                  const std::string& of = model()) {
  std::vector<std::string> line = {"train",    "--model",      of,        "--data",  at("train.jsonl"),
                                   "--output", output,         "--dtype", "f32",     "--rank",
                                   "2",        "--batch-size", "4",       "--steps", "1"};
  // What is given again takes the place of the usual.
  for (std::size_t i = 0; i < more.size(); ++i) {
    const auto usual = std::find(line.begin(), line.end(), more[i]);
    if (more[i].starts_with("--") && usual != line.end()) line.erase(usual, usual + 2);
  }
  line.insert(line.end(), more.begin(), more.end());
  return line;
}

std::string text_of_tokens(int count) {
  std::string text = "a";
  for (int i = 1; i < count; ++i) text += " a";
  return text;
}

TEST(Limits, TokensWithoutAnEmbeddingNameTheTokenizer) {
  const fs::path folder = copy_of_model("more_tokens");
  Json tokenizer = Json::load(folder / "tokenizer.json");
  const auto vocabulary = Json::load(folder / "config.json").at("vocab_size").as_int64();
  Json added = tokenizer.at("added_tokens");
  added.push_back(Json::parse("{\"id\": " + std::to_string(vocabulary) +
                                  ", \"content\": \"<new>\", \"single_word\": false, \"lstrip\": false, \"rstrip\": "
                                  "false, \"normalized\": false, \"special\": true}",
                              "token"));
  tokenizer.set("added_tokens", added);
  write(folder / "tokenizer.json", tokenizer.dump());
  const std::string id = std::to_string(vocabulary), rows = at("new_token.jsonl");
  write(rows, "{\"text\": \"fine\"}\n{\"text\": \"a <new> one\", \"prompt\": \"a <new> one\"}\n");
  const std::string prompts = at("new_prompts.jsonl"), texts = at("new_texts.jsonl");
  write(prompts, "{\"prompt\": \"fine\"}\n{\"prompt\": \"a <new> one\"}\n");
  write(texts, "{\"text\": \"fine\"}\n{\"text\": \"a <new> one\"}\n");
  const std::string m = folder.string();
  const auto refused = [&](const std::vector<std::string>& line, const char* place) {
    const Ran ran = command(line);
    EXPECT_EQ(ran.code, 65) << line[0] << ran.err;
    EXPECT_THAT(ran.err, AllOf(HasSubstr(place), HasSubstr("tokenizer.json"), HasSubstr("got " + id + " for"),
                               HasSubstr("vocab_size " + id)));
  };
  refused({"score", "--model", m, "--text", "a <new> one"}, "more_tokens");
  refused({"score", "--model", m, "--data", texts}, "new_texts.jsonl:2");
  refused({"generate", "--model", m, "--prompt", "a <new> one"}, "more_tokens");
  refused({"generate", "--model", m, "--prompts", prompts}, "new_prompts.jsonl:2");
  refused(one_step(at("never_trained"), {"--data", texts}, m), "new_texts.jsonl:2");
}

TEST(Limits, RowsAreCutToTheContext) {
  const std::string rows = at("long.jsonl");
  write(rows, Json::object({{"text", text_of_tokens(500)}}).dump() + "\n{\"text\": \"short\"}\n");
  for (const char* longest : {"1024", "4096"}) {
    const std::string out = at("cut");
    fs::remove_all(out);
    const Ran dry = command(one_step(out, {"--data", rows, "--max-length", longest, "--dry-run"}));
    EXPECT_EQ(dry.code, 0) << dry.err;
    EXPECT_THAT(dry.err, HasSubstr("1 of 2 rows are cut to 128 tokens, the model's context"));
    const Ran ran = command(one_step(out, {"--data", rows, "--max-length", longest, "--batch-size", "2", "--json"}));
    EXPECT_EQ(ran.code, 0) << ran.err;
    EXPECT_THAT(ran.err, HasSubstr("1 of 2 rows are cut to 128 tokens, the model's context"));
    EXPECT_LE(ran.events().at(0).at("tokens").as_int64(), 128 + 16);
  }
  const Ran ran = command(one_step(at("cut"), {"--data", rows, "--max-length", "50", "--dry-run"}));
  EXPECT_THAT(ran.err, HasSubstr("cut to 50 tokens, --max-length"));
}

TEST(Limits, AnswersEndWhereTheContextDoes) {
  const auto text = [](std::size_t tokens) { return text_of_tokens(128).substr(0, tokens); };  // one a character
  const auto counted = command({"tokenize", "--model", model(), "--text", text(128), "--json"}).events();
  ASSERT_EQ(counted.at(0).at("tokens").size(), 128u);
  const auto run = [&](std::size_t tokens, std::vector<std::string> more) {
    std::vector<std::string> line = {"generate", "--model", model(), "--prompt", text(tokens), "--json"};
    line.insert(line.end(), more.begin(), more.end());
    return command(line);
  };
  // The context's last token can still be answered with one, which nobody reads.
  const Ran full = run(128, {"--max-tokens", "1", "--ignore-eos"});
  ASSERT_EQ(full.code, 0) << full.err;
  EXPECT_EQ(full.events().at(0).at("tokens").size(), 1u);
  EXPECT_EQ(full.events().at(0).at("finish_reason").as_string(), "length");
  EXPECT_THAT(full.err, Not(HasSubstr("warning")));
  const Ran longer = run(129, {"--max-tokens", "1"});
  EXPECT_EQ(longer.code, 2);
  EXPECT_THAT(longer.err, AllOf(HasSubstr("129"), HasSubstr("128")));
  // Exactly as many tokens, or an error before the first.
  const Ran exact = run(124, {"--max-tokens", "5", "--ignore-eos"});
  EXPECT_EQ(exact.events().at(0).at("tokens").size(), 5u) << exact.err;
  const Ran more = run(124, {"--max-tokens", "6", "--ignore-eos"});
  EXPECT_EQ(more.code, 2);
  EXPECT_EQ(more.out, "");
  EXPECT_THAT(more.err, AllOf(HasSubstr("exactly 6 tokens"), HasSubstr("128"), HasSubstr("room for 5")));
  const Ran warned = run(124, {"--max-tokens", "6", "--logit-bias", "0=-1e9"});
  EXPECT_EQ(warned.code, 0) << warned.err;
  if (warned.events().at(0).at("finish_reason").as_string() == "length") {
    EXPECT_THAT(warned.err, HasSubstr("warning: the model's context of 128 tokens is full"));
  }
}

TEST(Limits, AChatForgetsItsOldestTurns) {
  std::string lines;
  for (int i = 0; i < 12; ++i) lines += "question number " + std::to_string(i) + "\n";
  const Ran ran =
      command({"chat", "--model", model(), "--max-tokens", "12", "--system", "Be brief.", "--json"}, {}, lines);
  EXPECT_EQ(ran.code, 0) << ran.err;
  EXPECT_EQ(ran.events().size(), 12u) << "every line is answered";
  EXPECT_THAT(ran.err, HasSubstr("the conversation fills the model's context of 128 tokens"));
  // One message that is too long by itself is left out, and the next is answered.
  const Ran one = command({"chat", "--model", model(), "--max-tokens", "4", "--json"}, {},
                          "hello\n" + text_of_tokens(400) + "\nand now\n");
  EXPECT_EQ(one.code, 0) << one.err;
  const auto events = one.events();
  ASSERT_EQ(events.size(), 3u);
  EXPECT_EQ(events[0].at("event").as_string(), "result");
  EXPECT_EQ(events[1].at("event").as_string(), "error");
  EXPECT_EQ(events[2].at("event").as_string(), "result");
  EXPECT_THAT(one.err, AllOf(HasSubstr("the message has"), HasSubstr("context 128")));
}

/// A copy of the model of which a tensor has another number in it.
fs::path copy_with(const char* name, const std::string& changed, float number) {
  fs::path folder = copy_of_model(name);
  std::vector<NamedTensor> tensors;
  {
    const SafeTensors file = SafeTensors::open(folder / "model.safetensors");
    for (const TensorInfo& t : file.tensors()) {
      Tensor tensor = file.load(t.name).copy();
      if (t.name == changed) {
        auto values = Tensor(cast(tensor, DType::f32)).to_vector<float>();
        values[3] = number;
        tensor = Tensor::from(values, tensor.shape());
      }
      tensors.emplace_back(t.name, tensor);
    }
  }
  save_safetensors(folder / "model.safetensors", tensors);
  return folder;
}

// The third prompt has a token whose embedding is NaN. The second answer was done, and waited for the first.
TEST(Limits, AnswersThatWereDoneOutliveAnError) {
  const fs::path folder = playground() / "one_bad_token";
  ModelConfig config = Model::load(model(), {.dtype = DType::f32}).config();
  config.tied_embeddings = false;
  const Model good = Model::random(config, Key(7));
  const Tokenizer tokenizer = Tokenizer::load(model());
  const std::vector<std::int32_t> usual = tokenizer.encode("a a"), bad = tokenizer.encode("Q");
  const auto numbers = static_cast<std::size_t>(config.hidden);
  ASSERT_EQ(std::find(usual.begin(), usual.end(), bad[0]), usual.end());
  ParamTree weights = good.parameters();
  std::vector<float> rows = Tensor(weights["model.embed_tokens.weight"]).to_vector<float>();
  std::fill_n(rows.begin() + static_cast<std::ptrdiff_t>(static_cast<std::size_t>(bad[0]) * numbers), numbers,
              std::numeric_limits<float>::quiet_NaN());
  weights["model.embed_tokens.weight"] = Tensor::from(rows, {config.vocabulary, config.hidden});
  save_model(folder, Model(config, weights), model());
  std::string full = "a";  // fills the context
  while (tokenizer.encode(full + " a").size() <= static_cast<std::size_t>(config.context())) full += " a";
  std::string prompts;
  for (const std::string& text : {std::string("a"), full, std::string("Q")})
    prompts += Json::object({{"prompt", text}}).dump() + "\n";
  write(at("one_bad.jsonl"), prompts);
  const Ran ran = command({"generate", "--model", folder.string(), "--prompts", at("one_bad.jsonl"), "--batch-size",
                           "2", "--max-tokens", "100", "--logit-bias", std::to_string(bad[0]) + "=-inf", "--json"});
  EXPECT_EQ(ran.code, 65) << ran.err;
  ASSERT_EQ(ran.events().size(), 1u);
  EXPECT_EQ(ran.events()[0].at("index").as_int64(), 1);
  EXPECT_EQ(ran.events()[0].at("finish_reason").as_string(), "length");
}

TEST(Limits, WeightsThatAreNotFiniteNameTheModel) {
  const fs::path folder =
      copy_with("not_finite", "model.layers.0.self_attn.q_proj.weight", std::numeric_limits<float>::quiet_NaN());
  const std::string adapter = at("finite_adapter"), m = folder.string();
  ASSERT_EQ(command(one_step(adapter, {})).code, 0);
  for (const std::vector<std::string>& line :
       {std::vector<std::string>{"generate", "--model", m, "--prompt", "a b"},
        {"generate", "--model", m, "--prompt", "a b", "--temperature", "1"},
        {"score", "--model", m, "--text", "a b", "--json"},
        {"merge", "--model", m, "--adapter", adapter, "--output", at("never_merged")}}) {
    const Ran ran = command(line);
    EXPECT_EQ(ran.code, 65) << line[0] << ": " << ran.err;
    EXPECT_THAT(ran.err, AllOf(HasSubstr(m), HasSubstr("finite")));
    EXPECT_EQ(ran.out, "");
  }
}

TEST(Limits, WeightsBeyondAHalfAreNotWrittenAsInfinities) {
  const std::string m = copy_with("beyond_f16", "model.embed_tokens.weight", 7e4F).string(), out = at("as_f16");
  const std::string adapter = at("adapter_for_f16");
  ASSERT_EQ(command(one_step(adapter, {})).code, 0);
  for (const std::vector<std::string>& line :
       {std::vector<std::string>{"convert", "--model", m}, {"merge", "--model", m, "--adapter", adapter}}) {
    std::vector<std::string> words = line;
    words.insert(words.end(), {"--output", out, "--dtype", "f16"});
    const Ran ran = command(words);
    EXPECT_EQ(ran.code, 65) << ran.err;
    EXPECT_THAT(ran.err, AllOf(HasSubstr(m), HasSubstr("model.embed_tokens.weight"), HasSubstr("65504")));
    EXPECT_FALSE(fs::exists(out));
  }
  EXPECT_EQ(command({"convert", "--model", m, "--output", out, "--dtype", "bf16"}).code, 0);
}

TEST(Limits, PromptsThatAreNoMessagesNameTheirLine) {
  const std::string rows = at("bad_prompts.jsonl");
  for (const char* bad : {R"({"messages": [5]})", R"({"messages": "x"})", R"({"messages": [{"content": "x"}]})",
                          R"({"messages": [{"role": 5, "content": "x"}]})"}) {
    write(rows, std::string("{\"prompt\": \"fine\"}\n") + bad + "\n");
    const Ran ran = command({"generate", "--model", model(), "--prompts", rows});
    EXPECT_EQ(ran.code, 65) << ran.err;
    EXPECT_THAT(ran.err, AllOf(HasSubstr("bad_prompts.jsonl:2: "), HasSubstr("messages"))) << bad;
  }
}

TEST(Limits, RowsWithNothingToLearnAreListed) {
  const std::string rows = at("nothing.jsonl");
  const std::string none = R"({"messages": [{"role": "user", "content": "x"}]})";
  write(rows, "{\"text\": \"fine\"}\n" + none + "\n\n" + none + "\n");
  const Ran ran = command(one_step(at("left_out"), {"--data", rows, "--dry-run"}));
  EXPECT_EQ(ran.code, 0) << ran.err;
  EXPECT_THAT(ran.err, HasSubstr("nothing.jsonl: 2 of 3 rows have nothing to learn and are left out: lines 2, 4\n"));
  write(
      rows,
      "{\"text\": \"fine\"}\n{\"messages\": [{\"role\": \"user\", \"content\": \"x\"}, {\"role\": \"assistant\"}]}\n");
  const Ran empty = command(one_step(at("left_out"), {"--data", rows, "--dry-run"}));
  EXPECT_EQ(empty.code, 65);
  EXPECT_THAT(empty.err, AllOf(HasSubstr("nothing.jsonl:2"), HasSubstr("content")));
}

TEST(Limits, AnAdapterToBeginWithIsNotContradicted) {
  const std::string first = at("first_adapter");
  ASSERT_EQ(command(one_step(first, {"--target-modules", "q,v", "--alpha", "6"})).code, 0);
  const auto again = [&](const std::vector<std::string>& more) {
    const std::string out = at("second_adapter");
    fs::remove_all(out);
    std::vector<std::string> line = {
        "train",    "--model", model(),   "--data", at("train.jsonl"), "--init-adapter", first,
        "--output", out,       "--steps", "1"};
    line.insert(line.end(), more.begin(), more.end());
    return command(line);
  };
  for (const std::vector<std::string>& wrong : {std::vector<std::string>{"--rank", "4"},
                                                {"--alpha", "2"},
                                                {"--target-modules", "q_proj,k_proj"},
                                                {"--rslora"}}) {
    const Ran ran = again(wrong);
    EXPECT_EQ(ran.code, 2) << wrong[0] << ran.err;
    EXPECT_THAT(ran.err, AllOf(HasSubstr(wrong[0]), HasSubstr("contradicts --init-adapter")));
  }
  EXPECT_EQ(again({}).code, 0);
  std::ofstream(at("other_rank.toml")) << "rank = 4\nalpha = 2\ntarget-modules = \"k_proj\"\n";
  EXPECT_EQ(again({"--config", at("other_rank.toml")}).code, 0) << "the flag --init-adapter goes before the file";
  const Ran same = again({"--rank", "2", "--alpha", "6", "--target-modules", "v_proj,q_proj", "--dropout", "0.25"});
  EXPECT_EQ(same.code, 0) << same.err;
  const Json config = Json::load(fs::path(at("second_adapter")) / "adapter_config.json");
  EXPECT_EQ(config.at("lora_dropout").as_double(), 0.25);
  EXPECT_EQ(config.at("r").as_int64(), 2);
  const fs::path kept = fs::path(at("second_adapter")) / "checkpoints/step-1/config.toml";
  const Ran printed = command({"train", "--config", kept.string(), "--print-config", "--json"});
  ASSERT_EQ(printed.code, 0) << printed.err;
  const Json event = printed.events().at(0);
  EXPECT_EQ(event.at("event").as_string(), "config");
  EXPECT_EQ(event.at("dropout").as_double(), 0.25);
  EXPECT_FALSE(event.contains("rank")) << "the adapter brings it";
}

TEST(Limits, FlagsThatCannotMeanAnything) {
  const Ran every = command(one_step(at("no_early"), {"--eval-every", "2"}));
  EXPECT_EQ(every.code, 2);
  EXPECT_THAT(every.err, AllOf(HasSubstr("--eval-every"), HasSubstr("--valid")));
  const Ran early = command(one_step(at("no_early"), {"--early-stop", "2"}));
  EXPECT_EQ(early.code, 2);
  EXPECT_THAT(early.err, AllOf(HasSubstr("--early-stop"), HasSubstr("--valid")));
  const Ran once = command(one_step(at("once"), {"--early-stop", "2", "--valid", at("valid.jsonl")}));
  EXPECT_EQ(once.code, 2);
  EXPECT_THAT(once.err, HasSubstr("--early-stop needs --eval-every"));
  const Ran alpha = command(one_step(at("no_alpha"), {"--alpha", "0"}));
  EXPECT_EQ(alpha.code, 2);
  EXPECT_THAT(alpha.err, HasSubstr("--alpha"));
  const Ran typo = command(one_step(at("no_typo"), {"--target-modules", "q_proj,vproj"}));
  EXPECT_EQ(typo.code, 2);
  EXPECT_THAT(typo.err, AllOf(HasSubstr("\"vproj\""), HasSubstr("v_proj")));
  const std::string toml = at("table.toml");
  write(toml, "foo = 1\n");
  EXPECT_THAT(command({"train", "--config", toml}).err, HasSubstr("table.toml: foo: is no option of train"));
  write(toml, "[rank]\nx = 1\n");
  EXPECT_THAT(command({"train", "--config", toml}).err,
              AllOf(HasSubstr("table.toml: rank: expected"), HasSubstr("got a table")));
}

TEST(Limits, OutputsMakeTheFoldersAboveThem) {
  const std::string adapter = at("deep/er/adapter"), merged = at("other/deep/merged");
  ASSERT_EQ(command(one_step(adapter, {})).code, 0);
  const Ran merge = command({"merge", "--model", model(), "--adapter", adapter, "--output", merged});
  EXPECT_EQ(merge.code, 0) << merge.err;
  write(at("a_file"), "x");
  const Ran under = command({"merge", "--model", model(), "--adapter", adapter, "--output", at("a_file/merged")});
  EXPECT_EQ(under.code, 73);
  EXPECT_THAT(under.err, HasSubstr("a_file"));
}

TEST(Limits, MessagesHoldNothingThatATerminalObeys) {
  const Ran ran = command({"score", "--model", at("no\x1b[31m\x07\xff\xc2\x9b\xc3\xa4model"), "--text", "a"});
  EXPECT_EQ(ran.code, 66);
  EXPECT_THAT(ran.err, HasSubstr("no\\x1b[31m\\x07\\xff\\xc2\\x9b\xc3\xa4model"));
  EXPECT_EQ(ran.err.find('\x1b'), std::string::npos);
}

TEST(Limits, HelpOfTrainNamesItsVariables) {
  const Ran help = command({"train", "--help"});
  EXPECT_THAT(help.out, HasSubstr("METAL_CANDLE_LEARNING_RATE"));
  EXPECT_THAT(help.out, HasSubstr("--quiet may stand in the file of --config"));
  std::istringstream lines(help.out);
  for (std::string line; std::getline(lines, line);) EXPECT_LE(line.size(), 100u) << line;
}

TEST(Limits, ScoreOfOneTokenSaysNothing) {
  const std::string rows = at("ones.jsonl");
  std::ofstream(rows) << "{\"text\": \"a\"}\n";
  const Ran ran = command({"score", "--model", model(), "--data", rows, "--json"});
  ASSERT_EQ(ran.code, 0) << ran.err;
  const Json e = ran.events().at(0);
  EXPECT_EQ(e.at("tokens").size(), 1u);
  EXPECT_TRUE(e.at("nll").is_null() && e.at("perplexity").is_null());
  EXPECT_THAT(command({"score", "--model", model(), "--text", "a"}).out, HasSubstr("1 token, nothing to predict"));
  // Nothing is computed before every row is known to have something to compute.
  std::ofstream(rows) << "{\"text\": \"a b c\"}\n{\"text\": \"\"}\n";
  const Ran bad = command({"score", "--model", model(), "--data", rows, "--json"});
  EXPECT_EQ(bad.code, 65);
  EXPECT_THAT(bad.err, HasSubstr("ones.jsonl:2: the text has no tokens"));
  EXPECT_EQ(bad.out, "");
}

TEST(Limits, RowsComeFromStandardInputToo) {
  const Ran ran = command({"tokenize", "--model", model(), "--data", "-", "--json"}, {}, "{\"text\": \"a b\"}\n");
  ASSERT_EQ(ran.code, 0) << ran.err;
  EXPECT_EQ(ran.events().at(0).at("text").as_string(), "a b");
  const Ran bad = command({"tokenize", "--model", model(), "--data", "-"}, {}, "\n{\"text\"\n");
  EXPECT_EQ(bad.code, 65);
  EXPECT_THAT(bad.err, HasSubstr("standard input:2: column 8: expected"));
  // train, too, and from pipes; the rows of a file make the same adapter.
  const auto weights = [&](const char* output) { return text_of(at(output) + "/adapter_model.safetensors"); };
  ASSERT_EQ(command(one_step(at("from_file"), {})).code, 0);
  const Ran input = command(one_step(at("from_input"), {"--data", "-"}), {}, text_of(at("train.jsonl")));
  ASSERT_EQ(input.code, 0) << input.err;
  EXPECT_EQ(weights("from_input"), weights("from_file"));
  std::string line;
  for (const std::string& word : one_step(at("from_pipe"), {"--data", "/dev/stdin"})) line += " " + word;
  const Ran pipe = shell("--version >/dev/null; cat " + at("train.jsonl") + " | " METAL_CANDLE_COMMAND + line);
  ASSERT_EQ(pipe.code, 0) << pipe.err;
  EXPECT_EQ(weights("from_pipe"), weights("from_file"));
}

// Qwen's models have hundreds of such rows.
TEST(Limits, AnswersMayHaveTokensThatTheTokenizerLacks) {
  const auto [folder, first] = model_with_more_rows();
  const std::string bias = std::to_string(first + 3) + "=1000";
  const std::vector<std::string> flags = {"--model", folder,   "--logit-bias",  bias, "--max-tokens", "4", "--dtype",
                                          "f32",     "--json", "--temperature", "0"};
  std::vector<std::string> generate = {"generate", "--prompts", at("prompts.jsonl"), "--stream"}, chat = {"chat"};
  generate.insert(generate.end(), flags.begin(), flags.end());
  chat.insert(chat.end(), flags.begin(), flags.end());
  chat.emplace_back("--quiet");
  for (const auto& [line, input, results] : {std::tuple(generate, "", 3), std::tuple(chat, "Hello\n", 1)}) {
    const Ran ran = command(line, {}, input);
    EXPECT_EQ(ran.code, 0) << ran.err;
    int seen = 0;
    for (const Json& event : ran.events()) {
      if (event.at("event").as_string() != "result") continue;
      ++seen;
      EXPECT_EQ(event.at("text").as_string(), "");
      EXPECT_EQ(event.at("tokens").size(), 4u);
      EXPECT_EQ(event.at("tokens").at(0).as_int64(), first + 3);
    }
    EXPECT_EQ(seen, results);
  }
}

// A model large enough that what a step takes is most of what the process has.
std::string model_to_train() {
  const fs::path folder = playground() / "to_train";
  ModelConfig config = Model::load(model(), {.dtype = DType::f32}).config();
  config.hidden = 192, config.intermediate = 512, config.layers = 6, config.heads = 6, config.key_heads = 3;
  config.head_width = 32, config.max_positions = 512;
  if (!fs::exists(folder)) save_model(folder, Model::random(config, Key(4)), model());
  std::string rows;
  for (int i = 0; i < 40; ++i) {
    std::string text = "one";
    for (int k = 0; k < 40 + i * 37 % 120; ++k) text += " two";
    rows += Json::object({{"prompt", "Count"}, {"completion", text}}).dump() + "\n";
  }
  write(at("to_train.jsonl"), rows);
  return folder.string();
}

TEST(Limits, ADryRunForeseesTheMemoryOfARun) {
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
  GTEST_SKIP() << "the sanitizer takes most of the memory";
#endif
  const std::string m = model_to_train(), out = at("foreseen");
  for (const std::vector<std::string>& how : {std::vector<std::string>{},
                                              {"--dtype", "bf16"},
                                              {"--batch-size", "2"},
                                              {"--checkpointing"},
                                              {"--accumulate", "2"},
                                              {"--accumulate", "3", "--packing", "--dtype", "bf16"}}) {
    std::vector<std::string> more = {"--data", at("to_train.jsonl"), "--batch-size", "8", "--rank", "8", "--steps", "4",
                                     "--json"};
    for (std::size_t i = 0; i < how.size(); ++i) {
      const auto usual = std::find(more.begin(), more.end(), how[i]);
      if (how[i].starts_with("--") && usual != more.end()) more.erase(usual, usual + 2);
    }
    more.insert(more.end(), how.begin(), how.end());
    std::string what;
    for (const std::string& word : how) what += word + " ";
    fs::remove_all(out);
    const Ran run = command(one_step(out, more, m));
    ASSERT_EQ(run.code, 0) << run.err;
    double taken = 0;
    for (const Json& e : run.events())
      if (const Json* peak = e.find("peak_bytes")) taken = std::max(taken, peak->as_double());
    fs::remove_all(out);
    more.emplace_back("--dry-run");
    const Ran dry = command(one_step(out, more, m));
    ASSERT_EQ(dry.code, 0) << dry.err;
    const double said = dry.events().at(0).at("peak_bytes").as_double();
    EXPECT_GT(said, 0.9 * taken) << what;
    EXPECT_LT(said, 1.1 * taken) << what;
  }
}

}  // namespace
}  // namespace metal_candle::test
