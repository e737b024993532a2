// Training as a user has it: a Trainer on a model of a named shape with random weights. First step, tokens a second,
// peak memory of this process; with --trace, where the time of a step goes.
//
//   bench_training [f32|bf16] [--trace] [--steps N] [--checkpointing]
#include <fmt/format.h>
#include <metal_candle/metal_candle.hpp>

#include <algorithm>
#include <chrono>
#include <filesystem>
#include <string>
#include <vector>

#include "suite/language.h"

namespace mc = metal_candle;

namespace {

mc::Dataset rows(int count, int length) {
  std::vector<mc::Sample> all;
  for (int i = 0; i < count; ++i) {
    mc::Sample s;
    for (int k = 0; k < length; ++k)
      s.tokens.push_back(static_cast<std::int32_t>(
          mc::Key(7).fold(static_cast<std::uint64_t>(i)).fold(static_cast<std::uint64_t>(k)).value % 49152));
    s.supervised.assign(static_cast<std::size_t>(length), true);
    s.supervised[0] = false;
    all.push_back(s);
  }
  return mc::Dataset(all);
}

}  // namespace

int main(int argc, char** argv) {
  const std::vector<std::string> args(argv + 1, argv + argc);
  const auto has = [&](const char* flag) { return std::find(args.begin(), args.end(), flag) != args.end(); };
  mc::TrainOptions options{
      .output =
          std::filesystem::temp_directory_path() /
          fmt::format("bench_training_{}",
                      mc::Key(static_cast<std::uint64_t>(std::chrono::steady_clock::now().time_since_epoch().count()))
                          .fold(1)
                          .value)};
  options.batch_size = 2;
  options.steps = 6;
  options.checkpointing = has("--checkpointing");
  if (const auto at = std::find(args.begin(), args.end(), "--steps"); at != args.end() && at + 1 != args.end())
    options.steps = std::stoll(*(at + 1));

  const mc::DType dtype = has("bf16") ? mc::DType::bf16 : mc::DType::f32;
  mc::Model model = mc::Model::random(bench::smol().config, mc::Key(1), dtype);
  mc::Trainer trainer(std::move(model), rows(8, 512), {}, options);
  std::vector<double> seconds;
  std::size_t peak = 0;
  std::unique_ptr<mc::Trace> trace;
  trainer.run({.step = [&](const mc::StepEvent& e) {
    seconds.push_back(e.seconds);
    peak = e.peak_bytes;
    fmt::print("step {}: {:.3f} s, loss {:.4f}\n", e.step, e.seconds, e.loss);
    if (has("--trace") && e.step == *options.steps - 1) trace = std::make_unique<mc::Trace>();
  }});
  if (trace) fmt::print("{}\n", trace->profile());
  trace.reset();
  std::vector<double> later(seconds.begin() + 1, seconds.end());
  std::sort(later.begin(), later.end());
  const double median = later[later.size() / 2];
  fmt::print(
      "LoRA step, SmolLM2-135M shape, 2 x 512, rank 16, {}, {} threads: first {:.2f} s, then {:.3f} s, {:.0f} "
      "tokens/s, peak {:.2f} GB\n",
      has("bf16") ? "bf16" : "f32", mc::threads(), seconds[0], median, 1024 / median, static_cast<double>(peak) / 1e9);
  std::filesystem::remove_all(options.output);
}
