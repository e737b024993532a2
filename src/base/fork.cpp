#include "base/fork.h"

#include <pthread.h>
#include <unistd.h>

#include <algorithm>
#include <functional>
#include <vector>

#include "metal_candle/error.hpp"

namespace metal_candle::base {
namespace {

// A list that only grows, since a lock here would have to be in the order as well.
struct Entry {
  ForkHooks hooks;
  Entry* next;
};
std::atomic<Entry*> entries{nullptr};

struct Fork {
  std::mutex one_at_a_time;
  std::vector<const ForkHooks*> prepared;
};
Fork& fork_state() {
  static auto* state = new Fork;
  return *state;
}

void before() {
  if (Occupied::here()) return;
  Fork& fork = fork_state();
  fork.one_at_a_time.lock();
  for (const Entry* e = entries.load(std::memory_order_acquire); e != nullptr; e = e->next)
    fork.prepared.push_back(&e->hooks);
  std::stable_sort(fork.prepared.begin(), fork.prepared.end(),
                   [](const ForkHooks* a, const ForkHooks* b) { return a->order < b->order; });
  for (const ForkHooks* hooks : fork.prepared) hooks->before(hooks->self);
}

void after(void (*ForkHooks::*hook)(void*)) {
  if (Occupied::here()) return;
  Fork& fork = fork_state();
  std::for_each(fork.prepared.rbegin(), fork.prepared.rend(),
                [&](const ForkHooks* hooks) { (hooks->*hook)(hooks->self); });
  fork.prepared.clear();
  fork.one_at_a_time.unlock();
}

const int registered = pthread_atfork(
    before, [] { after(&ForkHooks::in_parent); }, [] { after(&ForkHooks::in_child); });

}  // namespace

constinit thread_local bool Occupied::occupied_ = false;

void at_fork(const ForkHooks& hooks) {
  (void)registered;
  auto* entry = new Entry{hooks, entries.load(std::memory_order_relaxed)};
  while (!entries.compare_exchange_weak(entry->next, entry, std::memory_order_release)) {
  }
}

void at_fork(ForkOrder order, std::mutex& mutex) {
  const auto free = [](void* self) { static_cast<std::mutex*>(self)->unlock(); };
  at_fork({order, &mutex, [](void* self) { static_cast<std::mutex*>(self)->lock(); }, free, free});
}

void CallLock::lock() {
  const pid_t here = getpid();
  for (pid_t owner = 0; !owner_.compare_exchange_strong(owner, here); owner = 0) {
    if (owner != here)
      throw UserError(ErrorKind::argument,
                      "another thread was in the midst of a call when this process was forked; make the object anew");
    owner_.wait(owner);
  }
}

void CallLock::unlock() {
  owner_.store(0);
  owner_.notify_one();
}

}  // namespace metal_candle::base
