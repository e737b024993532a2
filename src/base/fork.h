// What `fork` leaves to a child: the library's locks free, what they guard whole, and threads made anew once they are
// wanted. So a fork waits until other threads have ended what they compute or compile.
#pragma once

#include <sys/types.h>

#include <atomic>
#include <mutex>

namespace metal_candle::base {

/// In the order of locking: who holds one of these takes only later ones.
enum class ForkOrder { compiling, queue, device, threads, weights, last };

struct ForkHooks {
  ForkOrder order;
  void* self;
  void (*before)(void* self);
  void (*in_parent)(void* self);
  void (*in_child)(void* self);
};
/// For good: `self` is never destroyed.
void at_fork(const ForkHooks& hooks);
/// A lock that is free in the child.
void at_fork(ForkOrder order, std::mutex& mutex);

/// While one lives, this thread does the library's own work, in which foreign code (a kernel, a decomposition) may fork.
/// That must not wait for the work to end: nothing is done, and the child is good for `exec` alone.
class Occupied {
 public:
  Occupied() : outer_(occupied_) { occupied_ = true; }
  ~Occupied() { occupied_ = outer_; }
  Occupied(const Occupied&) = delete;
  Occupied& operator=(const Occupied&) = delete;
  static bool here() { return occupied_; }

 private:
  static constinit thread_local bool occupied_;
  const bool outer_;
};

/// A lock for calls that last too long for a fork to wait for. In a child, what another thread was calling stays in the
/// midst of it: `lock` throws.
class CallLock {
 public:
  void lock();
  void unlock();

 private:
  std::atomic<pid_t> owner_{0};  // the process of the call
};

}  // namespace metal_candle::base
