// Submission: one run of a plan with its buffers and slots.
//
// Buffers are bound when the run starts, not when it is submitted: by then every run before it in the queue has let go
// of what it held, so whether a donated buffer has another owner is a plain look at its reference count. All vectors
// keep their capacity from one use to the next, so a replay allocates nothing.
#pragma once

#include <atomic>
#include <exception>
#include <memory>
#include <string>
#include <vector>

#include "graph/capture.h"
#include "runtime/plan_cache.h"

namespace metal_candle {

struct Submission {
  enum State : int { open, done, failed };

  std::shared_ptr<PlanEntry> entry;
  std::vector<Storage*> leaves;            // kept by `held`, or by `kept`
  std::vector<Storage*> held, outputs;     // a reference to each
  std::vector<std::int64_t> leaf_offsets;  // bytes
  std::vector<std::uint64_t> slots;
  std::shared_ptr<const void> kept;  // what has a reference to leaves that `held` has not
  std::uint64_t constants = 0;       // see Bindings
  std::vector<LazyTensor> donated;   // kept so that a donor's own reference is among those that are counted
  std::vector<Storage*> others;      // roots of the call that other runs compute; a reference to each
  std::vector<int> refused;          // outputs that got fresh memory, as their donor had another owner

  /// Where each step of the plan was recorded.
  std::vector<const std::string*> scopes;

  std::atomic<int> state{open};
  std::exception_ptr error;  // set before `failed`

  // The queue's.
  Submission* next = nullptr;
  std::shared_ptr<Submission> self;   // keeps an asynchronous run alive until it has run
  std::atomic<bool>* gate = nullptr;  // for tests: not a run, but a wait

  Submission() = default;
  ~Submission() { reset(); }
  Submission(const Submission&) = delete;
  Submission& operator=(const Submission&) = delete;

  /// Takes leaves, slots and scopes from a capture, inside its GraphReader.
  void bind(const Capture& capture);
  /// Makes the output storages, without memory yet.
  void make_outputs(bool pending);
  /// Computes; the caller holds the device. Throws what went wrong, after having marked the buffers.
  void run();
  /// run() for the queue: the error goes into `error`. `state` is the queue's to set.
  void run_quietly() noexcept;
  /// Lets go of leaves, outputs and donated handles.
  void let_go() noexcept;
  /// Ready for the next use.
  void reset() noexcept;
  /// Waits; throws what the run or one that computes a root of the same call threw.
  void wait();
  bool is_done() const;
  std::string explain() const;

 private:
  void bind_memory();
  void take_over(std::size_t output, Storage* donor);
  void settle(Storage::State state) noexcept;

  std::vector<void*> leaf_data_, output_data_;
  std::vector<Storage*> taken_;  // donors whose memory outputs have now; `held` has the reference
};

/// The scopes of a plan's steps in a graph of its structure. Inside the capture's GraphReader.
void find_scopes(const PlanEntry& entry, const Capture& capture, std::vector<const std::string*>& scopes);

/// A recycled submission that goes back when the last handle on it is gone.
std::shared_ptr<Submission> new_submission();

}  // namespace metal_candle
