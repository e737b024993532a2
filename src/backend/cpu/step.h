// A plan's step, lowered: a few rounds of tasks over bound buffers.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <utility>

#include "backend/backend.h"

namespace metal_candle::cpu {

class PackingForecast;

/// What steps see of the run they are in.
struct RunFrame {
  void** buffers = nullptr;  // by plan buffer
  const std::uint64_t* slots = nullptr;
  Storage* const* leaves = nullptr;
  int leaf_count = 0;
  int threads = 1;              // that may be used before the first round
  bool same_constants = false;  // frozen leaves are those of the run before, nothing else having been bound since
};

class Step {
 public:
  virtual ~Step() = default;

  // From shapes only.
  virtual int rounds() const { return 1; }
  virtual std::int64_t tasks(int round) const = 0;
  virtual std::size_t scratch_bytes() const = 0;          // for each thread
  virtual std::size_t shared_bytes() const { return 0; }  // one block for the step, in its phase
  virtual double nanoseconds() const = 0;                 // on one thread, roughly

  /// Whether bind does anything.
  virtual bool binds() const { return false; }
  /// Which packed forms of constants `bind` would make.
  virtual void foretell(const Bindings&, PackingForecast&) const {}
  /// Before a run's first round, on the caller's thread. False: tasks and scratch have changed for good; read again.
  virtual bool bind(const RunFrame&) { return true; }
  /// `before`: the task of the same round that this scratch was used for last, by nothing else since; -1 if there is none.
  virtual void run(const RunFrame& frame, int round, std::int64_t task, void* scratch, std::int64_t before) = 0;

  /// Pieces of constant memory that a thread without work may bring into its cache before the step's first round, those
  /// first that are needed first. Known once the step is bound.
  virtual std::int64_t pieces_to_fetch() const { return 0; }
  virtual void fetch(std::int64_t) const {}

  /// What only the data showed, or nothing; forgets it.
  virtual std::string take_failure() {
    if (!failed_.load(std::memory_order_relaxed)) return {};
    failed_ = false;
    return std::exchange(failure_, {});
  }
  virtual bool fallible() const { return false; }
  void set_shared(void* shared) { shared_ = shared; }

 protected:
  /// Of several failures the first task's is told, whichever thread came first.
  void fail(std::string what, std::int64_t task) {
    const std::lock_guard lock(failing_);
    if (failed_ && failed_task_ <= task) return;
    failure_ = std::move(what);
    failed_task_ = task;
    failed_ = true;
  }
  void* shared_ = nullptr;

 private:
  std::mutex failing_;
  std::atomic<bool> failed_{false};
  std::int64_t failed_task_ = 0;
  std::string failure_;
};

/// The plan outlives the step; buffers are the plan's.
std::unique_ptr<Step> lower_fused(const PlanStep& step);
std::unique_ptr<Step> lower_matmul(const Plan& plan, const PlanStep& step);
std::unique_ptr<Step> lower_kernel(const PlanStep& step);

/// One thread's time for moving and computing this much outside of the caches.
inline double estimate(double bytes, double flops, double flops_a_nanosecond) {
  return 50 + bytes / 12 + flops / flops_a_nanosecond;
}

}  // namespace metal_candle::cpu
