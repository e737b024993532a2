// Settings and figures: thin covers over whoever keeps them.
#include <algorithm>
#include <cstdio>

#include "base/in_kernel.h"
#include "base/pool.h"
#include "base/thread_pool.h"
#include "metal_candle/error.hpp"
#include "metal_candle/runtime.hpp"
#include "runtime/runtime.h"

#include <thread>

namespace metal_candle {

void set_threads(int count) {
  if (count < 0) throw UserError(ErrorKind::argument, "set_threads: a negative number of threads");
  static const int usable = base::threads();  // the pool starts with what the process may use
  base::set_threads(count == 0 ? usable : count);
}
int threads() { return base::threads(); }

void set_memory_limit(std::size_t bytes) { base::pool_set_limit(bytes); }
void set_queue_depth(int count) {
  if (count < 1) throw UserError(ErrorKind::argument, "set_queue_depth: less than one computation");
  runtime().queue.set_depth(count);
}
void set_plan_cache_size(int count) {
  if (count < 0) throw UserError(ErrorKind::argument, "set_plan_cache_size: a negative number of plans");
  runtime().plans.set_size(static_cast<std::size_t>(count));
}
void clear_plan_cache() { runtime().plans.clear(); }

void trim_memory() {
  base::InKernel::refuse("trim_memory");
  Runtime& r = runtime();
  r.queue.exclusively([&] { r.backend->release_memory(); });
  base::pool_trim();
}

void set_log(std::function<void(const std::string&)> log) {
  Runtime& r = runtime();
  std::lock_guard lock(r.log_mutex);
  r.log = std::move(log);
}

Counters counters() {
  Runtime& r = runtime();
  return {.evaluations = r.evaluations.load(std::memory_order_relaxed),
          .plans_compiled = r.compiled.load(std::memory_order_relaxed),
          .replays = r.replays.load(std::memory_order_relaxed),
          .plans_evicted = r.plans.evicted(),
          .memory_requests = base::pool_stats().system_calls};
}

MemoryFigures memory() {
  const base::PoolStats pool = base::pool_stats();
  return {.live = pool.live, .arena = runtime().backend->arena_bytes(), .pool = pool.cached, .peak = pool.peak};
}
void reset_peak_memory() { base::pool_reset_peak(); }

// Not getrusage's figure: it goes on from that of the process that started this one.
ResidentMemory resident_memory() {
  ResidentMemory kib;
  if (std::FILE* file = std::fopen("/proc/self/status", "r")) {
    char line[256];
    while (std::fgets(line, sizeof line, file)) {
      std::sscanf(line, "VmRSS: %zu kB", &kib.now);
      std::sscanf(line, "VmHWM: %zu kB", &kib.peak);
    }
    std::fclose(file);
  }
  if (kib.now > 0 && kib.peak > 0) return {kib.now << 10, kib.peak << 10};
  const MemoryFigures known = memory();
  return {known.live + known.pool, std::max(known.peak, known.live + known.pool)};
}

}  // namespace metal_candle
