// What `make demo` shows, beside PyTorch with PEFT: SmolLM2 learns to turn a request into a JSON command, from the same
// rows in the same order by the same schedule. The time is that of the training steps, to the same score on the rows
// held out; each run is a process of its own, ours before and after each of the peer's.
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <limits>
#include <metal_candle/bundle.hpp>
#include <metal_candle/generate.hpp>
#include <metal_candle/trainer.hpp>

#include "suite/child.h"
#include "suite/ours.h"

namespace bench {
namespace {

namespace fs = std::filesystem;
constexpr int kSteps = 30;

fs::path data() { return fs::path(METAL_CANDLE_BENCH_DIR).parent_path() / "examples" / "commands"; }

/// How many held-out rows the adapter's model answers exactly.
std::size_t score(const mc::Bundle& bundle, const fs::path& adapter) {
  mc::nn::Weights weights = bundle.model.weights();
  mc::LoRAAdapter::load(adapter, bundle.model).apply(weights);
  mc::Generator generator(bundle.model, {.batch = 16});
  generator.use(weights);
  std::vector<std::vector<std::int32_t>> prompts;
  std::vector<std::string> wanted;
  const std::string path = (data() / "test.jsonl").string();
  std::ifstream lines(path);
  for (std::string line; std::getline(lines, line);) {
    const mc::Json row = mc::Json::parse(line, path);
    prompts.push_back(bundle.tokenizer.encode(row.at("prompt").as_string()));
    wanted.emplace_back(row.at("completion").as_string());
  }
  std::size_t right = 0;
  const auto answers = generator.generate_batch(prompts, mc::GenerateOptions{.max_tokens = 48});
  for (std::size_t i = 0; i < answers.size(); ++i)
    right += bundle.tokenizer.decode(answers[i].tokens, true) == wanted[i];
  return right;
}

struct Learned {
  double seconds = 0, tokens = 0, score = 0;
  explicit Learned(const std::string& answer)
      : seconds(number_in(answer, "seconds").value_or(0)),
        tokens(number_in(answer, "tokens").value_or(0)),
        score(number_in(answer, "score").value_or(0)) {}
};

Learned ours(const Suite& suite) {
  const Learned run(child_answer(suite, "demo:" + suite.options.model));
  if (!(run.seconds > 0)) throw std::runtime_error("the demo's process failed");
  return run;
}

}  // namespace

void demo_child(const std::string& path) {
  const mc::Bundle bundle = mc::Bundle::load(path);
  mc::TrainOptions options{.output = fs::temp_directory_path() / fmt::format("mc_demo_{}", getpid())};
  options.learning_rate = 1e-3;
  options.schedule = mc::ScheduleKind::linear;
  options.warmup = 2;
  options.steps = kSteps;
  options.shuffle = false;
  const std::int32_t end = bundle.model.config().eos.empty() ? 0 : bundle.model.config().eos.front();
  mc::Dataset rows = mc::Dataset::load(data() / "train.jsonl", bundle.tokenizer, nullptr, {.end_token = end});
  const mc::TrainResult result = mc::Trainer(bundle.model, std::move(rows), {}, options).run();
  const std::size_t right = score(bundle, options.output);
  fs::remove_all(options.output);
  fmt::print("{{\"seconds\": {}, \"tokens\": {}, \"score\": {}}}\n", result.seconds, result.tokens, right);
}

void demo(Suite& suite) {
  Row row{"demo", fmt::format("{} LoRA steps of 8 rows", kSteps)};
  if (suite.options.model.empty()) {
    suite.report.add(row.note("no model: METAL_CANDLE_BENCH_MODEL names none (tools/fetch_model.sh fetches one)"));
    return;
  }
  Learned last = ours(suite);
  const double target = last.score;
  std::vector<double> mine{last.seconds};
  double best = std::numeric_limits<double>::infinity();
  suite.peers.stop();
  for (const char* dtype : {"f32", "bf16"}) {
    if (!suite.peers.available()) break;
    const std::string answer =
        suite.peers.fresh({PeerKind::torch_eager, true})->ask(fmt::format("once demo:{}:{}:{}", dtype, kSteps, target));
    if (const auto error = text_in(answer, "error")) row.note(fmt::format("torch failed in {}: {}", dtype, *error));
    const Learned peer(answer);
    const std::string name = fmt::format("torch + peft {}", dtype);
    row.add(name, peer.seconds, "s").add(name + " real tokens", peer.tokens).add(name + " score", peer.score);
    if (peer.seconds > 0 && peer.score >= target) best = std::min(best, peer.seconds);
    last = ours(suite);
    mine.push_back(last.seconds);
  }
  row.add("ours", median(mine), "s").add("ours real tokens", last.tokens).add("ours score", last.score);
  row.add("real tokens a second", last.tokens / median(mine));
  if (std::isfinite(best)) row.at_most("of the peer's better dtype, to the same score", median(mine) / best, 0.5);
  suite.report.add(std::move(row));
}

}  // namespace bench
