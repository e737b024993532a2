// Recycled memory for small objects of one type: a list per thread, with a shared overflow list behind it, so that
// recording in a steady program never reaches malloc. Under AddressSanitizer every object is a real allocation.
#pragma once

#include <cstddef>
#include <mutex>
#include <new>

#include "base/fork.h"
#include "base/pool.h"
#include "metal_candle/error.hpp"

namespace metal_candle::base {

template <class T>
class FreeList {
 public:
  static void* get() {
#if defined(__SANITIZE_ADDRESS__)
    return ::operator new(sizeof(T));
#else
    Local& mine = local();
    if (!mine.head) refill(mine);
    Item* item = mine.head;
    mine.head = item->next;
    --mine.count;
    fetch(mine.head);
    return item;
#endif
  }

  static void put(void* memory) noexcept {
#if defined(__SANITIZE_ADDRESS__)
    ::operator delete(memory);
#else
    Local& mine = local();
    auto* item = static_cast<Item*>(memory);
    item->next = mine.head;
    mine.head = item;
    if (++mine.count >= 2 * kBatch) spill(mine, kBatch);
#endif
  }

 private:
  static constexpr std::size_t kBatch = 4096;
  struct Item {
    Item* next;
  };
  static_assert(sizeof(T) >= sizeof(Item));
  // Trivial on purpose: objects may be freed while thread-local destructors run.
  struct Local {
    Item* head;
    std::size_t count;
  };
  struct Flush {  // hands the list over when the thread ends
    ~Flush() { spill(mine_, mine_.count); }
  };
  struct Shared {
    Shared() { at_fork(ForkOrder::last, mutex); }
    std::mutex mutex;
    Item* head = nullptr;
    std::size_t count = 0;
  };
  static Shared& shared() {
    static Shared* s = new Shared;
    return *s;
  }
  static Local& local() { return mine_; }

  /// The next object's lines: after work that emptied the caches each would be waited for in turn.
  static void fetch(const Item* item) {
    for (std::size_t at = 0; at < sizeof(T); at += 64)
      __builtin_prefetch(reinterpret_cast<const std::byte*>(item) + at, 1);
  }

  static void refill(Local& mine) {
    static thread_local Flush flush;
    (void)flush;
    Shared& s = shared();
    {
      std::lock_guard lock(s.mutex);
      while (s.head && mine.count < kBatch) {
        Item* item = s.head;
        s.head = item->next;
        --s.count;
        item->next = mine.head;
        mine.head = item;
        ++mine.count;
      }
    }
    if (mine.head) return;
    constexpr std::size_t kChunk = 256;
    constexpr std::size_t kBytes = sizeof(T) * kChunk;
    auto* block = static_cast<std::byte*>(::operator new (kBytes, std::align_val_t{64}, std::nothrow));
    if (!block) throw OutOfMemory(kBytes, pool_available());
    for (std::size_t i = kChunk; i-- > 0;) {
      auto* item = reinterpret_cast<Item*>(block + i * sizeof(T));
      item->next = mine.head;
      mine.head = item;
    }
    mine.count += kChunk;
  }

  static void spill(Local& mine, std::size_t how_many) noexcept {
    Shared& s = shared();
    std::lock_guard lock(s.mutex);
    while (how_many-- > 0 && mine.head) {
      Item* item = mine.head;
      mine.head = item->next;
      --mine.count;
      item->next = s.head;
      s.head = item;
      ++s.count;
    }
  }

  static thread_local Local mine_;
};

template <class T>
thread_local typename FreeList<T>::Local FreeList<T>::mine_{nullptr, 0};

}  // namespace metal_candle::base
