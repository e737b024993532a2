// What the runtime asks of a device. A backend gets whole plans, never single kernels.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <utility>

#include "compiler/compile.h"
#include "graph/node.h"

namespace metal_candle {

/// What changes from one replay to the next. Everything stays valid until `run` has returned.
struct Bindings {
  std::span<Storage* const> leaves;      // for packed forms of constants
  std::span<void* const> leaf_data;      // first element of each leaf (layout offsets applied)
  std::span<void* const> output_data;    // per entry of Plan::output_bytes
  std::span<const std::uint64_t> slots;  // 8 bytes each: f64 or i64 bits
  std::uint64_t constants = 0;           // if not 0: frozen leaves are the same in all runs with this number

  /// Where each step's ops were recorded; empty: as the plan has it.
  std::span<const std::string* const> scopes = {};
  const std::string* scope(const Plan& plan, std::size_t step) const {
    return scopes.empty() ? plan.steps[step].scope : scopes[step];
  }
};

/// One timed piece of a step, for traces and profiles.
struct TaskTime {
  int step;
  int thread;
  std::int64_t begin_ns, end_ns;  // steady clock
};

/// A lowered plan. Immutable; runs of one executable may not overlap (the queue sees to that).
class Executable {
 public:
  virtual ~Executable() = default;
  /// Computes everything. Throws UserError for what only the data shows (an index out of range), OutOfMemory when the
  /// arena cannot be had. With `times`, appends what ran when.
  virtual void run(const Bindings& bindings, std::vector<TaskTime>* times = nullptr) = 0;
  /// Small enough that waking other threads or handing over to the queue would cost more than it saves.
  virtual bool tiny() const = 0;
};

class Backend {
 public:
  virtual ~Backend() = default;
  virtual const Caps& caps() const = 0;
  virtual std::unique_ptr<Executable> lower(std::shared_ptr<const Plan> plan) = 0;
  /// What runs would take beyond what is there: temporaries with the threads' scratch, and constants in the form that
  /// products read. Only `leaves` and `leaf_data` of the bindings are looked at; nothing may run meanwhile.
  struct Needs {
    std::size_t temporaries = 0, packed = 0;
  };
  virtual Needs needs(std::span<const std::pair<const Executable*, Bindings>> runs) const = 0;
  virtual std::size_t arena_bytes() const = 0;  // the arena shared by all plans, as large as the largest needed
  virtual void release_memory() = 0;            // gives the arena and scratch back
};

/// The CPU. `threads` counts the caller.
std::unique_ptr<Backend> make_cpu_backend();

}  // namespace metal_candle
