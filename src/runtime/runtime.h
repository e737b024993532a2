// Runtime: the one place where compiler and backends meet. One per process, never destroyed: tensors with static
// lifetime may outlive any destructor of ours.
#pragma once

#include <atomic>
#include <functional>
#include <memory>
#include <mutex>
#include <string>

#include "backend/backend.h"
#include "runtime/plan_cache.h"
#include "runtime/queue.h"

namespace metal_candle {

struct Runtime {
  std::unique_ptr<Backend> backend;
  PlanCache plans;
  Queue queue;
  std::mutex compiling;  // one at a time: two threads that meet the same new structure compile it once
  std::atomic<std::uint64_t> evaluations{0}, compiled{0}, replays{0};

  std::mutex log_mutex;
  std::function<void(const std::string&)> log;  // none: standard error

  Runtime();
  void say(const std::string& message);
};

Runtime& runtime();

/// The passes that are on for this thread.
PassMask passes_on();

}  // namespace metal_candle
