// Training as a user has it, a Trainer in a process of its own: its first step, its pace and its memory. The section
// `training` adds the row; the same step bare is training.cpp.
#include <fmt/format.h>
#include <unistd.h>

#include <filesystem>
#include <metal_candle/trainer.hpp>

#include "suite/child.h"
#include "suite/language.h"
#include "suite/machine.h"
#include "suite/ours.h"

namespace bench {
namespace {

mc::Dataset random_rows(int count, int length) {
  std::vector<mc::Sample> all;
  for (int i = 0; i < count; ++i) {
    mc::Sample s;
    for (int k = 0; k < length; ++k)
      s.tokens.push_back(static_cast<std::int32_t>(mc::Key(7).fold(static_cast<std::uint64_t>(i * length + k)).value %
                                                   static_cast<std::uint64_t>(smol().config.vocabulary)));
    s.supervised.assign(static_cast<std::size_t>(length), true);
    s.supervised[0] = false;
    all.push_back(s);
  }
  return mc::Dataset(all);
}

}  // namespace

/// "f32", "bf16"; "f32,trace" writes where the last step's time goes on standard error.
void training_child(const std::string& argument) {
  const std::string dtype = argument.substr(0, argument.find(','));
  mc::TrainOptions options{.output = std::filesystem::temp_directory_path() / fmt::format("mc_training_{}", getpid())};
  options.batch_size = 2;
  options.steps = 5;
  std::vector<double> seconds;
  std::unique_ptr<mc::Trace> trace;
  {
    mc::Trainer trainer(mc::Model::random(smol().config, mc::Key(1), dtype == "f32" ? mc::DType::f32 : mc::DType::bf16),
                        random_rows(8, 512), {}, options);
    const auto step = [&](const mc::StepEvent& e) {
      seconds.push_back(e.seconds);
      if (argument != dtype && e.step == *options.steps - 1) trace = std::make_unique<mc::Trace>();
    };
    trainer.run({.step = step, .eval = {}, .checkpoint = {}, .message = {}});
  }
  if (trace) fmt::print(stderr, "{}\n", trace->profile());
  std::filesystem::remove_all(options.output);
  const double first = seconds.at(0);
  seconds.erase(seconds.begin());
  fmt::print("{{\"first\": {}, \"step\": {}, \"peak\": {}}}\n", first, median(seconds), memory_status("VmHWM"));
}

void trainer(Suite& suite) {
  for (const auto& [dtype, most] : {std::pair{"f32", 2.3}, {"bf16", 1.4}}) {
    const std::string answer = child_answer(suite, fmt::format("training:{}", dtype));
    const auto peak = number_in(answer, "peak");
    if (!peak) throw std::runtime_error("the training process failed");
    Row row{"training", fmt::format("Trainer in a process of its own, {}", dtype)};
    row.add("ours", number_in(answer, "step").value_or(0), "s");
    row.add("first step", number_in(answer, "first").value_or(0), "s");
    row.at_most("process, GB", *peak * 1e-9, most);
    if (suite.options.full && suite.peers.available()) {
      const std::string torch =
          suite.peers.fresh({PeerKind::torch_eager})->ask(fmt::format("memory lm_step:smol:2:512:{}", dtype));
      if (const auto theirs = number_in(torch, "peak")) row.add("torch process", *theirs * 1e-9, "GB");
    }
    suite.report.add(std::move(row));
  }
}

}  // namespace bench
