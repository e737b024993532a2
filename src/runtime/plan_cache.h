// The plans that were compiled, found by the words of a capture.
//
// A hash finds a plan, the whole key confirms it. The cache is bounded; the plan unused for longest goes first, and
// lives on for as long as a submission still uses it.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>
#include <span>
#include <unordered_map>
#include <vector>

#include "backend/backend.h"
#include "base/fork.h"

namespace metal_candle {

struct PlanKey {
  std::span<const std::uint64_t> words;  // of a capture
  std::uint64_t hash = 0;
  PassMask passes = kAllPasses;
};

/// A plan with all that a replay needs.
struct PlanEntry {
  std::vector<std::uint64_t> words;
  std::uint64_t hash = 0;
  PassMask passes = kAllPasses;
  std::shared_ptr<const Plan> plan;
  std::unique_ptr<Executable> executable;
  std::vector<int> donors;     // per output buffer: the donated leaf whose memory it may take over, or -1
  std::vector<int> recorded;   // per step: the captured node whose scope is the step's, or -1
  std::uint64_t last_use = 0;  // guarded by the cache
  std::atomic<bool> run_before{false};

  bool is(const PlanKey& key) const;
};

class PlanCache {
 public:
  PlanCache() { base::at_fork(base::ForkOrder::last, mutex_); }

  std::shared_ptr<PlanEntry> find(const PlanKey& key);
  void insert(const std::shared_ptr<PlanEntry>& entry);
  void set_size(std::size_t plans);
  void clear();
  std::uint64_t evicted() const { return evicted_.load(std::memory_order_relaxed); }

 private:
  using Map = std::unordered_multimap<std::uint64_t, std::shared_ptr<PlanEntry>>;
  void shrink(std::size_t plans, std::vector<std::shared_ptr<PlanEntry>>& gone);

  std::mutex mutex_;
  Map entries_;
  std::size_t size_ = 512;
  std::uint64_t clock_ = 0;
  std::atomic<std::uint64_t> evicted_{0};
};

}  // namespace metal_candle
