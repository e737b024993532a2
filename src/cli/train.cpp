// metal-candle train
#include <fmt/format.h>
#include <unistd.h>

#include <atomic>
#include <csignal>
#include <fstream>

#include "cli/commands.h"
#include "cli/loading.h"
#include "cli/report.h"
#include "cli/train_options.h"
#include "metal_candle/dataset.hpp"
#include "metal_candle/error.hpp"
#include "metal_candle/trainer.hpp"

namespace metal_candle::cli {

namespace {

std::atomic<Trainer*> running{nullptr};
std::atomic<int> got_signal{0};

extern "C" void stop_training(int signal) {
  // A second ^C does not wait for the step.
  if (got_signal.exchange(signal) == SIGINT && signal == SIGINT) _exit(kInterrupted);
  if (Trainer* trainer = running.load()) trainer->request_stop();
}

/// While it lives, SIGINT and SIGTERM end the step under way and save.
class Signals {
 public:
  explicit Signals(Trainer& trainer) {
    running = &trainer;
    struct sigaction action = {};
    action.sa_handler = stop_training;
    action.sa_flags = SA_RESTART;
    sigaction(SIGINT, &action, &interrupt_);
    sigaction(SIGTERM, &action, &terminate_);
  }
  ~Signals() {
    sigaction(SIGINT, &interrupt_, nullptr);
    sigaction(SIGTERM, &terminate_, nullptr);
    running = nullptr;
  }
  Signals(const Signals&) = delete;
  Signals& operator=(const Signals&) = delete;

 private:
  struct sigaction interrupt_ = {}, terminate_ = {};
};

struct Examples {
  Dataset train, valid;
};

void report_counts(const Invocation& run, const std::filesystem::path& file, const Dataset& data) {
  const Dataset::Counts& c = data.counts();
  if (c.cut > 0) warn(run, fmt::format("{}: {} of {} rows are cut to --max-length", file.string(), c.cut, c.rows));
  if (c.left_out > 0)
    warn(run,
         fmt::format("{}: {} of {} rows have nothing to learn and are left out", file.string(), c.left_out, c.rows));
}

Examples load_examples(const Invocation& run, const Bundle& bundle, const TrainOptions& options) {
  ChatRenderer chat;
  if (bundle.chat) chat = chat_renderer(*bundle.chat);
  else if (bundle.chat_fault)
    chat = [&](const Json&, const Json&, bool) -> std::string { throw TemplateError(*bundle.chat_fault); };
  const DatasetOptions how{
      .max_length = options.max_length, .train_on = options.train_on, .end_token = end_token(run, bundle)};
  auto load = [&](const std::filesystem::path& file) {
    Dataset data = Dataset::load(file, bundle.tokenizer, chat, how);
    report_counts(run, file, data);
    return data;
  };
  const DatasetFiles files = DatasetFiles::find(run.text("--data"));
  Examples out{load(files.train), {}};
  if (run.has("--valid")) out.valid = load(run.text("--valid"));
  else if (files.valid) out.valid = load(*files.valid);
  return out;
}

std::uint64_t available_memory() {
  std::ifstream file("/proc/meminfo");
  for (std::string line; std::getline(file, line);)
    if (line.starts_with("MemAvailable:")) return std::strtoull(line.c_str() + 13, nullptr, 10) * 1024;
  return ~std::uint64_t{0};
}

int dry_run(const Invocation& run, Trainer& trainer) {
  const Trainer::Outlook o = trainer.outlook();
  const std::uint64_t needed = o.base_bytes + o.trainable_bytes + o.step_bytes,
                      free = available_memory() + o.base_bytes;
  if (run.json()) {
    Json event = Json::object({{"event", "outlook"}});
    const Json facts = o.to_json();
    for (const JsonMember& member : facts.items())
      if (member.key != "event") event.set(member.key, member.value);
    write_event(event);
  }
  say(run,
      fmt::format(
          "{} rows, {} steps, {} numbers to train; about {} of memory ({} model, {} adapter and moments, {} a step)",
          o.rows, o.steps, o.trainable, size_text(needed), size_text(o.base_bytes), size_text(o.trainable_bytes),
          size_text(o.step_bytes)));
  if (needed > free)
    throw ExitError(kNoMemory,
                    fmt::format("training needs about {}, and {} are free", size_text(needed), size_text(free)));
  return kDone;
}

TrainCallbacks callbacks(const Invocation& run, Progress& progress) {
  return {
      .step =
          [&](const StepEvent& e) {
            if (run.json()) write_event(e.to_json());
            progress.show(
                e.step, fmt::format("loss {:.4f}  lr {:.2g}  {:.0f} tok/s", e.loss, e.learning_rate, e.tokens_per_s()));
          },
      .eval =
          [&](const EvalEvent& e) {
            if (run.json()) write_event(e.to_json());
            progress.clear();
            say(run,
                fmt::format("step {}: evaluation loss {:.4f}{}", e.step, e.loss, e.best ? ", the best so far" : ""));
          },
      .checkpoint =
          [&](const CheckpointEvent& e) {
            if (run.json()) write_event(e.to_json());
            progress.clear();
            say(run, fmt::format("step {}: saved {}", e.step, e.path.string()));
          },
      .message =
          [&](const std::string& text) {
            progress.clear();
            warn(run, text);
          },
  };
}

int finished(const Invocation& run, const TrainResult& result) {
  if (run.json()) write_event(result.to_json());
  const std::string out = result.output.string();
  switch (result.status) {
    case TrainResult::Status::done:
    case TrainResult::Status::early:
      say(run, fmt::format("{} after {} steps in {}, loss {:.4f}; adapter{}, loss.svg and TensorBoard events in {}",
                           result.status == TrainResult::Status::early ? "no longer better" : "done", result.steps,
                           time_text(result.seconds), result.loss,
                           result.adapter_step == result.steps
                               ? ""
                               : fmt::format(" of step {}, the best evaluated", result.adapter_step),
                           out));
      return kDone;
    case TrainResult::Status::stopped:
      say(run, fmt::format("stopped after step {} and saved; the same command with --resume goes on", result.steps));
      return got_signal == SIGINT ? kInterrupted : kStopped;
    case TrainResult::Status::diverged:
      throw ExitError(kDiverged,
                      fmt::format("the loss or its gradient was not finite in {} steps; the last good state is in {}",
                                  result.skipped, out));
  }
  return kDone;
}

}  // namespace

int train(const Invocation& given) {
  Invocation run = given;
  add_settings(run);
  run.prepare();
  TrainOptions options = train_options(run);
  if (run.has("--print-config")) return write_text(as_toml(run, options)), kDone;
  run.text("--data");
  options.check();
  TrainOptions anew = options;
  anew.resume = false;
  options.config_text = as_toml(run, anew);
  const Bundle bundle = load_bundle(run);
  Examples examples = load_examples(run, bundle, options);
  Trainer trainer(bundle.model, std::move(examples.train), std::move(examples.valid), options);
  if (run.has("--dry-run")) return dry_run(run, trainer);
  if (trainer.step() > 0) say(run, fmt::format("going on from step {} of {}", trainer.step(), trainer.total_steps()));
  const Signals signals(trainer);
  TrainResult result;
  {
    Progress progress(run, "step", trainer.total_steps());
    result = trainer.run(callbacks(run, progress));
  }
  return finished(run, result);
}

}  // namespace metal_candle::cli
