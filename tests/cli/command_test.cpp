// The command as people and programs use it: exit codes, mistakes of newcomers, JSON, help, completions. Training is in
// train_test.cpp.
#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <set>

#include "metal_candle/json.hpp"
#include "tests/cli/command.h"

namespace metal_candle::test {
namespace {

using testing::AllOf;
using testing::HasSubstr;
using testing::IsEmpty;

const char* const kCommands[] = {"generate", "chat",    "score",    "train",   "embed",   "search",
                                 "merge",    "convert", "tokenize", "inspect", "devices", "bench"};

TEST(Command, HelpOfAllCommands) {
  const Ran all = command({"--help"});
  EXPECT_EQ(all.code, 0);
  for (const char* name : kCommands) {
    EXPECT_THAT(all.out, HasSubstr(std::string("\n  ") + name));
    const Ran one = command({name, "--help"});
    EXPECT_EQ(one.code, 0) << name;
    EXPECT_THAT(one.out,
                AllOf(HasSubstr("usage: metal-candle " + std::string(name)), HasSubstr("\nexamples:\n  metal-candle"),
                      HasSubstr("--threads N"), HasSubstr("--json")));
    EXPECT_THAT(one.err, IsEmpty());
    EXPECT_EQ(command({"help", name}).out, one.out);
  }
  EXPECT_EQ(command({}).code, 2);
  EXPECT_THAT(command({"--version"}).out, HasSubstr("metal-candle 0."));
  EXPECT_EQ(keys(command({"--version", "--json"}).events().at(0)),
            (std::vector<std::string>{"event", "version", "schema"}));
}

// The options that are promised, by command.
TEST(Command, HasThePromisedOptions) {
  const std::pair<const char*, std::vector<const char*>> promised[] = {
      {"generate",
       {"--model", "--prompt", "--prompts", "--chat", "--system", "--adapter", "--max-tokens", "--temperature",
        "--top-k", "--top-p", "--min-p", "--repetition-penalty", "--stop", "--ignore-eos", "--stream"}},
      {"chat", {"--model", "--adapter", "--system"}},
      {"score", {"--model", "--adapter", "--text", "--data"}},
      {"train",
       {"--model",        "--data",          "--valid",          "--output",        "--config",     "--rank",
        "--alpha",        "--dropout",       "--target-modules", "--learning-rate", "--schedule",   "--warmup",
        "--weight-decay", "--max-grad-norm", "--batch-size",     "--accumulate",    "--max-length", "--steps",
        "--epochs",       "--eval-every",    "--save-every",     "--early-stop",    "--no-shuffle", "--init-adapter",
        "--resume",       "--packing",       "--train-on",       "--checkpointing", "--dry-run",    "--print-config"}},
      {"embed",
       {"--model", "--input", "--text", "--output", "--prompt-name", "--batch-tokens", "--no-normalize",
        "--dimensions"}},
      {"search", {"--model", "--corpus", "--query", "--top"}},
      {"merge", {"--model", "--adapter", "--output"}},
      {"convert", {"--model", "--output"}},
      {"tokenize", {"--model", "--text", "--data"}},
      {"devices", {"--device", "--threads", "--dtype", "--seed", "--json", "--quiet", "--help", "--version"}},
  };
  for (const auto& [name, options] : promised) {
    const std::string help = command({name, "--help"}).out;
    for (const char* option : options) EXPECT_THAT(help, HasSubstr(std::string("\n  ") + option)) << name;
  }
}

struct Mistake {
  std::vector<std::string> line;
  int code;
  std::string says;
};

TEST(Command, MistakesOfNewcomers) {
  const std::string m = model(), none = at("nowhere");
  const Mistake mistakes[] = {
      {{"genrate"}, 2, "did you mean generate?"},
      {{"xyzzy"}, 2, "no command \"xyzzy\""},
      {{"generate", "--model", m}, 2, "--prompt, --prompts"},
      {{"generate", "--modle", m, "--prompt", "x"}, 2, "did you mean --model?"},
      {{"generate", "--model", none, "--prompt", "x"}, 66, none},
      {{"generate", "--model", m, "--prompt", "x", "--max-tokens", "many"}, 2, "--max-tokens: expected a whole number"},
      {{"generate", "--model", m, "--prompt", "x", "--seed", "18446744073709551615"}, 2, "to 9223372036854775807, got"},
      {{"generate", "--model", m, "--prompt", "x", "--temperature", "-1"}, 2, "--temperature"},
      {{"generate", "--model", m, "--prompt", "x", "--top-p"}, 2, "--top-p needs a value"},
      {{"generate", "--model", m, "--prompt", std::string(4000, 'x')}, 2, "context 128"},
      {{"generate", "--model", m, "--prompt", "x", "--adapter", none}, 66, none},
      {{"generate", "--model", m, "--prompts", at("texts.jsonl")}, 65, "texts.jsonl:1: expected a member \"prompt\""},
      {{"generate", "--model", m, "--prompt", "x", "--prompts", "y"}, 2, "only one of"},
      {{"generate", "--model", m, "hello"}, 2, "options only"},
      {{"generate", "--model", m, "--prompt", "x", "--device", "cuda"}, 69, "auto|cpu"},
      {{"chat"}, 2, "chat needs --model"},
      {{"chat", "--model", none}, 66, none},
      {{"chat", "--model", m, "--prompt", "x"}, 2, "chat has no option --prompt"},
      {{"score", "--model", m}, 2, "--text, --data"},
      {{"score", "--model", m, "--data", none}, 66, none},
      {{"score", "--model", m, "--data", at("broken.jsonl")}, 65, "broken.jsonl:2: text: expected a string, got 5"},
      {{"train", "--model", m, "--data", at("train.jsonl")}, 2, "train needs --output"},
      {{"train", "--model", m, "--output", at("o")}, 2, "train needs --data"},
      {{"train", "--model", m, "--data", none, "--output", at("o")}, 66, none},
      {{"train", "--model", m, "--data", at("notjson.jsonl"), "--output", at("o")}, 65, "notjson.jsonl:1"},
      {{"train", "--model", m, "--data", at("train.jsonl"), "--output", at("o"), "--rank", "0"}, 2, "--rank"},
      {{"train", "--model", m, "--data", at("train.jsonl"), "--output", at("o"), "--target-modules", "nothing_proj"},
       2,
       "nothing_proj"},
      {{"train", "--model", m, "--data", at("train.jsonl"), "--output", at("o"), "--steps", "2", "--epochs", "2"},
       2,
       "only one of"},
      {{"train", "--model", m, "--data", at("train.jsonl"), "--output", at("train.jsonl") + "/o", "--steps", "1"},
       73,
       "train.jsonl"},
      {{"train", "--config", none}, 66, none},
      {{"merge", "--model", m, "--adapter", none, "--output", at("unmerged")}, 66, none},
      {{"merge", "--model", m, "--output", at("unmerged")}, 2, "merge needs --adapter"},
      {{"merge", "--model", m, "--adapter", m, "--output", m}, 73, "one that is"},
      {{"convert", "--model", m}, 2, "convert needs --output"},
      {{"convert", "--model", none, "--output", at("c")}, 66, none},
      {{"convert", "--model", at("train.jsonl"), "--output", at("c")}, 65, "train.jsonl"},
      {{"tokenize", "--model", m}, 2, "--text, --data"},
      {{"tokenize", "--model", m, "--data", at("empty.jsonl")}, 65, "at least one row"},
      {{"tokenize", "--txt", "x"}, 2, "did you mean --text?"},
      {{"inspect"}, 2, "inspect needs a PATH"},
      {{"inspect", none}, 66, none},
      {{"inspect", at("train.jsonl")}, 65, "none of these"},
      {{"inspect", m, m}, 2, "one PATH"},
      {{"devices", "--device", "metal"}, 69, "--device"},
      {{"devices", "all"}, 2, "options only"},
      {{"devices", "--threads", "0"}, 2, "--threads"},
      {{"bench"}, 2, "bench needs --model"},
      {{"bench", "--model", none}, 66, none},
      {{"bench", "--model", m, "--max-tokens", "1"}, 2, "--max-tokens"},
      {{"completions", "powershell"}, 2, "bash, zsh or fish"},
  };
  for (const Mistake& mistake : mistakes) {
    const Ran ran = command(mistake.line);
    std::string line;
    for (const std::string& word : mistake.line) line += word.substr(0, 60) + " ";
    SCOPED_TRACE(line);
    EXPECT_EQ(ran.code, mistake.code) << ran.err;
    EXPECT_THAT(ran.err, HasSubstr(mistake.says));
    EXPECT_THAT(ran.out, IsEmpty());
    EXPECT_LT(ran.err.size(), 1000u);
  }
}

TEST(Command, FullDiskUnderStandardOutput) {
  if (!std::filesystem::exists("/dev/full")) GTEST_SKIP();
  const int status = std::system((std::string(METAL_CANDLE_COMMAND) + " devices > /dev/full 2>/dev/null").c_str());
  EXPECT_EQ(WEXITSTATUS(status), 74);
}

// What is meant for people changes neither results nor exit codes, and never lands in a file that was opened meanwhile.
TEST(Command, StandardErrorThatCannotBeWritten) {
  if (!std::filesystem::exists("/dev/full")) GTEST_SKIP();
  const auto code = [](const std::string& line) {
    return WEXITSTATUS(std::system((std::string(METAL_CANDLE_COMMAND) + " " + line).c_str()));
  };
  int number = 0;
  for (const std::string to : {" 2>/dev/full", " 2>&-"}) {
    const std::string output = (playground() / ("unheard-" + std::to_string(number++))).string();
    EXPECT_EQ(code("nonsense" + to), 2);
    EXPECT_EQ(code("generate --model " + model() + " --prompt Hello --max-tokens 2 >/dev/null" + to), 0);
    EXPECT_EQ(
        code(fmt::format("train --model {} --data {} --output {} --steps 2{}", model(), at("train.jsonl"), output, to)),
        0);
    EXPECT_TRUE(std::filesystem::exists(output + "/adapter_model.safetensors"));
  }
  EXPECT_EQ(code("devices >&- 2>/dev/null"), 74);
}

TEST(Command, PeakBytesAreItsOwn) {
  const std::vector<char> ours(400u << 20, 1);  // which a child that was forked begins with
  EXPECT_EQ(ours[ours.size() / 2], 1);
  const Ran ran = command({"generate", "--model", model(), "--prompt", "Hello", "--max-tokens", "2", "--json"});
  ASSERT_EQ(ran.code, 0) << ran.err;
  EXPECT_LT(ran.events().at(0).at("peak_bytes").as_int64(), 300 << 20);
}

TEST(Command, TokenizeGivesIdsAndTheirText) {
  const Ran ran = command({"tokenize", "--model", model(), "--data", at("texts.jsonl"), "--json"});
  ASSERT_EQ(ran.code, 0) << ran.err;
  const auto events = ran.events();
  ASSERT_EQ(events.size(), 2u);
  EXPECT_EQ(keys(events[0]), (std::vector<std::string>{"event", "index", "tokens", "text"}));
  EXPECT_EQ(events[0].at("text").as_string(), "Hello world");
  EXPECT_EQ(events[1].at("text").as_string(), "Grüße");
  EXPECT_EQ(events[1].at("index").as_int64(), 1);
}

TEST(Command, ASystemMessageGoesInFrontOfRowsWithoutOne) {
  const std::string asks = R"({"messages": [{"role": "user", "content": "hi"}]})";
  const std::string told = R"({"messages": [{"role": "system", "content": "be"}, {"role": "user", "content": "hi"}]})";
  std::ofstream(at("system.jsonl")) << asks << "\n" << told << "\n{\"prompt\": \"hi\"}\n";
  const auto prompts = [](const std::vector<std::string>& more) {
    std::vector<std::string> line = {"generate", "--model",      model(), "--prompts", at("system.jsonl"),
                                     "--chat",   "--max-tokens", "1",     "--json"};
    line.insert(line.end(), more.begin(), more.end());
    std::vector<std::string> shown;
    for (const Json& e : command(line).events()) shown.push_back(e.at("prompt_tokens").dump());
    return shown;
  };
  const auto plain = prompts({}), led = prompts({"--system", "be"});
  ASSERT_EQ(plain.size(), 3u);
  EXPECT_NE(plain[0], plain[1]);
  EXPECT_EQ(led, std::vector<std::string>(3, plain[1]));
}

TEST(Command, GenerateSaysWhatItDid) {
  const std::vector<std::string> line = {"generate",          "--model",      model(), "--prompts",
                                         at("prompts.jsonl"), "--max-tokens", "5",     "--ignore-eos",
                                         "--dtype",           "f32",          "--json"};
  const Ran ran = command(line);
  ASSERT_EQ(ran.code, 0) << ran.err;
  const auto events = ran.events();
  ASSERT_EQ(events.size(), 3u);
  for (std::size_t i = 0; i < 3; ++i) {
    const Json& e = events[i];
    EXPECT_EQ(keys(e),
              (std::vector<std::string>{"event", "index", "text", "tokens", "logprobs", "prompt_tokens",
                                        "finish_reason", "prefill_s", "decode_s", "tokens_per_s", "peak_bytes"}));
    EXPECT_EQ(e.at("index").as_int64(), static_cast<std::int64_t>(i));
    EXPECT_EQ(e.at("tokens").size(), 5u);
    EXPECT_EQ(e.at("logprobs").size(), 5u);
    EXPECT_EQ(e.at("finish_reason").as_string(), "length");
    EXPECT_GT(e.at("peak_bytes").as_int64(), 1 << 20);
  }
  // What one prompt gives does not depend on the others.
  const auto alone = command({"generate", "--model", model(), "--prompt", "Three and more", "--max-tokens", "5",
                              "--ignore-eos", "--dtype", "f32", "--json"})
                         .events();
  EXPECT_EQ(alone.at(0).at("tokens"), events[2].at("tokens"));
  EXPECT_EQ(alone.at(0).at("logprobs"), events[2].at("logprobs"));
  const Ran chat = command({"generate", "--model", model(), "--prompt", "Two", "--chat", "--max-tokens", "5",
                            "--ignore-eos", "--dtype", "f32", "--json"});
  EXPECT_EQ(chat.events().at(0).at("prompt_tokens"), events[1].at("prompt_tokens"));
}

std::vector<std::string> prompts_line(const std::string& file, std::vector<std::string> more) {
  std::vector<std::string> line = {"generate", "--model", model(),        "--prompts", file,
                                   "--dtype",  "f32",     "--ignore-eos", "--json"};
  line.insert(line.end(), more.begin(), more.end());
  return line;
}

TEST(Command, AnswersAreWrittenAsSoonAsThoseOfEarlierRowsAre) {
  const Ran one = command(prompts_line(at("prompts.jsonl"), {"--max-tokens", "3", "--batch-size", "1", "--stream"}));
  ASSERT_EQ(one.code, 0) << one.err;
  std::string order;
  for (const Json& e : one.events())
    order += (e.at("event").as_string() == "token" ? "t" : "R") + std::to_string(e.at("index").as_int64());
  EXPECT_EQ(order, "t0t0t0R0t1t1t1R1t2t2t2R2");
}

// Answers that are cut by the model's context end at very different times.
TEST(Command, AnswersAreInTheOrderOfRows) {
  std::string rows;
  for (int i = 0; i < 300; ++i) {
    std::string text = "a";
    for (int k = 0; k < (i % 3 == 1 ? 50 : i * 7 % 40); ++k) text += " a";
    rows += Json::object({{"prompt", text}}).dump() + "\n";
  }
  std::ofstream(at("uneven.jsonl")) << rows;
  std::vector<Json> alone;
  for (const char* batch : {"1", "16"}) {
    auto line = prompts_line(at("uneven.jsonl"), {"--batch-size", batch, "--temperature", "1", "--max-tokens", "60"});
    line.erase(std::find(line.begin(), line.end(), "--ignore-eos"));
    const Ran ran = command(line);
    ASSERT_EQ(ran.code, 0) << ran.err;
    const auto events = ran.events();
    ASSERT_EQ(events.size(), 300u);
    std::set<std::size_t> lengths;
    if (alone.empty()) alone = events;
    for (std::size_t i = 0; i < events.size(); ++i) {
      EXPECT_EQ(events[i].at("index").as_int64(), static_cast<std::int64_t>(i));
      EXPECT_EQ(events[i].at("tokens"), alone[i].at("tokens")) << i;
      lengths.insert(events[i].at("tokens").size());
    }
    EXPECT_GT(lengths.size(), 3u);
  }
}

TEST(Command, GenerateForPeople) {
  const std::vector<std::string> line = {"generate", "--model",      model(), "--prompt",
                                         "One",      "--max-tokens", "4",     "--quiet"};
  const Ran ran = command(line);
  EXPECT_EQ(ran.code, 0);
  EXPECT_THAT(ran.err, IsEmpty());
  auto streamed = line;
  streamed.emplace_back("--stream");
  EXPECT_EQ(command(streamed).out, ran.out);
  EXPECT_EQ(ran.out.back(), '\n');
}

TEST(Command, ScoreIsTheMeanOfWhatItLists) {
  const Ran ran = command({"score", "--model", model(), "--data", at("texts.jsonl"), "--dtype", "f32", "--json"});
  ASSERT_EQ(ran.code, 0) << ran.err;
  const auto events = ran.events();
  ASSERT_EQ(events.size(), 2u);
  for (const Json& e : events) {
    EXPECT_EQ(keys(e), (std::vector<std::string>{"event", "index", "tokens", "logprobs", "nll", "perplexity"}));
    ASSERT_EQ(e.at("logprobs").size(), e.at("tokens").size());
    EXPECT_TRUE(e.at("logprobs").at(0).is_null());
    double sum = 0;
    for (const Json& p : e.at("logprobs").elements().subspan(1)) sum -= p.as_double();
    EXPECT_NEAR(e.at("nll").as_double(), sum / static_cast<double>(e.at("tokens").size() - 1), 1e-9);
    EXPECT_NEAR(e.at("perplexity").as_double(), std::exp(e.at("nll").as_double()),
                1e-6 * e.at("perplexity").as_double());
  }
}

TEST(Command, ChatAnswersLineByLine) {
  const Ran ran =
      command({"chat", "--model", model(), "--max-tokens", "3", "--json"}, {}, "Hello\n/reset\nHello\n/quit\nnever\n");
  ASSERT_EQ(ran.code, 0) << ran.err;
  EXPECT_EQ(ran.events().size(), 2u);
  EXPECT_EQ(ran.events().at(0).at("tokens"), ran.events().at(1).at("tokens"));
  const Ran windows = command({"chat", "--model", model(), "--max-tokens", "3", "--json"}, {},
                              "Hello\r\n/reset\r\n\r\nHello\r\n/quit\r\nnever\r\n");
  ASSERT_EQ(windows.events().size(), 2u) << windows.err;
  EXPECT_EQ(windows.events().at(1).at("tokens"), ran.events().at(0).at("tokens"));
}

TEST(Command, InspectAndDevicesAreJsonToo) {
  const Json found = command({"inspect", model(), "--json"}).events().at(0);
  EXPECT_THAT(keys(found), testing::IsSupersetOf({"event", "path", "kind", "parameters", "bytes", "tensors"}));
  EXPECT_EQ(found.at("kind").as_string(), "model");
  EXPECT_TRUE(found.at("supported").as_bool());
  const Json tensor = found.at("tensors").at(0);
  EXPECT_EQ(keys(tensor), (std::vector<std::string>{"name", "dtype", "shape", "bytes"}));
  ASSERT_EQ(command({"train", "--model", model(), "--data", at("train.jsonl"), "--output", at("looked_at"), "--steps",
                     "3", "--rank", "2", "--quiet"})
                .code,
            0);
  const std::string checkpoint = at("looked_at/checkpoints/step-3");
  const Json saved = command({"inspect", checkpoint, "--json"}).events().at(0);
  EXPECT_EQ(saved.at("kind").as_string(), "checkpoint");
  EXPECT_EQ(saved.at("progress").at("step").as_int64(), 3);
  EXPECT_EQ(saved.at("options").at("batch_size").as_int64(), 8);
  EXPECT_THAT(command({"inspect", checkpoint}).out, HasSubstr("  step                                     3\n"));
  const Json device = command({"devices", "--json", "--threads", "1"}).events().at(0);
  EXPECT_EQ(device.at("device").as_string(), "cpu");
  EXPECT_EQ(device.at("threads").as_int64(), 1);
  const Ran bench = command({"bench", "--model", model(), "--prompt-tokens", "16", "--max-tokens", "4", "--json"});
  ASSERT_EQ(bench.code, 0) << bench.err;
  EXPECT_GT(bench.events().at(0).at("decode_tokens_per_s").as_double(), 0);
}

TEST(Command, CompletionsAreWhatTheShellsRead) {
  for (const char* name : {"bash", "zsh", "fish"}) {
    const Ran ran = command({"completions", name});
    EXPECT_EQ(ran.code, 0);
    for (const char* word : kCommands) EXPECT_THAT(ran.out, HasSubstr(word));
    EXPECT_THAT(ran.out, HasSubstr("learning-rate"));
    const std::string script = at("completions");
    std::ofstream(script) << ran.out;
    const std::string look = "command -v " + std::string(name) + " >/dev/null 2>&1";
    if (std::system(look.c_str()) == 0) {
      EXPECT_EQ(std::system((std::string(name) + " -n " + script).c_str()), 0) << name;
    }
  }
  // `help` is completed by the names of commands, in all three.
  EXPECT_THAT(command({"completions", "zsh"}).out,
              HasSubstr("CURRENT == 3 )) && [[ $words[2] == help ]]; then\n    _describe command commands"));
  if (std::system("command -v zsh >/dev/null 2>&1") == 0) {
    // A zsh in a terminal of its own, and what it makes of a tab behind each line.
    std::filesystem::create_directories(at("zsh"));
    std::ofstream(at("zsh/_metal-candle")) << command({"completions", "zsh"}).out;
    std::ofstream(at("ask.zsh")) << R"(
zmodload zsh/zpty
zpty z TERM=dumb zsh -f -i
zpty -w z "PS1=; fpath=($1 \$fpath); autoload -U compinit; compinit -u -D"
zpty -w z 'show() { BUFFER="print is: ${(q)BUFFER}; print end"; zle accept-line; }'
zpty -w z 'zle -N show; bindkey ^X show; print is: ready; print end'
say() { local text; zpty -r z text $'*\nend*'; text=${text##*$'\n'is: }; print -r -- ${text%%[[:cntrl:]]*}; }
say
for line in ${@:2}; do zpty -n -w z $line$'\t\x18'; say; done
)";
    const Ran zsh = shell("devices >/dev/null; timeout 60 zsh -f " + at("ask.zsh") + " " + at("zsh") +
                          " 'metal-candle tr' 'metal-candle train --sche' 'metal-candle generate --dtype b'"
                          " 'metal-candle help toke' 'metal-candle inspect --ten' 'metal-candle completions z'");
    EXPECT_EQ(zsh.out,
              "ready\nmetal-candle train \nmetal-candle train --schedule \nmetal-candle generate --dtype bf16 \n"
              "metal-candle help tokenize \nmetal-candle inspect --tensors \nmetal-candle completions zsh \n")
        << zsh.err;
  }
  if (std::system("command -v fish >/dev/null 2>&1") == 0) {
    std::ofstream(at("completions.fish")) << command({"completions", "fish"}).out;
    const Ran fish = shell("devices >/dev/null; fish -c 'source " + at("completions.fish") +
                           "; complete -C \"metal-candle help tr\"; complete -C \"metal-candle he\"; complete -C "
                           "\"metal-candle help train --sche\"' | cut -f1");
    EXPECT_EQ(fish.out.substr(0, 11), "train\nhelp\n") << fish.out << fish.err;
  }
  const std::string script = at("completions");
  std::ofstream(script) << command({"completions", "bash"}).out;
  std::ofstream(at("sp ace*")) << "x";
  const Ran ran =
      shell("devices >/dev/null; bash -c 'source " + script +
            "; COMP_WORDS=(metal-candle train --sche); COMP_CWORD=2; _metal_candle; echo ${COMPREPLY[@]}; "
            "COMP_WORDS=(metal-candle train --schedule c); COMP_CWORD=3; _metal_candle; echo ${COMPREPLY[@]}; "
            "COMP_WORDS=(metal-candle generate --dtype = b); COMP_CWORD=4; _metal_candle; echo ${COMPREPLY[@]}; "
            "COMP_WORDS=(metal-candle generate --dtype =); COMP_CWORD=3; _metal_candle; echo ${COMPREPLY[@]}; "
            "COMP_WORDS=(metal-candle help tr); COMP_CWORD=2; _metal_candle; echo ${COMPREPLY[@]}; "
            "COMP_WORDS=(metal-candle generate --model " +
            at("sp") + "); COMP_CWORD=3; _metal_candle; printf \"[%s]\" \"${COMPREPLY[@]}\"'");
  EXPECT_EQ(ran.out, "--schedule\nconstant cosine\nbf16\nauto f32 bf16 f16\ntrain\n[" + at("sp ace*") + "]") << ran.err;
}

}  // namespace
}  // namespace metal_candle::test
