// The device's queue: one ordered line of submissions.
//
// An idle device is used where the caller stands: handing a small computation to another thread costs ten times its
// work. Otherwise submissions wait in order for the queue's own thread, which starts when it is first needed. What is
// pending anywhere has therefore been enqueued, and an idle queue means that every buffer is computed.
#pragma once

#include <atomic>
#include <condition_variable>
#include <memory>
#include <mutex>
#include <thread>

#include "runtime/submission.h"

namespace metal_candle {

class Queue {
 public:
  Queue();
  /// Computes and returns; throws what the computation threw.
  void run_now(Submission& submission);
  /// Adds to the end. Waits while the queue is full.
  void enqueue(const std::shared_ptr<Submission>& submission);
  /// Waits until everything submitted so far has run.
  void drain();
  void set_depth(int depth);
  /// Calls f while nothing is computed.
  template <class F>
  void exclusively(F f) {
    std::lock_guard device(device_);
    f();
  }
  /// Finishes what is queued and ends the thread; later submissions run where the caller stands.
  void stop();

 private:
  friend class GateForTest;
  void append(Submission* submission);
  void start_thread();
  void work();
  void serve(Submission* submission);
  void before_fork();
  void after_fork();
  void start_anew();

  std::mutex device_;                   // held by whoever computes
  std::atomic<int> unfinished_{0};      // enqueued, and not yet computed
  std::atomic<std::uint32_t> open_{0};  // enqueued, and completion not yet announced
  std::atomic<std::uint32_t> depth_{64};

  std::mutex mutex_;  // of what follows
  std::condition_variable arrived_;
  Submission *first_ = nullptr, *last_ = nullptr;
  bool stopping_ = false;
  bool serving_ = false;  // the thread is at a submission that is not in the line any more
  bool forking_ = false;  // and is not to take another one
  std::thread thread_;
};

/// For tests: while it lives, nothing behind it in the queue runs.
class GateForTest {
 public:
  GateForTest();
  ~GateForTest() { open(); }
  GateForTest(const GateForTest&) = delete;
  GateForTest& operator=(const GateForTest&) = delete;
  void open();

 private:
  std::atomic<bool> shut_{true};
  std::shared_ptr<Submission> submission_;
};

}  // namespace metal_candle
