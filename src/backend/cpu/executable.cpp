#include "backend/cpu/executable.h"

#include <algorithm>
#include <chrono>

#include "base/thread_pool.h"
#include "metal_candle/error.hpp"

namespace metal_candle::cpu {
namespace {

constexpr double kTinyNanoseconds = 15'000;
constexpr double kThreadNanoseconds = 4'000;  // less work than this does not pay for another thread
constexpr std::int64_t kFetchPieces = 256;    // before a round: half of a usual second-level cache

std::size_t round_up(std::size_t x, std::size_t unit) { return (x + unit - 1) / unit * unit; }

std::int64_t now() {
  return std::chrono::duration_cast<std::chrono::nanoseconds>(std::chrono::steady_clock::now().time_since_epoch())
      .count();
}

// Tiny plans run on any thread, at any time; each thread has memory for one of them.
Workspace& own_workspace() {
  static thread_local Workspace workspace;
  return workspace;
}

}  // namespace

CpuExecutable::CpuExecutable(std::shared_ptr<const Plan> plan, std::shared_ptr<SharedWorkspace> workspace)
    : plan_(std::move(plan)), workspace_(std::move(workspace)), buffers_(plan_->buffers.size(), nullptr) {
  lower_steps();
  place_shared();
  find_sources();
  build_rounds();
  tiny_ = nanoseconds_ < kTinyNanoseconds;
}

void CpuExecutable::lower_steps() {
  for (const PlanStep& step : plan_->steps) {
    switch (step.kind) {
      case PlanStep::Kind::fused: steps_.push_back(lower_fused(step)); break;
      case PlanStep::Kind::matmul: steps_.push_back(lower_matmul(*plan_, step)); break;
      case PlanStep::Kind::kernel: steps_.push_back(lower_kernel(step)); break;
    }
    Step& lowered = *steps_.back();
    nanoseconds_ += lowered.nanoseconds();
    if (lowered.binds()) binding_steps_.push_back(&lowered);
    if (lowered.fallible()) fallible_steps_.push_back(static_cast<int>(steps_.size()) - 1);
  }
}

/// Steps of one phase have their shared blocks side by side, steps of different phases in the same place.
void CpuExecutable::place_shared() {
  const std::size_t begin = round_up(plan_->arena_bytes, 64);
  std::vector<std::size_t> next(static_cast<std::size_t>(std::max(plan_->phases, 1)), begin);
  arena_bytes_ = plan_->arena_bytes;
  for (std::size_t i = 0; i < steps_.size(); ++i) {
    const auto phase = static_cast<std::size_t>(plan_->steps[i].phase);
    if (phase >= next.size()) next.resize(phase + 1, begin);
    shared_offsets_.push_back(next[phase]);
    if (steps_[i]->shared_bytes() == 0) continue;
    next[phase] += round_up(steps_[i]->shared_bytes(), 64);
    arena_bytes_ = std::max(arena_bytes_, next[phase]);
  }
}

/// Follows buffers written in place to the memory they share; only addresses that can change are left for the runs.
void CpuExecutable::find_sources() {
  using Where = PlanBuffer::Where;
  const auto& buffers = plan_->buffers;
  for (int i = 0; i < static_cast<int>(buffers.size()); ++i) {
    int at = i;
    // A result is bound to memory of its own in every run, which may or may not be that of a donated input.
    while (buffers[static_cast<std::size_t>(at)].same_as >= 0 &&
           buffers[static_cast<std::size_t>(at)].where != Where::output)
      at = buffers[static_cast<std::size_t>(at)].same_as;
    const PlanBuffer& b = buffers[static_cast<std::size_t>(at)];
    switch (b.where) {
      case Where::constant: buffers_[static_cast<std::size_t>(i)] = const_cast<std::uint64_t*>(&b.bits); break;
      case Where::arena: arena_sources_.push_back({i, b.where, at}); break;
      case Where::tile: break;
      default: sources_.push_back({i, b.where, b.index});
    }
  }
}

void CpuExecutable::build_rounds() {
  units_.clear();
  round_units_.assign(1, 0);
  round_tasks_.clear();
  scratch_bytes_ = most_tasks_ = 0;
  for (const auto& step : steps_) scratch_bytes_ = std::max(scratch_bytes_, round_up(step->scratch_bytes(), 64));
  std::vector<std::vector<int>> phases(static_cast<std::size_t>(std::max(plan_->phases, 1)));
  for (std::size_t i = 0; i < steps_.size(); ++i) {
    const auto phase = static_cast<std::size_t>(plan_->steps[i].phase);
    if (phase >= phases.size()) phases.resize(phase + 1);
    phases[phase].push_back(static_cast<int>(i));
  }
  for (auto& steps : phases) {
    int passes = 0;
    for (int s : steps) passes = std::max(passes, steps_[static_cast<std::size_t>(s)]->rounds());
    for (int pass = 0; pass < passes; ++pass) add_round(steps, pass);
  }
  join_rounds();
  find_fetching();
}

/// Whether the round's products wait for the memory of their weights.
bool CpuExecutable::fetches(std::size_t round) const {
  for (std::uint32_t u = round_units_[round]; u < round_units_[round + 1]; ++u)
    if (units_[u].pass == 0 && steps_[static_cast<std::size_t>(units_[u].step)]->pieces_to_fetch() > 0) return true;
  return false;
}

/// Rounds of one task that follow each other are one: the thread that has the first goes on with the next, and nobody is
/// told.
void CpuExecutable::join_rounds() {
  std::vector<std::uint32_t> begins{0}, tasks;
  serial_.clear();
  for (std::size_t r = 0; r < round_tasks_.size(); ++r) {
    const bool serial = round_tasks_[r] == 1 && !fetches(r);
    if (serial && !serial_.empty() && serial_.back()) {
      begins.back() = round_units_[r + 1];
      continue;
    }
    serial_.push_back(serial);
    tasks.push_back(round_tasks_[r]);
    begins.push_back(round_units_[r + 1]);
  }
  round_units_ = std::move(begins);
  round_tasks_ = std::move(tasks);
}

void CpuExecutable::add_round(std::vector<int>& steps, int pass) {
  // Long tasks first, so that the round does not end with one thread at work.
  const auto length = [&](int s) {
    const Step& step = *steps_[static_cast<std::size_t>(s)];
    return pass < step.rounds() ? step.nanoseconds() / static_cast<double>(std::max<std::int64_t>(1, step.tasks(pass)))
                                : 0;
  };
  std::stable_sort(steps.begin(), steps.end(), [&](int a, int b) { return length(a) > length(b); });
  std::int64_t total = 0;
  for (int s : steps) {
    const Step& step = *steps_[static_cast<std::size_t>(s)];
    const std::int64_t tasks = pass < step.rounds() ? step.tasks(pass) : 0;
    if (tasks <= 0) continue;
    units_.push_back({static_cast<std::uint32_t>(total), static_cast<std::uint32_t>(tasks), s, pass});
    total += tasks;
    if (total > INT32_MAX)
      throw UserError(ErrorKind::argument, plan_->steps[static_cast<std::size_t>(s)].label +
                                               ": too large, it would be cut into more than 2^31 tasks");
  }
  if (total == 0) return;
  round_tasks_.push_back(static_cast<std::uint32_t>(total));
  round_units_.push_back(static_cast<std::uint32_t>(units_.size()));
  most_tasks_ = std::max(most_tasks_, round_tasks_.back());
}

int CpuExecutable::useful_threads() const {
  if (tiny_) return 1;
  const double by_work = std::min(nanoseconds_ / kThreadNanoseconds, 1e6);
  return std::max(1, std::min({base::threads(), static_cast<int>(std::min<std::uint32_t>(most_tasks_, 1u << 20)),
                               static_cast<int>(by_work)}));
}

void CpuExecutable::run(const Bindings& bindings, std::vector<TaskTime>* times) {
  traced_ = times != nullptr;
  try {
    if (tiny_) {
      run_in(own_workspace(), bindings);
    } else {
      std::lock_guard lock(workspace_->mutex);
      run_in(*workspace_, bindings);
    }
  } catch (...) {  // nothing of this run is told by the next one
    times_.clear();
    take_failures();
    throw;
  }
  if (times != nullptr) collect_times(*times);
  if (!fallible_steps_.empty()) report_failures(bindings);
}

std::size_t CpuExecutable::bytes_to_grow() const {
  const Workspace& workspace = tiny_ ? own_workspace() : *workspace_;
  const auto more = [](std::size_t wanted, const Block& there) { return wanted - std::min(wanted, there.bytes()); };
  return more(arena_bytes_, workspace.arena) +
         more(scratch_bytes_ * static_cast<std::size_t>(useful_threads()), workspace.scratch);
}

void CpuExecutable::foretell(const Bindings& bindings, PackingForecast& forecast) const {
  for (const Step* step : binding_steps_) step->foretell(bindings, forecast);
}

void CpuExecutable::run_in(Workspace& workspace, const Bindings& bindings) {
  resolve(bindings, static_cast<char*>(workspace.arena.reserve(arena_bytes_)));
  frame_.same_constants = bindings.constants != 0 && bindings.constants == constants_;
  constants_ = 0;  // until everything is bound
  if (!binding_steps_.empty()) bind_steps(tiny_ ? 1 : base::threads());
  constants_ = bindings.constants;
  const int threads = useful_threads();
  scratch_ = static_cast<char*>(workspace.scratch.reserve(scratch_bytes_ * static_cast<std::size_t>(threads)));
  last_.assign(static_cast<std::size_t>(threads), {});
  if (traced_) times_.resize(static_cast<std::size_t>(threads));
  if (threads == 1) return run_alone();
  const auto task = [](void* self, int thread, int round, std::uint32_t index) {
    static_cast<CpuExecutable*>(self)->run_task(thread, round, index);
  };
  const auto idle = [](void* self, int round) { return static_cast<CpuExecutable*>(self)->fetch_ahead(round); };
  fetched_.store(0, std::memory_order_relaxed);
  base::run_rounds({round_tasks_.data(), static_cast<int>(round_tasks_.size()), task, this, idle}, threads);
}

void CpuExecutable::resolve(const Bindings& bindings, char* arena) {
  frame_.buffers = buffers_.data();
  frame_.slots = bindings.slots.data();
  frame_.leaves = bindings.leaves.data();
  frame_.leaf_count = static_cast<int>(bindings.leaves.size());
  if (arena != arena_) move_arena(arena);
  for (const Source& s : sources_) {
    const auto index = static_cast<std::size_t>(s.index);
    void*& to = buffers_[static_cast<std::size_t>(s.buffer)];
    if (s.where == PlanBuffer::Where::leaf) to = bindings.leaf_data[index];
    else if (s.where == PlanBuffer::Where::output) to = bindings.output_data[index];
    else to = const_cast<std::uint64_t*>(bindings.slots.data() + index);
  }
}

void CpuExecutable::move_arena(char* arena) {
  arena_ = arena;
  for (const Source& s : arena_sources_)
    buffers_[static_cast<std::size_t>(s.buffer)] = arena + plan_->buffers[static_cast<std::size_t>(s.index)].offset;
  for (std::size_t i = 0; i < steps_.size(); ++i)
    if (steps_[i]->shared_bytes() > 0) steps_[i]->set_shared(arena + shared_offsets_[i]);
}

void CpuExecutable::bind_steps(int threads) {
  frame_.threads = threads;
  bool as_planned = true;
  for (Step* step : binding_steps_) as_planned &= step->bind(frame_);
  if (!as_planned) build_rounds();
}

void CpuExecutable::run_alone() {
  for (const Unit& unit : units_)
    for (std::uint32_t t = 0; t < unit.tasks; ++t) run_unit(0, unit, t);
}

void CpuExecutable::run_task(int thread, int round, std::uint32_t task) {
  const Unit* begin = units_.data() + round_units_[static_cast<std::size_t>(round)];
  const Unit* end = units_.data() + round_units_[static_cast<std::size_t>(round) + 1];
  if (!serial_[static_cast<std::size_t>(round)]) {
    const auto before = [](std::uint32_t t, const Unit& u) { return t < u.first; };
    const Unit* unit = std::upper_bound(begin, end, task, before) - 1;
    return run_unit(thread, *unit, task - unit->first);
  }
  for (const Unit* unit = begin; unit != end; ++unit)
    for (std::uint32_t t = 0; t < unit->tasks; ++t) run_unit(thread, *unit, t);
}

void CpuExecutable::run_unit(int thread, const Unit& unit, std::int64_t task) {
  Step& step = *steps_[static_cast<std::size_t>(unit.step)];
  void* scratch = scratch_ + scratch_bytes_ * static_cast<std::size_t>(thread);
  Last& last = last_[static_cast<std::size_t>(thread)];
  const std::int64_t before = last.unit == &unit ? last.task : -1;
  last = {&unit, task};
  if (!traced_) return step.run(frame_, unit.pass, task, scratch, before);
  const std::int64_t start = now();
  step.run(frame_, unit.pass, task, scratch, before);
  times_[static_cast<std::size_t>(thread)].push_back({unit.step, thread, start, now()});
}

void CpuExecutable::find_fetching() {
  next_fetching_.assign(round_tasks_.size(), -1);
  int next = -1;
  for (std::size_t r = round_tasks_.size(); r-- > 0;) {
    next_fetching_[r] = next;
    if (fetches(r)) next = static_cast<int>(r);
  }
}

/// For a thread that waits for the end of a round: a piece of the weights that come next. The ends of rounds, and rounds
/// of one task, would leave memory idle otherwise, which is all that decoding waits for.
bool CpuExecutable::fetch_ahead(int round) {
  const int target = next_fetching_[static_cast<std::size_t>(round)];
  if (target < 0) return false;
  const std::uint64_t first = static_cast<std::uint64_t>(target + 1) << 32;
  std::uint64_t at = fetched_.load(std::memory_order_relaxed), next;
  do {
    next = std::max(at, first);
    if (next - first >= kFetchPieces) return false;
  } while (!fetched_.compare_exchange_weak(at, next + 1, std::memory_order_relaxed));
  auto piece = static_cast<std::int64_t>(next - first);
  const auto r = static_cast<std::size_t>(target);
  for (std::uint32_t u = round_units_[r]; u < round_units_[r + 1]; ++u) {
    if (units_[u].pass != 0) continue;
    const Step& step = *steps_[static_cast<std::size_t>(units_[u].step)];
    const std::int64_t pieces = step.pieces_to_fetch();
    if (piece < pieces) {
      step.fetch(piece);
      return true;
    }
    piece -= pieces;
  }
  return false;
}

void CpuExecutable::collect_times(std::vector<TaskTime>& times) {
  for (const auto& thread : times_) times.insert(times.end(), thread.begin(), thread.end());
  times_.clear();
}

/// The first step in the plan's order that failed is the one that is told of; all forget.
CpuExecutable::Failure CpuExecutable::take_failures() {
  Failure first;
  for (int s : fallible_steps_) {
    std::string what = steps_[static_cast<std::size_t>(s)]->take_failure();
    if (!what.empty() && first.what.empty()) first = {static_cast<std::size_t>(s), std::move(what)};
  }
  return first;
}

void CpuExecutable::report_failures(const Bindings& bindings) {
  const Failure failure = take_failures();
  if (failure.what.empty()) return;
  const std::string* const recorded_in = bindings.scope(*plan_, failure.step);
  const std::string scope = recorded_in ? *recorded_in : std::string(), &label = plan_->steps[failure.step].label;
  throw UserError(ErrorKind::index, (scope.empty() ? "" : scope + ": ") + label + ": " + failure.what, label, scope);
}

}  // namespace metal_candle::cpu
