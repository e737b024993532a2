// The library's threads: one pool a process, and a caller who works along.
//
// Work comes as a list of rounds, each a number of independent tasks; a round starts when all tasks of the one before
// have ended. Nobody waits for all threads to arrive: whoever is awake takes tasks, so a caller whose helpers sleep or
// come late does everything itself. Between jobs the helpers spin for some microseconds, then sleep.
//
// Which thread runs a task is left to chance; results must not depend on it.
#pragma once

#include <cstdint>

namespace metal_candle::base {

/// How many threads work on a job, the caller included. At first the CPUs that this process may run on.
int threads();
/// At least 1. Waits for a running job; not to be called from a task.
void set_threads(int count);

struct Rounds {
  const std::uint32_t* tasks = nullptr;  // per round, each at least 1
  int count = 0;
  void (*run)(void* user, int thread, int round, std::uint32_t task) = nullptr;
  void* user = nullptr;
  /// What a thread does that waits for others to end `round`, over and over, so a little at a time; false: there is
  /// nothing left to do. May be null.
  bool (*idle)(void* user, int round) = nullptr;
};
/// Runs all rounds on at most `most` threads, numbered from 0 (the caller) to most - 1, and returns when the last task
/// has ended. Jobs of several callers take turns; a job started from a task runs on that thread alone. What a task
/// throws is thrown here, after the others have run.
void run_rounds(const Rounds& work, int most);

/// Calls f(task, thread) for all tasks.
template <class F>
void parallel_for(std::uint32_t tasks, int most, F&& f) {
  if (tasks == 0) return;
  const auto run = [](void* user, int thread, int, std::uint32_t task) { (*static_cast<F*>(user))(task, thread); };
  run_rounds({&tasks, 1, run, &f}, most);
}

}  // namespace metal_candle::base
