#include "runtime/queue.h"

#include <cstdlib>
#include <memory>

#include "base/fork.h"
#include "base/in_kernel.h"
#include "runtime/runtime.h"

namespace metal_candle {

Queue::Queue() {
  base::at_fork({base::ForkOrder::queue, this, [](void* q) { static_cast<Queue*>(q)->before_fork(); },
                 [](void* q) { static_cast<Queue*>(q)->after_fork(); },
                 [](void* q) { static_cast<Queue*>(q)->start_anew(); }});
  base::at_fork(base::ForkOrder::device, device_);
}

void Queue::run_now(Submission& submission) {
  base::InKernel::refuse("eval");
  if (unfinished_.load(std::memory_order_acquire) == 0) {
    std::lock_guard device(device_);
    // Looked at again: an input may have become pending while we waited for the device.
    if (unfinished_.load(std::memory_order_acquire) == 0) {
      const base::Occupied by_kernels;
      submission.run();
      return;
    }
  }
  append(&submission);
  submission.wait();
}

void Queue::enqueue(const std::shared_ptr<Submission>& submission) {
  base::InKernel::refuse("eval_async");
  for (auto n = open_.load(std::memory_order_acquire); n >= depth_.load(std::memory_order_relaxed);
       n = open_.load(std::memory_order_acquire))
    open_.wait(n, std::memory_order_acquire);
  submission->self = submission;
  append(submission.get());
}

void Queue::append(Submission* submission) {
  submission->next = nullptr;
  std::unique_lock lock(mutex_);
  unfinished_.fetch_add(1, std::memory_order_acq_rel);
  open_.fetch_add(1, std::memory_order_acq_rel);
  if (stopping_) {
    lock.unlock();
    serve(submission);
    return;
  }
  if (last_) last_->next = submission;
  else first_ = submission;
  last_ = submission;
  if (!thread_.joinable()) start_thread();
  lock.unlock();
  arrived_.notify_one();
}

void Queue::start_thread() {
  thread_ = std::thread([this] { work(); });
  // Static destructors run after this, tensors among them: they need no queue, and an evaluation there runs in place.
  static const int once = std::atexit([] { runtime().queue.stop(); });
  (void)once;
}

void Queue::work() {
  const base::Occupied by_kernels;
  std::unique_lock lock(mutex_);
  for (;;) {
    arrived_.wait(lock, [this] { return (first_ || stopping_) && !forking_; });
    if (!first_) return;
    Submission* s = first_;
    if (s->gate && s->gate->load(std::memory_order_acquire)) {  // it stays in the line
      lock.unlock();
      s->gate->wait(true, std::memory_order_acquire);
      lock.lock();
      continue;
    }
    first_ = s->next;
    if (!first_) last_ = nullptr;
    serving_ = true;
    lock.unlock();
    serve(s);
    lock.lock();
    serving_ = false;
    if (forking_) arrived_.notify_all();
  }
}

void Queue::serve(Submission* s) {
  if (!s->gate) {
    std::lock_guard device(device_);
    s->run_quietly();
    s->let_go();
  }
  const std::shared_ptr<Submission> keep = std::move(s->self);
  unfinished_.fetch_sub(1, std::memory_order_acq_rel);
  s->state.store(s->error ? Submission::failed : Submission::done, std::memory_order_release);
  s->state.notify_all();  // a waiting caller may reuse a submission of its own from here on
  open_.fetch_sub(1, std::memory_order_acq_rel);
  open_.notify_all();
}

/// Between two submissions: what waits in the line is there in the child, too.
void Queue::before_fork() {
  std::unique_lock lock(mutex_);
  forking_ = true;
  arrived_.wait(lock, [this] { return !serving_; });
  (void)lock.release();
}

void Queue::after_fork() {
  forking_ = false;
  mutex_.unlock();
  arrived_.notify_all();
}

/// In the child: the thread is gone and cannot be joined, and those who waited for `arrived_` would be counted for ever.
void Queue::start_anew() {
  std::construct_at(&thread_);
  std::construct_at(&arrived_);
  if (first_) start_thread();
  after_fork();
}

void Queue::drain() {
  base::InKernel::refuse("synchronize");
  for (auto n = open_.load(std::memory_order_acquire); n != 0; n = open_.load(std::memory_order_acquire))
    open_.wait(n, std::memory_order_acquire);
}

void Queue::set_depth(int depth) { depth_.store(static_cast<std::uint32_t>(depth < 1 ? 1 : depth)); }

void Queue::stop() {
  std::thread ended;
  {
    std::lock_guard lock(mutex_);
    stopping_ = true;
    ended.swap(thread_);
  }
  arrived_.notify_one();
  if (ended.joinable()) ended.join();
}

GateForTest::GateForTest() : submission_(new_submission()) {
  submission_->gate = &shut_;
  runtime().queue.enqueue(submission_);
}

void GateForTest::open() {
  shut_.store(false, std::memory_order_release);
  shut_.notify_all();
  submission_->wait();
}

}  // namespace metal_candle
