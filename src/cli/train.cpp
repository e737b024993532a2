// metal-candle train
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <csignal>
#include <fstream>
#include <iostream>
#include <iterator>

#include "cli/commands.h"
#include "cli/loading.h"
#include "cli/report.h"
#include "cli/signals.h"
#include "cli/train_options.h"
#include "metal_candle/dataset.hpp"
#include "metal_candle/error.hpp"
#include "metal_candle/runtime.hpp"
#include "metal_candle/trainer.hpp"

namespace metal_candle::cli {

namespace {

std::atomic<Trainer*> running{nullptr};
std::atomic<bool> over{false};
std::atomic<int> got_signal{0};

// Nothing is written before the trainer runs, so there is nothing to put in order.
[[noreturn]] void end_before_training(int signal) {
  constexpr std::string_view kText =
      "metal-candle: stopped before the first step, and nothing was written; the same command starts again\n";
  [[maybe_unused]] const ssize_t written = write(STDERR_FILENO, kText.data(), kText.size());
  _exit(signal == SIGINT ? kInterrupted : kStopped);
}

/// Ends the command: at once, or, while a trainer runs, after the step under way.
extern "C" void stop_training(int signal) {
  if (over) return;
  Trainer* trainer = running.load();
  if (!trainer) end_before_training(signal);
  // A second ^C does not wait for the step.
  if (got_signal.exchange(signal) == SIGINT && signal == SIGINT) _exit(kInterrupted);
  trainer->request_stop();
}

/// While it lives, signals are the trainer's; afterwards they come too late to change anything.
class UnderWay {
 public:
  explicit UnderWay(Trainer& trainer) { running = &trainer; }
  ~UnderWay() {
    over = true;
    running = nullptr;
  }
  UnderWay(const UnderWay&) = delete;
  UnderWay& operator=(const UnderWay&) = delete;
};

struct Examples {
  Dataset train, valid;
};

void report_counts(const Invocation& run, const std::string& file, const Dataset& data, std::int64_t most,
                   bool by_context) {
  const Dataset::Counts& c = data.counts();
  if (c.cut > 0)
    warn(run, fmt::format("{}: {} of {} rows are cut to {} tokens, {}", file, c.cut, c.rows, most,
                          by_context ? "the model's context" : "--max-length"));
  if (c.left_out > 0)
    warn(run, fmt::format("{}: {} of {} rows have nothing to learn and are left out: line{} {}{}", file, c.left_out,
                          c.rows, c.left_out == 1 ? "" : "s", fmt::join(c.first_left_out, ", "),
                          c.left_out > std::ssize(c.first_left_out) ? ", ..." : ""));
}

/// What comes from standard input ("-") or a pipe, which can be read but once; nothing for a file.
std::optional<std::string> streamed(const std::filesystem::path& file) {
  namespace fs = std::filesystem;
  std::error_code error;
  if (file != "-" && fs::status(file, error).type() != fs::file_type::fifo) return std::nullopt;
  std::ifstream pipe;
  if (file != "-") pipe.open(file, std::ios::binary);
  return std::string{std::istreambuf_iterator<char>(file == "-" ? std::cin : pipe), {}};
}

Examples load_examples(const Invocation& run, const Bundle& bundle, const TrainOptions& options) {
  ChatRenderer chat;
  if (bundle.chat) chat = chat_renderer(*bundle.chat);
  else if (bundle.chat_fault)
    chat = [&](const Json&, const Json&, bool) -> std::string { throw TemplateError(*bundle.chat_fault); };
  const std::int64_t context = bundle.model.config().context(), most = std::min(options.max_length, context);
  const DatasetOptions how{.max_length = most, .train_on = options.train_on, .end_token = end_token(run, bundle)};
  auto load = [&](const std::filesystem::path& file) {
    const std::optional<std::string> text = streamed(file);
    const std::string name = file == "-" ? "standard input" : file.string();
    Dataset data = text ? Dataset::parse(*text, name, bundle.tokenizer, chat, how)
                        : Dataset::load(file, bundle.tokenizer, chat, how);
    for (const Sample& row : data) check_ids(run, bundle, row.tokens, fmt::format("{}:{}", name, row.line));
    report_counts(run, name, data, most, context < options.max_length);
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
  const std::uint64_t needed = o.peak_bytes, free = available_memory() + resident_memory().now;
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

/// Events as JSON lines. Where they cannot be written any more, training stops as by a signal, so that nothing is lost.
class Events {
 public:
  Events(const Invocation& run, Trainer& trainer) : run_(run), trainer_(trainer) {}
  bool lost() const { return lost_; }
  void write(const Json& event) {
    if (!run_.json() || lost_) return;
    try {
      write_event(event);
    } catch (const ExitError&) {
      lost_ = true;
      trainer_.request_stop();
    }
  }

 private:
  const Invocation& run_;
  Trainer& trainer_;
  bool lost_ = false;
};

TrainCallbacks callbacks(const Invocation& run, Progress& progress, Events& events) {
  return {
      .step =
          [&](const StepEvent& e) {
            events.write(e.to_json());
            progress.show(
                e.step, fmt::format("loss {:.4f}  lr {:.2g}  {:.0f} tok/s", e.loss, e.learning_rate, e.tokens_per_s()));
          },
      .eval =
          [&](const EvalEvent& e) {
            events.write(e.to_json());
            progress.clear();
            say(run,
                fmt::format("step {}: evaluation loss {:.4f}{}", e.step, e.loss, e.best ? ", the best so far" : ""));
          },
      .checkpoint =
          [&](const CheckpointEvent& e) {
            events.write(e.to_json());
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

/// A run is resumed as it began; who wants to go on otherwise is told how.
Trainer make_trainer(const Invocation& run, const Model& model, Examples examples, const TrainOptions& options) {
  try {
    return Trainer(model, std::move(examples.train), std::move(examples.valid), options);
  } catch (const FileError& e) {
    if (!e.field().starts_with("identity.") || e.field() == "identity.weights") throw;
    throw FileError(e.fault(), e.file(), e.field(), e.expected(),
                    fmt::format("{}; to train its adapter further, give --init-adapter {} and a new --output", e.got(),
                                run.text("--output")));
  }
}

}  // namespace

int train(const Invocation& given) {
  const SignalHandlers signals(stop_training, SA_RESTART);
  std::signal(SIGPIPE, SIG_IGN);  // a reader that went away is an error of the write
  Invocation run = given;
  add_settings(run);
  run.prepare();
  TrainOptions options = train_options(run);
  if (run.has("--print-config")) {
    if (run.json()) write_event(as_event(run, options));
    else write_text(as_toml(run, options));
    return kDone;
  }
  const DatasetFiles files = DatasetFiles::find(run.text("--data"));
  for (const auto& [option, every] :
       {std::pair("--early-stop", options.early_stop), {"--eval-every", options.eval_every}})
    if (every > 0 && !run.has("--valid") && !files.valid)
      throw UsageError(
          fmt::format("{} needs examples to evaluate on: --valid FILE, or a --data folder with valid.jsonl", option));
  if (options.early_stop > 0 && options.eval_every == 0)
    throw UsageError("--early-stop needs --eval-every: without it there is one evaluation, at the end");
  options.check();
  TrainOptions anew = options;
  anew.resume = false;
  options.config_text = as_toml(run, anew);
  const Bundle bundle = load_bundle(run);
  check_init_adapter(run, options, bundle.model);
  Trainer trainer = make_trainer(run, bundle.model, load_examples(run, bundle, options), options);
  if (run.has("--dry-run")) return dry_run(run, trainer);
  if (trainer.step() > 0) say(run, fmt::format("going on from step {} of {}", trainer.step(), trainer.total_steps()));
  TrainResult result;
  Events events(run, trainer);
  {
    const UnderWay under_way(trainer);
    Progress progress(run, "step", trainer.total_steps());
    result = trainer.run(callbacks(run, progress, events));
  }
  if (events.lost())
    throw ExitError(kTransfer,
                    fmt::format("standard output cannot be written; stopped after step {} and saved; the same "
                                "command with --resume goes on",
                                result.steps));
  return finished(run, result);
}

}  // namespace metal_candle::cli
