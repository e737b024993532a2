#include "training/run.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/file.h>
#include <unistd.h>

#include <algorithm>
#include <bit>
#include <cerrno>
#include <chrono>
#include <cmath>
#include <limits>
#include <set>

#include "metal_candle/error.hpp"
#include "metal_candle/few_sizes.hpp"

namespace metal_candle::training {
namespace {

using Clock = std::chrono::steady_clock;
using Status = TrainResult::Status;

double since(Clock::time_point begin) { return std::chrono::duration<double>(Clock::now() - begin).count(); }

LoRAAdapter first_adapter(const Model& model, const TrainOptions& options) {
  if (options.init_adapter) {
    const LoRAAdapter first = LoRAAdapter::load(*options.init_adapter, model);
    return options.init_dropout ? first.with_dropout(*options.init_dropout) : first;
  }
  return LoRAAdapter::create(model, options.lora, Key(options.seed));
}

std::size_t bytes_of(const ParamTree& tree) {
  std::size_t bytes = 0;
  for (const auto& [path, t] : tree) bytes += static_cast<std::size_t>(t.numel()) * size_of(t.dtype());
  return bytes;
}

/// Holds a folder: two runs that write to one would take each other's checkpoints away. Where folders cannot be locked
/// (some network disks) it holds nothing.
class FolderLock {
 public:
  explicit FolderLock(const std::filesystem::path& folder) : fd_(::open(folder.c_str(), O_RDONLY | O_CLOEXEC)) {
    if (fd_ < 0 || ::flock(fd_, LOCK_EX | LOCK_NB) == 0 || errno != EWOULDBLOCK) return;
    ::close(fd_);
    throw FileError(FileFault::create, folder.string(), "", "an output that no other training writes to",
                    "one that is in use");
  }
  ~FolderLock() {
    if (fd_ >= 0) ::close(fd_);
  }
  FolderLock(const FolderLock&) = delete;
  FolderLock& operator=(const FolderLock&) = delete;

 private:
  int fd_;
};

void make_folder(const std::filesystem::path& folder) {
  std::error_code error;
  std::filesystem::create_directories(folder, error);
  if (error) throw FileError(FileFault::create, folder.string(), "", "cannot be created: " + error.message());
}

// The keys of dropout are not those that the adapter began with.
constexpr std::uint64_t kDropoutKeys = 0x64726f70;

}  // namespace

Run::Run(Model model, Dataset train, Dataset valid, TrainOptions options)
    : model_(std::move(model)),
      train_(std::move(train)),
      valid_(std::move(valid)),
      options_(std::move(options)),
      order_(train_.size(), options_.shuffle, options_.seed),
      adapter_(first_adapter(model_, options_)),
      checkpoints_(options_.output / "checkpoints", identity()),
      stepper_(model_, adapter_, options_),
      total_(count_steps()),
      schedule_{options_.schedule, options_.learning_rate, options_.warmup, total_} {
  if (options_.early_stop > 0 && valid_.size() == 0)
    throw UserError(ErrorKind::argument, "training: early_stop needs validation rows, and there are none");
  if (!options_.resume) {
    if (checkpoints_.any())
      throw FileError(FileFault::create, (options_.output / "checkpoints").string(), "",
                      "an output without an earlier run; or resume that one", "its checkpoints");
    return;
  }
  auto found = checkpoints_.load_newest(model_, [&](const std::string& m) { early_messages_.push_back(m); });
  if (!found) return;
  progress_ = std::move(found->progress);
  stepper_.restore(found->adapter.trainable(), std::move(found->moments));
  best_ = std::move(found->best);
  saved_step_ = evaluated_step_ = progress_.step;
}

// Where the base and the first adapter lie is no part of it: their weights and settings are. Only a first adapter in
// the output itself is known by its settings alone, since a run that was stopped has written over it.
Json Run::identity() const {
  TrainOptions known = options_;
  known.lora.base_model.clear();
  Json options = known.to_json();
  if (options_.init_adapter) {
    LoRAConfig config = adapter_.config();
    config.base_model.clear();
    Json first = config.to_json();
    std::error_code error;
    if (!std::filesystem::equivalent(*options_.init_adapter, options_.output, error))
      first.set("weights", hex(fingerprint(adapter_.trainable())));
    options.set("init_adapter", std::move(first));
  }
  return Json::object({{"format", 2},
                       {"options", std::move(options)},
                       {"rows", hex(train_.fingerprint())},
                       {"validation_rows", hex(valid_.fingerprint())},
                       {"weights", hex(fingerprint(model_.parameters()))}});
}

std::int64_t Run::count_steps() const {
  if (options_.steps) return *options_.steps;
  const double all = static_cast<double>(train_.size()), each = static_cast<double>(rows_of_step());
  // Decimals are no binary numbers: 1.1 epochs of 100 rows are 110 rows, and a little.
  constexpr double kRounding = 4 * std::numeric_limits<double>::epsilon();
  const double steps = std::ceil(options_.epochs * all / each * (1 - kRounding));
  return static_cast<std::int64_t>(std::clamp(steps, 1.0, 1e12));
}

// ---- rows -----------------------------------------------------------------------------------------------------------

/// The rows of the next step; moves the position.
std::vector<const Sample*> Run::next_rows(std::int64_t& position) {
  std::vector<const Sample*> rows;
  for (const std::int64_t end = position + rows_of_step(); position < end; ++position)
    rows.push_back(&train_[order_[position]]);
  return rows;
}

/// Whether a micro-batch of so many rows takes one more, with which it would have so many tokens: up to batch_size rows,
/// or, packed, as many as fit into the tokens that so many of the longest rows have.
bool Run::takes_one_more(std::int64_t rows, std::int64_t tokens) const {
  if (options_.packing) return rows == 0 || tokens <= options_.batch_size * options_.max_length;
  return rows < options_.batch_size;
}

/// A step's rows as its micro-batches. Which rows share one changes no loss.
std::vector<PackedRows> Run::micro_batches(const std::vector<const Sample*>& rows) const {
  std::vector<PackedRows> batches;
  for (std::size_t from = 0, to = 0; from < rows.size(); from = to) {
    for (std::int64_t tokens = 0; to < rows.size(); ++to) {
      tokens += std::ssize(rows[to]->tokens);
      if (!takes_one_more(static_cast<std::int64_t>(to - from), tokens)) break;
    }
    batches.push_back(micro_batch(std::span(rows).subspan(from, to - from)));
  }
  return batches;
}

// Numbers of rows are part of a plan: the powers of two keep plans few.
PackedRows Run::micro_batch(std::span<const Sample* const> rows) const {
  const std::int64_t count = std::ssize(rows);
  const bool usual = count <= options_.batch_size;
  return pack(
      rows, usual ? options_.batch_size : static_cast<std::int64_t>(std::bit_ceil(static_cast<std::uint64_t>(count))));
}

// ---- the loop -------------------------------------------------------------------------------------------------------

void Run::tell(const std::string& message) const {
  if (callbacks_->message) callbacks_->message(message);
}

TrainResult Run::run(const TrainCallbacks& callbacks, const std::atomic<bool>& stop) {
  callbacks_ = &callbacks;
  make_folder(options_.output);
  const FolderLock lock(options_.output);
  begin_output();
  for (const std::string& m : early_messages_) tell(m);
  early_messages_.clear();
  result_ = {};
  result_.output = options_.output;
  result_.status = loop(stop);
  result_.steps = progress_.step;
  result_.loss = progress_.loss;
  result_.eval_loss = progress_.last_eval;
  result_.skipped = progress_.skipped;
  result_.adapter_step = best_ ? progress_.best_step : progress_.step;
  finish();
  callbacks_ = nullptr;
  return result_;
}

Status Run::loop(const std::atomic<bool>& stop) {
  const auto due = [](std::int64_t step, std::int64_t every) { return step > 0 && every > 0 && step % every == 0; };
  const auto no_better = [&] {
    return options_.early_stop > 0 && progress_.evaluations_since_best >= options_.early_stop;
  };
  const FewSizes few;  // rows lie end to end, filled up to one of eight lengths an octave
  const auto diverged = [&] { return progress_.bad_in_row >= options_.max_bad_steps; };
  // What is due after a step comes first: a callback may have thrown before it, in an earlier run.
  for (;; train_on_step()) {
    const std::int64_t step = progress_.step;
    if (valid_.size() > 0 && (due(step, options_.eval_every) || step == total_)) evaluate();
    if (due(step, options_.save_every) && !diverged()) save();
    if (step >= total_ || no_better() || diverged()) break;
    if (stop.load(std::memory_order_relaxed)) return Status::stopped;
  }
  if (diverged()) return Status::diverged;
  return progress_.step < total_ ? Status::early : Status::done;
}

void Run::train_on_step() {
  const auto begin = Clock::now();
  StepEvent e{.step = progress_.step + 1, .learning_rate = schedule_.at(progress_.step)};
  std::int64_t position = progress_.position;
  const std::vector<const Sample*> rows = next_rows(position);
  const std::vector<PackedRows> batches = micro_batches(rows);
  for (const PackedRows& batch : batches) e.tokens += batch.tokens;
  const Key key = Key(options_.seed).fold(kDropoutKeys).fold(static_cast<std::uint64_t>(e.step));
  const StepOutcome out = stepper_.step(batches, e.learning_rate, key);
  e.loss = progress_.loss = out.loss;
  e.grad_norm = out.norm;
  e.skipped = !out.applied;
  progress_.step = e.step;
  progress_.position = position;
  progress_.updates = stepper_.moments().updates;
  progress_.bad_in_row = e.skipped ? progress_.bad_in_row + 1 : 0;
  progress_.skipped += e.skipped;
  e.seconds = since(begin);
  e.peak_bytes = resident_memory().peak;
  result_.tokens += e.tokens;
  result_.seconds += e.seconds;
  log_->add(e);
  if (e.skipped) tell_of_bad_step(rows, out.loss, out.norm);
  if (callbacks_->step) callbacks_->step(e);
}

void Run::tell_of_bad_step(const std::vector<const Sample*>& rows, double loss, double norm) const {
  std::string lines;
  for (std::size_t i = 0; i < rows.size() && i < 32; ++i)
    lines += fmt::format("{}{}", i == 0 ? "" : ", ", rows[i]->line);
  tell(fmt::format("step {}: loss {}, gradient norm {}; skipped ({} in a row). Lines {}{}", progress_.step, loss, norm,
                   progress_.bad_in_row, lines, rows.size() > 32 ? ", ..." : ""));
}

void Run::evaluate() {
  if (evaluated_step_ == progress_.step) return;
  const auto begin = Clock::now();
  double sum = 0;
  EvalEvent e{.step = progress_.step};
  std::vector<const Sample*> rows;
  for (const Sample& row : valid_) {
    rows.push_back(&row);
    if (std::ssize(rows) < options_.batch_size && &row != &valid_[valid_.size() - 1]) continue;
    const PackedRows batch = pack(rows, options_.batch_size);
    sum += stepper_.evaluate(batch);
    e.tokens += batch.supervised;
    rows.clear();
  }
  e.loss = sum / static_cast<double>(e.tokens);
  e.best = std::isfinite(e.loss) && (!progress_.best || e.loss < *progress_.best);
  if (e.best) progress_.best = e.loss, note_best();
  progress_.evaluations_since_best = e.best ? 0 : progress_.evaluations_since_best + 1;
  progress_.last_eval = e.loss;
  evaluated_step_ = progress_.step;
  e.seconds = since(begin);
  log_->add(e);
  if (callbacks_->eval) callbacks_->eval(e);
}

void Run::note_best() {
  progress_.best_step = progress_.step;
  if (options_.early_stop == 0) return;
  std::vector<LazyTensor> copies;  // the next step writes over what it is given
  for (const auto& [path, t] : stepper_.parameters()) copies.push_back(Tensor(t).copy());
  best_ = stepper_.parameters().with(std::move(copies));
}

// ---- the output folder ----------------------------------------------------------------------------------------------

void Run::begin_output() {
  checkpoints_.clean();
  if (log_) progress_.log = log_->lines();  // of a run that a callback ended
  log_ = std::make_unique<RunLog>(options_.output, progress_.log, progress_.step);
}

void Run::save() {
  if (saved_step_ == progress_.step) return;
  const auto begin = Clock::now();
  progress_.log = log_->lines();
  CheckpointEvent e{.step = progress_.step};
  e.path = checkpoints_.save(progress_, trained(), stepper_.moments(), best_, options_.config_text,
                             options_.keep_checkpoints);
  saved_step_ = progress_.step;
  e.seconds = since(begin);
  if (callbacks_->checkpoint) callbacks_->checkpoint(e);
}

/// A run that diverged keeps its last checkpoint as the newest: what came after is of no use.
void Run::finish() {
  if (result_.status != Status::diverged) save();
  (best_ ? adapter_.with(*best_) : trained()).save(options_.output);
  log_->draw();
  log_.reset();
}

// ---- what is to come ------------------------------------------------------------------------------------------------

/// The longest and the shortest micro-batch to come, how many lengths there are, and whether a step has several: looks
/// at whole ones, as many as have so many rows.
Run::Ahead Run::look_ahead() {
  constexpr std::int64_t kRows = 1 << 20;
  const std::int64_t begin = progress_.position, each = rows_of_step();
  const std::int64_t steps = std::min(total_ - progress_.step, kRows / each + 1), end = begin + steps * each;
  struct Cut {
    std::int64_t begin = 0, rows = 0, tokens = 0;
  };
  Cut longest, shortest, cut;
  std::set<std::int64_t> lengths;
  Ahead out;
  const auto end_cut = [&] {
    if (cut.tokens > longest.tokens) longest = cut;
    if (shortest.tokens == 0 || cut.tokens < shortest.tokens) shortest = cut;
    lengths.insert(bucket_of(cut.tokens));
  };
  for (std::int64_t at = begin; at < end; ++at) {
    const std::int64_t tokens = std::ssize(train_[order_[at]].tokens);
    const bool new_step = (at - begin) % each == 0;
    if (new_step || !takes_one_more(cut.rows, cut.tokens + tokens)) {
      if (at > begin) end_cut();
      out.several |= !new_step;
      cut = {at};
      if (at - begin >= kRows) break;
    }
    ++cut.rows;
    cut.tokens += tokens;
  }
  if (cut.rows > 0) end_cut();
  for (const Cut& c : {longest, shortest}) {
    std::vector<const Sample*> rows;
    for (std::int64_t i = 0; i < c.rows; ++i) rows.push_back(&train_[order_[c.begin + i]]);
    out.batches.push_back(micro_batch(rows));
  }
  out.lengths = std::ssize(lengths);
  return out;
}

/// The longest and the shortest batch of an evaluation, if there is one.
std::vector<PackedRows> Run::evaluated_batches() const {
  std::vector<PackedRows> out;
  std::vector<const Sample*> rows;
  for (const Sample& row : valid_) {
    rows.push_back(&row);
    if (std::ssize(rows) < options_.batch_size && &row != &valid_[valid_.size() - 1]) continue;
    PackedRows batch = pack(rows, options_.batch_size);
    rows.clear();
    if (out.empty()) out = {batch, batch};
    if (batch.ids.size() > out[0].ids.size()) out[0] = std::move(batch);
    else if (batch.ids.size() < out[1].ids.size()) out[1] = std::move(batch);
  }
  return out;
}

Trainer::Outlook Run::outlook() {
  Trainer::Outlook o{.steps = total_, .rows = std::ssize(train_)};
  for (const auto& [path, t] : stepper_.parameters()) o.trainable += t.numel();
  const std::size_t adapter = bytes_of(stepper_.parameters());
  o.base_bytes = bytes_of(model_.parameters());
  o.trainable_bytes = 3 * adapter;
  o.peak_bytes = resident_memory().peak;
  if (progress_.step >= total_) return o;
  const Ahead ahead = look_ahead();
  o.longest_batch = std::ssize(ahead.batches[0].ids);
  const ResidentMemory before = resident_memory();
  const MemoryNeeds needs = stepper_.needs(ahead.batches, ahead.several, evaluated_batches());
  const ResidentMemory now = resident_memory();
  // A length's plans take what those of two did just now, and half of it.
  const std::size_t plans = (now.now - std::min(now.now, before.now)) / 2;
  const auto more = static_cast<std::size_t>(std::max<std::int64_t>(0, ahead.lengths - 2));
  // The adapter as it began is kept; a checkpoint is read once more when it is written; the best one is a copy, and so
  // is the one that takes its place.
  const std::size_t copies = (options_.early_stop > 0 ? 5 : 3) * adapter;
  o.step_bytes = needs.temporaries + needs.packed + needs.results + copies + more * plans;
  o.peak_bytes = std::max(now.peak, now.now + needs.unread + o.step_bytes);
  return o;
}

}  // namespace metal_candle::training
