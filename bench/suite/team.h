// Threads for the bare ceilings: they spin while work comes one after the other, and sleep after a few milliseconds
// without any, so that they are out of the way of whoever is measured next.
#pragma once

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

namespace bench {

class Team {
 public:
  explicit Team(int threads) {
    for (int i = 1; i < threads; ++i) workers_.emplace_back([this, i] { work(i); });
  }
  ~Team() {
    {
      std::lock_guard lock(mutex_);
      stop_ = true;
      round_.fetch_add(1);
    }
    wake_.notify_all();
    for (std::thread& w : workers_) w.join();
  }
  Team(const Team&) = delete;
  Team& operator=(const Team&) = delete;

  int size() const { return static_cast<int>(workers_.size()) + 1; }

  /// fn(thread) on each thread; returns when all are done.
  void run(const std::function<void(int)>& fn) {
    fn_ = &fn;
    left_.store(static_cast<int>(workers_.size()), std::memory_order_relaxed);
    {
      std::lock_guard lock(mutex_);
      round_.fetch_add(1, std::memory_order_release);
    }
    if (asleep_.load() > 0) wake_.notify_all();
    fn(0);
    while (left_.load(std::memory_order_acquire) != 0) pause();
  }

 private:
  static void pause() {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#endif
  }

  void work(int thread) {
    for (int seen = 0;;) {
      const auto give_up = std::chrono::steady_clock::now() + std::chrono::milliseconds(3);
      while (round_.load(std::memory_order_acquire) == seen) {
        for (int i = 0; i < 64; ++i) pause();
        if (std::chrono::steady_clock::now() < give_up) continue;
        std::unique_lock lock(mutex_);
        asleep_.fetch_add(1);
        wake_.wait(lock, [&] { return round_.load() != seen; });
        asleep_.fetch_sub(1);
      }
      seen = round_.load(std::memory_order_acquire);
      if (stop_) return;
      (*fn_)(thread);
      left_.fetch_sub(1, std::memory_order_release);
    }
  }

  std::vector<std::thread> workers_;
  std::mutex mutex_;
  std::condition_variable wake_;
  std::atomic<int> round_{0}, left_{0}, asleep_{0};
  bool stop_ = false;
  const std::function<void(int)>* fn_ = nullptr;
};

/// The one that the ceilings share; made at the first call, with so many threads.
Team& team(int threads = 2);

}  // namespace bench
