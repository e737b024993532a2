// The command train as people and programs use it: its results, signals, limits, and where its settings come from.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/stat.h>

#include <csignal>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <map>

#include "metal_candle/json.hpp"
#include "metal_candle/safetensors.hpp"
#include "tests/cli/command.h"

namespace metal_candle::test {
namespace {

using testing::AllOf;
using testing::HasSubstr;

std::vector<std::string> training(const std::string& output, std::vector<std::string> more) {
  std::vector<std::string> line = {"train",    "--model", model(),   "--data", at("train.jsonl"),
                                   "--output", output,    "--dtype", "f32",    "--batch-size",
                                   "2",        "--rank",  "2",       "--json"};
  line.insert(line.end(), more.begin(), more.end());
  return line;
}

TEST(TrainCommand, TrainsMergesAndRunsTheResult) {
  const std::string out = at("run");
  const Ran ran =
      command(training(out, {"--steps", "4", "--valid", at("train.jsonl"), "--eval-every", "2", "--save-every", "2"}));
  ASSERT_EQ(ran.code, 0) << ran.err;
  std::map<std::string, int> count;
  for (const Json& e : ran.events()) {
    ++count[std::string(e.at("event").as_string())];
    if (e.at("event").as_string() == "step") {
      EXPECT_THAT(keys(e), testing::IsSupersetOf({"event", "step", "loss", "learning_rate", "grad_norm", "tokens",
                                                  "tokens_per_s", "peak_bytes"}));
    }
  }
  EXPECT_EQ(count["step"], 4);
  EXPECT_GE(count["eval"], 2);
  EXPECT_GE(count["checkpoint"], 1);
  EXPECT_EQ(count["result"], 1);
  EXPECT_TRUE(std::filesystem::exists(out + "/adapter_model.safetensors"));
  // A checkpoint has the options that made it, as --config takes them.
  const Ran again = command({"train", "--config", out + "/checkpoints/step-4/config.toml", "--print-config"});
  EXPECT_EQ(again.code, 0) << again.err;
  EXPECT_THAT(again.out, AllOf(HasSubstr("rank = 2\n"), HasSubstr("steps = 4\n"), HasSubstr("resume = false\n")));
  EXPECT_EQ(command({"inspect", out, "--json"}).events().at(0).at("kind").as_string(), "adapter");
  const Ran merged = command({"merge", "--model", model(), "--adapter", out, "--output", at("merged"), "--json"});
  ASSERT_EQ(merged.code, 0) << merged.err;
  EXPECT_EQ(merged.events().at(0).at("dtype").as_string(), "f32");  // the files' own, on every processor
  const Ran half = command({"merge", "--model", model(), "--adapter", out, "--output", at("half"), "--dtype", "bf16"});
  ASSERT_EQ(half.code, 0) << half.err;
  const Ran halves =
      command({"merge", "--model", at("half"), "--adapter", out, "--output", at("half_again"), "--json"});
  ASSERT_EQ(halves.code, 0) << halves.err;
  EXPECT_EQ(halves.events().at(0).at("dtype").as_string(), "bf16");
  const Ran afresh = command(training(out, {"--steps", "4"}));
  EXPECT_EQ(afresh.code, 73) << afresh.err;
  EXPECT_THAT(afresh.err, HasSubstr("resume that one"));
  EXPECT_EQ(command({"inspect", at("merged"), "--json"}).events().at(0).at("kind").as_string(), "model");
  auto line = [&](std::vector<std::string> more) {
    std::vector<std::string> all = {"generate",     "--prompt", "Count 3", "--max-tokens", "4",
                                    "--ignore-eos", "--dtype",  "f32",     "--json"};
    all.insert(all.end(), more.begin(), more.end());
    return command(all).events().at(0).at("tokens");
  };
  EXPECT_EQ(line({"--model", model(), "--adapter", out}), line({"--model", at("merged")}));
}

TEST(TrainCommand, AFinishedRunSaysHowToGoOn) {
  const std::string out = at("finished"), more = at("finished_more");
  ASSERT_EQ(command(training(out, {"--steps", "2"})).code, 0);
  const Ran longer = command(training(out, {"--steps", "4", "--resume"}));
  EXPECT_EQ(longer.code, 65) << longer.err;
  EXPECT_THAT(longer.err,
              AllOf(HasSubstr("options.steps"), HasSubstr("--init-adapter " + out + " and a new --output")));
  EXPECT_EQ(command(training(more, {"--steps", "2", "--init-adapter", out})).code, 0);
}

TEST(TrainCommand, MergedIntoAnotherTypeItIsRoundedOnce) {
  const std::string out = at("rounded"), exact = at("rounded_f32"), bf16 = at("rounded_bf16"),
                    once = at("rounded_once");
  ASSERT_EQ(command(training(out, {"--steps", "4", "--learning-rate", "0.01"})).code, 0);
  ASSERT_EQ(command({"merge", "--model", model(), "--adapter", out, "--output", exact}).code, 0);
  ASSERT_EQ(command({"convert", "--model", exact, "--output", once, "--dtype", "bf16"}).code, 0);
  ASSERT_EQ(command({"merge", "--model", model(), "--adapter", out, "--output", bf16, "--dtype", "bf16"}).code, 0);
  const SafeTensors got = SafeTensors::open(bf16 + "/model.safetensors");
  const SafeTensors want = SafeTensors::open(once + "/model.safetensors");
  ASSERT_EQ(got.tensors().size(), want.tensors().size());
  for (const TensorInfo& t : got.tensors()) {
    EXPECT_EQ(t.dtype, DType::bf16) << t.name;
    EXPECT_EQ(got.load(t.name).to_f64(), want.load(t.name).to_f64()) << t.name;
  }
}

TEST(TrainCommand, StopsOnSignalsAndGoesOn) {
  const std::string out = at("stopped");
  const Ran stopped = signalled(training(out, {"--steps", "4000"}), 2, SIGTERM);
  EXPECT_EQ(stopped.code, 75) << stopped.err;
  EXPECT_THAT(stopped.err, HasSubstr("--resume"));
  const Ran interrupted = signalled(training(out, {"--steps", "4000", "--resume"}), 2, SIGINT);
  EXPECT_EQ(interrupted.code, 130) << interrupted.err;
  EXPECT_THAT(interrupted.err, HasSubstr("going on from step"));
  const Ran hung_up = signalled(training(out, {"--steps", "4000", "--resume"}), 2, SIGHUP);
  EXPECT_EQ(hung_up.code, 75) << hung_up.err;
}

TEST(TrainCommand, SavesWhereNobodyReadsItsEventsAnyMore) {
  if (!std::filesystem::exists("/dev/full")) GTEST_SKIP();
  int number = 0;
  for (const std::string to : {" >/dev/full", " | head -n 1 >/dev/null"}) {
    const std::string out = (playground() / ("unread-" + std::to_string(number++))).string();
    const std::string line = std::string(METAL_CANDLE_COMMAND) + " train --model " + model() + " --data " +
                             at("train.jsonl") + " --output " + out + " --quiet --json --steps 4000";
    const int status = std::system((line + " 2>" + out + ".err" + to).c_str());
    if (to.find('|') == std::string::npos) {
      EXPECT_EQ(WEXITSTATUS(status), 74);
    }
    int saved = 0;
    for (const auto& entry : std::filesystem::directory_iterator(out + "/checkpoints"))
      saved += std::filesystem::exists(entry.path() / "manifest.json");
    EXPECT_GE(saved, 1) << to;
    std::ifstream said(out + ".err");
    EXPECT_THAT(std::string(std::istreambuf_iterator<char>(said), {}), HasSubstr("--resume"));
  }
}

TEST(TrainCommand, StopsOnSignalsBeforeTheFirstStep) {
  for (const int signal : {SIGTERM, SIGINT}) {
    const std::string pipe = at("config.pipe"), out = at("never_began");
    std::filesystem::remove(pipe);
    ASSERT_EQ(mkfifo(pipe.c_str(), 0600), 0);
    // Reading the pipe never ends: the command has no model yet.
    const Ran ran = signalled_early(training(out, {"--config", pipe}), signal);
    EXPECT_EQ(ran.code, signal == SIGINT ? 130 : 75) << ran.err;
    EXPECT_THAT(ran.err, HasSubstr("the same command starts again"));
    EXPECT_FALSE(std::filesystem::exists(out));
    EXPECT_EQ(command({"inspect", pipe}).code, 65) << "a pipe is no file to look at";
  }
}

TEST(TrainCommand, ALimitOnTheSizeOfFilesIsAnErrorOfTheWrite) {
  const std::string out = at("limited"), adapter = at("limited_adapter");
  ASSERT_EQ(command(training(adapter, {"--steps", "1"})).code, 0);
  rlimit before = {};
  getrlimit(RLIMIT_FSIZE, &before);
  const auto limited = [&](const std::vector<std::string>& line) {
    const rlimit small{4096, before.rlim_max};
    setrlimit(RLIMIT_FSIZE, &small);
    const Ran ran = command(line);
    setrlimit(RLIMIT_FSIZE, &before);
    EXPECT_EQ(ran.code, 74) << ran.err;
    EXPECT_THAT(ran.err, HasSubstr("File too large"));
    for (const auto& entry : std::filesystem::recursive_directory_iterator(playground()))
      EXPECT_EQ(entry.path().string().find(".tmp-"), std::string::npos) << entry.path();
  };
  limited(training(out, {"--steps", "3", "--save-every", "1"}));
  limited({"merge", "--model", model(), "--adapter", adapter, "--output", at("limited_merged")});
  EXPECT_FALSE(std::filesystem::exists(at("limited_merged")));
}

TEST(TrainCommand, SaysWhenItDiverges) {
  const Ran ran = command(training(at("diverged"), {"--steps", "30", "--learning-rate", "1e30", "--max-grad-norm", "0",
                                                    "--weight-decay", "0", "--schedule", "constant"}));
  EXPECT_EQ(ran.code, 76) << ran.err << ran.out;
}

TEST(TrainCommand, DryRunLooksAhead) {
  const Ran ran = command(training(at("dry"), {"--steps", "4", "--dry-run"}));
  EXPECT_EQ(ran.code, 0) << ran.err;
  EXPECT_THAT(ran.err, HasSubstr("4 steps"));
}

TEST(TrainCommand, FlagsOverEnvironmentOverFile) {
  const std::string config = at("run.toml");
  std::ofstream(config)
      << "model = \"m\"\noutput = \"o\"\nrank = 3\nlearning-rate = 1e-3\nwarmup = 5\ntarget_modules = [\"q_proj\", "
         "\"v_proj\"]\npacking = true\n";
  const Ran ran = command({"train", "--config", config, "--rank", "7", "--print-config"},
                          {"METAL_CANDLE_RANK=5", "METAL_CANDLE_LEARNING_RATE=0.5"});
  ASSERT_EQ(ran.code, 0) << ran.err;
  EXPECT_THAT(ran.out, AllOf(HasSubstr("rank = 7\n"), HasSubstr("learning-rate = 0.5\n"), HasSubstr("warmup = 5\n"),
                             HasSubstr("target-modules = \"q_proj,v_proj\"\n"), HasSubstr("packing = true\n"),
                             HasSubstr("alpha = 14\n")));
  EXPECT_EQ(ran.err, "");
  const Ran misspelt = command({"train", "--config", config, "--print-config"},
                               {"METAL_CANDLE_LERNING_RATE=0.5", "METAL_CANDLE_XYZZYPLUGH=1"});
  EXPECT_EQ(misspelt.code, 0);
  EXPECT_THAT(misspelt.err, AllOf(HasSubstr("METAL_CANDLE_LERNING_RATE is no variable that train reads; did you mean "
                                            "METAL_CANDLE_LEARNING_RATE?\n"),
                                  HasSubstr("METAL_CANDLE_XYZZYPLUGH is no variable that train reads\n")));
  // What it prints is a file that says the same.
  const std::string again = at("again.toml");
  std::ofstream(again) << ran.out;
  EXPECT_EQ(command({"train", "--config", again, "--print-config"}).out, ran.out);
  // Of two that exclude each other, the one said where it goes first is meant.
  std::ofstream(config) << "model = \"m\"\noutput = \"o\"\nepochs = 2\n";
  EXPECT_THAT(command({"train", "--config", config, "--steps", "3", "--print-config"}).out, HasSubstr("steps = 3\n"));
  EXPECT_THAT(command({"train", "--config", config, "--print-config"}, {"METAL_CANDLE_STEPS=3"}).out,
              HasSubstr("steps = 3\n"));
  EXPECT_EQ(command({"train", "--config", config, "--steps", "3", "--epochs", "1", "--print-config"}).code, 2);
  std::ofstream(config) << "model = \"m\"\noutput = \"o\"\nepochs = 2\nsteps = 3\n";
  EXPECT_EQ(command({"train", "--config", config, "--print-config"}).code, 2);
  std::ofstream(config) << "rnak = 3\n";
  const Ran wrong = command({"train", "--config", config});
  EXPECT_EQ(wrong.code, 65);
  EXPECT_THAT(wrong.err, AllOf(HasSubstr("run.toml: rnak"), HasSubstr("did you mean rank?")));
  std::ofstream(config) << "rank = \n";
  EXPECT_EQ(command({"train", "--config", config}).code, 65);
}

}  // namespace
}  // namespace metal_candle::test
