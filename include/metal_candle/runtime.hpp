// Evaluation: now, or under way.
//
//   mc::eval({loss, grads[0]});                                   // computes several roots in one plan, and waits
//   auto run = mc::eval_async({.roots = {loss, p2}, .donate = {p}});
//   p = p2;                                                       // usable as an input while in flight
//   std::cout << run.get<float>(loss) << run.explain();           // waits; errors surface here
//
// A structure seen before is replayed: no compilation, no allocation. Everything here may be called from any thread.
#pragma once

#include <cstdint>
#include <functional>
#include <future>
#include <memory>
#include <string>
#include <vector>

#include "metal_candle/param_tree.hpp"
#include "metal_candle/tensor.hpp"

namespace metal_candle {

/// Computes the roots together and waits. Afterwards each is a leaf. Throws what the computation threw.
void eval(const std::vector<LazyTensor>& roots);

struct EvalOptions {
  std::vector<LazyTensor> roots;
  /// Evaluated tensors whose buffers results may take over. A buffer that anybody else still uses is copied first
  /// (explain says so); do not use a donated tensor afterwards.
  std::vector<LazyTensor> donate = {};
};

/// Computes the roots together, in this thread where the device is free, and waits: what steps that need the results at
/// once want, as nobody has to be woken. Otherwise as eval_async.
void eval_now(EvalOptions options);

struct Submission;

/// A computation under way. Copies refer to the same one; dropping it does not cancel it.
class AsyncRun {
 public:
  AsyncRun() = default;
  explicit AsyncRun(std::shared_ptr<Submission> submission) : submission_(std::move(submission)) {}
  /// Waits; throws what the computation threw, at every call.
  void wait() const;
  bool done() const;
  /// Waits for the whole run, then reads a 0-d result.
  template <class T>
  T get(const LazyTensor& root) const {
    wait();
    return Tensor(root).item<T>();
  }
  /// The plan, readable: steps, fused kernels, memory, copies forced by donations.
  std::string explain() const;

 private:
  std::shared_ptr<Submission> submission_;
};

/// Plans in the caller if the structure is new, submits, and returns. Waits only when the queue is full.
AsyncRun eval_async(EvalOptions options);

/// A result that may still be in flight, under the old crate's name.
class AsyncTensor {
 public:
  AsyncTensor(LazyTensor tensor, AsyncRun run) : tensor_(std::move(tensor)), run_(std::move(run)) {}
  bool is_ready() const { return run_.done(); }
  /// Waits and throws what the computation threw.
  Tensor wait() const {
    run_.wait();
    return Tensor(tensor_);
  }
  /// Usable as an input before it is ready.
  const LazyTensor& tensor() const { return tensor_; }

 private:
  LazyTensor tensor_;
  AsyncRun run_;
};

/// Submits computations one at a time, under the old crate's name; a thin look at the device's queue.
class AsyncGraphExecutor {
 public:
  AsyncTensor submit(const LazyTensor& root);
  /// Waits for everything submitted so far by anybody.
  void synchronize();
};

/// Waits until the device's queue is empty.
void synchronize();

/// While it lives, operations recorded on this thread are evaluated one by one, as they are recorded.
class EagerMode {
 public:
  EagerMode();
  ~EagerMode();
  EagerMode(const EagerMode&) = delete;
  EagerMode& operator=(const EagerMode&) = delete;

 private:
  void* outer_;
};

/// While it lives, the named compiler passes are off on this thread; no names: all of them.
class PassesOff {
 public:
  explicit PassesOff(const std::vector<std::string>& names = {});
  ~PassesOff();
  PassesOff(const PassesOff&) = delete;
  PassesOff& operator=(const PassesOff&) = delete;

 private:
  std::uint64_t outer_;
};
std::vector<std::string> compiler_passes();

/// What the plan of these roots looks like, without computing anything. A line a step: its phase, the ops fused in it,
/// its rows and the columns of each stage (of a product its rows, columns and inner extent), what it reads and writes
/// (leaves, temporaries t0.., outputs; `over`: in the other's place), and the scope of one of its ops.
std::string explain(const std::vector<LazyTensor>& roots);
/// What evaluating them takes for temporaries, in bytes; nothing is computed.
std::size_t temporary_bytes(const std::vector<LazyTensor>& roots);
/// What running these, one after the other, would take beyond what the process has, in bytes; nothing is computed.
struct MemoryNeeds {
  std::size_t temporaries = 0;  // of the largest, with the threads' scratch
  std::size_t packed = 0;       // weights in the form that products read
  std::size_t results = 0;      // that take over no donated buffer
  std::size_t unread = 0;       // of the inputs: what lies in files, and comes when it is read
};
MemoryNeeds memory_needs(const std::vector<EvalOptions>& runs);

// ---- settings ------------------------------------------------------------------------------------------------------

/// Threads that compute, the evaluating one included (at most 4,096). 0: as many as the process may use. Results do not
/// depend on it.
void set_threads(int count);
int threads();
/// Bytes that tensors, temporaries and caches may take together; 0: no limit. Beyond it OutOfMemory is thrown.
void set_memory_limit(std::size_t bytes);
/// Computations in flight before `eval_async` waits (default 64, at least 1).
void set_queue_depth(int count);
/// Plans kept (default 512; 0: none); the one unused for longest goes first.
void set_plan_cache_size(int count);
void clear_plan_cache();
/// Returns cached memory (pool, arena, scratch) to the system.
void trim_memory();
/// Called with library messages (for now: warnings of repeated plan misses). Default: standard error.
void set_log(std::function<void(const std::string&)> log);

// ---- looking inside --------------------------------------------------------------------------------------------------

struct Counters {
  std::uint64_t evaluations = 0;  // plans run
  std::uint64_t plans_compiled = 0;
  std::uint64_t replays = 0;  // runs of a plan that was there
  std::uint64_t plans_evicted = 0;
  std::uint64_t memory_requests = 0;  // times that memory was asked from the system
};
Counters counters();

struct MemoryFigures {
  std::size_t live = 0;   // tensors, temporaries and packed weights
  std::size_t arena = 0;  // of which temporaries
  std::size_t pool = 0;   // kept for reuse
  std::size_t peak = 0;   // largest `live` since `reset_peak_memory`
};
MemoryFigures memory();
void reset_peak_memory();

struct ResidentMemory {
  std::size_t now = 0, peak = 0;
};
/// What the process has in memory and had at most, mapped files and all (Linux: VmRSS, VmHWM); where the system does not
/// say, what the library knows of.
ResidentMemory resident_memory();

/// Records what runs when, while it lives, for all threads of the process.
class Trace {
 public:
  Trace();
  ~Trace();
  Trace(const Trace&) = delete;
  Trace& operator=(const Trace&) = delete;
  /// Chrome / Perfetto JSON; open in ui.perfetto.dev.
  std::string json() const;
  /// Writes it, by way of a temporary file.
  void save(const std::string& path) const;
  struct Event {
    std::string name, scope;
    int thread = 0;
    std::int64_t begin_ns = 0, end_ns = 0;
    double bytes = 0, flops = 0;
  };
  std::vector<Event> events() const;
  /// One line a kernel: count, time, bytes, GB/s and its fraction of `ceiling_gbs` (measured here when 0).
  std::string profile(double ceiling_gbs = 0) const;

 private:
  std::shared_ptr<void> data_;
};

/// Evaluates the roots op by op and says where the first NaN or infinity arises that no input had: op, scope, node;
/// empty when there is none. What was evaluated before, eagerly too, is an input: ask about what is recorded anew.
std::string find_nan(const std::vector<LazyTensor>& roots);

}  // namespace metal_candle
