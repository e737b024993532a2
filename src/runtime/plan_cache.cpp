#include "runtime/plan_cache.h"

#include <algorithm>
#include <cstring>

namespace metal_candle {

bool PlanEntry::is(const PlanKey& key) const {
  return hash == key.hash && passes == key.passes && words.size() == key.words.size() &&
         std::memcmp(words.data(), key.words.data(), words.size() * sizeof(std::uint64_t)) == 0;
}

std::shared_ptr<PlanEntry> PlanCache::find(const PlanKey& key) {
  std::shared_ptr<PlanEntry> found;
  {
    std::lock_guard lock(mutex_);
    auto [it, end] = entries_.equal_range(key.hash);
    if (it == end) return nullptr;
    found = it->second;
    found->last_use = ++clock_;
    // Nearly always there is one candidate: it is compared after the lock, as the words of a training step are long.
    if (std::next(it) != end)
      for (; it != end; ++it)
        if (it->second->is(key)) return it->second;
  }
  return found->is(key) ? found : nullptr;
}

void PlanCache::insert(const std::shared_ptr<PlanEntry>& entry) {
  std::vector<std::shared_ptr<PlanEntry>> gone;  // destroyed after the lock
  std::lock_guard lock(mutex_);
  if (size_ == 0) return;
  shrink(size_ - 1, gone);
  entry->last_use = ++clock_;
  entries_.emplace(entry->hash, entry);
}

void PlanCache::set_size(std::size_t plans) {
  std::vector<std::shared_ptr<PlanEntry>> gone;
  std::lock_guard lock(mutex_);
  size_ = plans;
  shrink(size_, gone);
}

void PlanCache::clear() {
  Map gone;
  std::lock_guard lock(mutex_);
  gone.swap(entries_);
}

void PlanCache::shrink(std::size_t plans, std::vector<std::shared_ptr<PlanEntry>>& gone) {
  while (entries_.size() > plans) {
    auto oldest = std::min_element(entries_.begin(), entries_.end(), [](const auto& a, const auto& b) {
      return a.second->last_use < b.second->last_use;
    });
    gone.push_back(std::move(oldest->second));
    entries_.erase(oldest);
    evicted_.fetch_add(1, std::memory_order_relaxed);
  }
}

}  // namespace metal_candle
