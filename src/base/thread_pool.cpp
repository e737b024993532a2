// A job's progress is one word: round in the upper half, next task in the lower. Claiming a task is an addition to it,
// so a claim is always of the round that is open; whoever ends the last task of a round opens the next one.
//
// A helper enters a job through the gate, a word that says whether the job is open, for how many threads, how many
// came, and how many are inside. The caller closes it when all rounds are done and waits for those inside, so nobody
// sees a job whose memory is gone. Who comes first gets in: threads that are still hot do the small jobs.
#include "base/thread_pool.h"

#include <sched.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <exception>
#include <memory>
#include <mutex>
#include <system_error>
#include <thread>
#include <utility>
#include <vector>

#include "base/fork.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace metal_candle::base {
namespace {

constexpr std::chrono::microseconds kStayHot{80};
constexpr int kWakers = 2;  // a thread that wakes up wakes this many more: a tree, not one long line

void pause() {
#if defined(__x86_64__)
  _mm_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

int usable_cpus() {
  cpu_set_t set;
  CPU_ZERO(&set);
  if (sched_getaffinity(0, sizeof set, &set) == 0) return std::max(1, CPU_COUNT(&set));
  return static_cast<int>(std::max(1u, std::thread::hardware_concurrency()));
}

/// Waits a little longer each time; gives the CPU away when there may be someone else for it.
class Backoff {
 public:
  explicit Backoff(int patience) : patience_(patience) {}
  void reset() { turns_ = 0; }
  void wait() {
    if (++turns_ < patience_) pause();
    else sched_yield();
  }

 private:
  int turns_ = 0;
  const int patience_;
};

thread_local bool in_job = false;

class Workers {
 public:
  Workers() {
    at_fork({ForkOrder::threads, this, [](void* p) { static_cast<Workers*>(p)->mutex_.lock(); },
             [](void* p) { static_cast<Workers*>(p)->mutex_.unlock(); },
             [](void* p) { static_cast<Workers*>(p)->start_anew(); }});
  }

  int threads() const { return threads_.load(std::memory_order_relaxed); }

  void set_threads(int count) {
    std::lock_guard lock(mutex_);
    count = std::clamp(count, 1, kMostThreads);
    threads_.store(count, std::memory_order_relaxed);
    patience_.store(count <= cpus_ ? 4000 : 30, std::memory_order_relaxed);
    if (helpers() < count) return;
    epoch_.fetch_add(1, std::memory_order_seq_cst);
    epoch_.notify_all();
    while (helpers() >= count) {
      helpers_.back().join();
      helpers_.pop_back();
    }
    employed_.store(helpers(), std::memory_order_relaxed);
  }

  void run(const Rounds& work, int most) {
    std::lock_guard lock(mutex_);
    most = std::min(most, threads());
    if (helpers() + 1 < most) most = hire(most);
    job_ = work;
    state_.store(0, std::memory_order_relaxed);
    done_.store(0, std::memory_order_relaxed);
    gate_.store(kOpen | static_cast<std::uint64_t>(most) << kLimitShift | kCame, std::memory_order_release);
    epoch_.fetch_add(1, std::memory_order_seq_cst);
    wake(most - 1);
    {
      const Occupied by_tasks;
      in_job = true;
      take_part(0);
      in_job = false;
    }
    gate_.fetch_and(~kOpen, std::memory_order_acq_rel);
    Backoff backoff(patience());
    while ((gate_.load(std::memory_order_acquire) & kInside) != 0) backoff.wait();
    if (failed_.load(std::memory_order_relaxed)) {
      failed_.store(false, std::memory_order_relaxed);
      std::rethrow_exception(std::exchange(error_, nullptr));
    }
  }

 private:
  // The gate: open | limit | threads that came, the caller included | helpers inside.
  static constexpr std::uint64_t kOpen = std::uint64_t{1} << 63, kCame = 1 << 16, kInside = kCame - 1;
  static constexpr int kLimitShift = 32, kMostThreads = 4096;
  static int limit_of(std::uint64_t gate) { return static_cast<int>((gate & ~kOpen) >> kLimitShift); }
  static int came(std::uint64_t gate) { return static_cast<int>((gate / kCame) & 0xffff); }

  int helpers() const { return static_cast<int>(helpers_.size()); }
  int patience() const { return patience_.load(std::memory_order_relaxed); }

  /// As many as the system lets us have.
  int hire(int most) {
    try {
      while (helpers() + 1 < most) {
        const int index = helpers() + 1;
        helpers_.emplace_back([this, index, seen = epoch_.load()] { help(index, seen); });
      }
    } catch (const std::system_error&) {
    }
    employed_.store(helpers(), std::memory_order_relaxed);
    return helpers() + 1;
  }

  /// In a child of fork: no helper is there any more, nor can be joined.
  void start_anew() {
    std::construct_at(&helpers_);
    sleepers_.store(0, std::memory_order_relaxed);
    employed_.store(0, std::memory_order_relaxed);
    mutex_.unlock();
  }

  /// Wakes some helpers when more than those awake are wanted.
  void wake(int wanted) {
    // Ordered after the epoch's change: a sleeper either is counted here or sees the new epoch (it counts itself
    // first).
    const int asleep = sleepers_.load(std::memory_order_seq_cst);
    const int awake = employed_.load(std::memory_order_relaxed) - asleep;
    for (int i = std::min({asleep, wanted - awake, kWakers}); i > 0; --i) epoch_.notify_one();
  }

  void help(int index, int seen) {
    const Occupied by_tasks;
    in_job = true;
    for (;;) {
      seen = next_epoch(seen);
      if (index >= threads()) return;
      const int thread = enter();
      if (thread == 0) continue;
      take_part(thread);
      gate_.fetch_sub(1, std::memory_order_acq_rel);
    }
  }

  /// Returns when the epoch has left `seen`.
  int next_epoch(int seen) {
    using Clock = std::chrono::steady_clock;
    if (patience() > 100) {
      const auto until = Clock::now() + kStayHot;
      do {
        for (int i = 0; i < 32; ++i) {
          const int now = epoch_.load(std::memory_order_acquire);
          if (now != seen) return now;
          pause();
        }
      } while (Clock::now() < until);
    }
    sleepers_.fetch_add(1, std::memory_order_seq_cst);
    while (epoch_.load(std::memory_order_seq_cst) == seen) epoch_.wait(seen, std::memory_order_seq_cst);
    sleepers_.fetch_sub(1, std::memory_order_relaxed);
    const std::uint64_t gate = gate_.load(std::memory_order_relaxed);
    if ((gate & kOpen) != 0 && came(gate) < limit_of(gate)) wake(limit_of(gate) - 1);
    return epoch_.load(std::memory_order_acquire);
  }

  /// The number of this thread in the job, 0 when it came too late.
  int enter() {
    std::uint64_t gate = gate_.load(std::memory_order_relaxed);
    do {
      if ((gate & kOpen) == 0 || came(gate) >= limit_of(gate)) return 0;
    } while (
        !gate_.compare_exchange_weak(gate, gate + kCame + 1, std::memory_order_acq_rel, std::memory_order_relaxed));
    return came(gate);
  }

  void take_part(int thread) {
    Backoff backoff(patience());
    std::uint64_t state = state_.load(std::memory_order_acquire);
    for (;;) {
      const auto open = static_cast<int>(state >> 32);
      if (open == job_.count) return;
      if (static_cast<std::uint32_t>(state) >= job_.tasks[open]) {  // others are at its last tasks
        if (job_.idle == nullptr || !job_.idle(job_.user, open)) backoff.wait();
        state = state_.load(std::memory_order_acquire);
        continue;
      }
      state = state_.fetch_add(1, std::memory_order_acq_rel);
      const auto round = static_cast<int>(state >> 32);
      const auto task = static_cast<std::uint32_t>(state);
      if (round == job_.count) return;
      if (task < job_.tasks[round]) {
        run_task(thread, round, task);
        backoff.reset();
      }
      state = state_.load(std::memory_order_acquire);
    }
  }

  void run_task(int thread, int round, std::uint32_t task) {
    try {
      job_.run(job_.user, thread, round, task);
    } catch (...) {
      if (!failed_.exchange(true, std::memory_order_acq_rel)) error_ = std::current_exception();
    }
    if (done_.fetch_add(1, std::memory_order_acq_rel) + 1 != job_.tasks[round]) return;
    done_.store(0, std::memory_order_relaxed);
    state_.store(static_cast<std::uint64_t>(round + 1) << 32, std::memory_order_release);
  }

  std::mutex mutex_;  // one job at a time
  Rounds job_;
  std::vector<std::thread> helpers_;
  const int cpus_ = usable_cpus();
  std::atomic<int> threads_{cpus_};
  std::atomic<int> patience_{4000};
  std::exception_ptr error_;
  std::atomic<bool> failed_{false};
  alignas(128) std::atomic<std::uint64_t> state_{0};
  alignas(128) std::atomic<std::uint32_t> done_{0};
  alignas(128) std::atomic<std::uint64_t> gate_{0};
  alignas(128) std::atomic<int> epoch_{0};
  std::atomic<int> sleepers_{0}, employed_{0};
};

// Never destroyed: its threads may outlive everything with static lifetime.
Workers& workers() {
  static Workers* instance = new Workers;
  return *instance;
}

void run_alone(const Rounds& work) {
  std::exception_ptr error;
  for (int round = 0; round < work.count; ++round)
    for (std::uint32_t task = 0; task < work.tasks[round]; ++task) {
      try {
        work.run(work.user, 0, round, task);
      } catch (...) {
        if (!error) error = std::current_exception();
      }
    }
  if (error) std::rethrow_exception(error);
}

}  // namespace

int threads() { return workers().threads(); }
void set_threads(int count) { workers().set_threads(count); }

void run_rounds(const Rounds& work, int most) {
  if (most <= 1 || in_job) run_alone(work);
  else workers().run(work, most);
}

}  // namespace metal_candle::base
