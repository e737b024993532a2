// PointerTable: numbers for pointers, forgotten all at once. Its memory stays, so that a replay allocates nothing.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

namespace metal_candle {

/// An open hash table whose entries belong to a generation; those of earlier ones count as absent.
class PointerTable {
 public:
  void clear() {
    if (entries_.empty()) entries_.resize(64);
    if (++generation_ == 0) {
      std::fill(entries_.begin(), entries_.end(), Entry{});
      generation_ = 1;
    }
    used_ = 0;
  }
  /// The number of `key`, or null. Valid until the next insertion.
  int* find(const void* key) {
    Entry& e = at(key);
    return e.generation == generation_ ? &e.number : nullptr;
  }
  /// The number of `key`, which becomes `number` if it is new.
  int* insert(const void* key, int number) {
    if (2 * (used_ + 1) > entries_.size()) grow();
    Entry& e = at(key);
    if (e.generation != generation_) {
      e = {key, generation_, number};
      ++used_;
    }
    return &e.number;
  }

 private:
  struct Entry {
    const void* key = nullptr;
    std::uint32_t generation = 0;
    int number = 0;
  };

  /// Where `key` is, or would be.
  Entry& at(const void* key) {
    const std::size_t mask = entries_.size() - 1;
    std::size_t i = (reinterpret_cast<std::uintptr_t>(key) * 0x9e3779b97f4a7c15ull >> 20) & mask;
    while (entries_[i].generation == generation_ && entries_[i].key != key) i = (i + 1) & mask;
    return entries_[i];
  }
  void grow() {
    std::vector<Entry> old(entries_.size() * 2);
    old.swap(entries_);
    for (const Entry& e : old)
      if (e.generation == generation_) at(e.key) = e;
  }

  std::vector<Entry> entries_;
  std::uint32_t generation_ = 0;
  std::size_t used_ = 0;
};

}  // namespace metal_candle
