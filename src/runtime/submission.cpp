#include "runtime/submission.h"

#include <fmt/format.h>

#include <algorithm>
#include <mutex>

#include "base/fork.h"
#include "base/free_list.h"
#include "base/in_kernel.h"
#include "base/pool.h"
#include "metal_candle/error.hpp"
#include "runtime/runtime.h"
#include "runtime/trace.h"

namespace metal_candle {
namespace {

void free_to_pool(Storage* s) { base::pool_free(s->data, s->bytes); }

// One error for all tensors that were donated: making one anew would be an allocation in every training step.
const std::exception_ptr& donated_error() {
  static const auto* error = new std::exception_ptr(std::make_exception_ptr(
      UserError(ErrorKind::poisoned, "the tensor was donated to a computation, which has taken over its buffer")));
  return *error;
}

void fail(Storage* s, const std::exception_ptr& error) {
  if (s->state.load(std::memory_order_acquire) == Storage::State::failed) return;
  s->error = error;
  s->state.store(Storage::State::failed, std::memory_order_release);
  s->state.notify_all();
}

void release_all(std::vector<Storage*>& storages) noexcept {
  for (Storage* s : storages)
    if (s) s->release();
  storages.clear();
}

}  // namespace

void find_scopes(const PlanEntry& entry, const Capture& capture, std::vector<const std::string*>& scopes) {
  scopes.clear();
  for (const int node : entry.recorded)
    scopes.push_back(node < 0 ? nullptr : capture.nodes[static_cast<std::size_t>(node)]->scope);
}

void Submission::bind(const Capture& capture) {
  find_scopes(*entry, capture, scopes);
  leaves.assign(capture.storages.begin(), capture.storages.end());
  held = leaves;
  leaf_offsets.clear();
  for (Storage* s : leaves) s->retain();
  for (const Node* n : capture.leaves)
    leaf_offsets.push_back(n->layout ? n->layout->offset * static_cast<std::int64_t>(size_of(n->dtype)) : 0);
  slots.assign(capture.slots.begin(), capture.slots.end());
}

void Submission::make_outputs(bool pending) {
  for (std::size_t i = 0; i < entry->plan->output_bytes.size(); ++i) {
    outputs.push_back(Storage::make_external(nullptr, 0, nullptr));
    if (pending) outputs.back()->state.store(Storage::State::pending, std::memory_order_relaxed);
  }
}

namespace {

bool may_change(const Storage& donor) { return !donor.owner && !donor.frozen && donor.free; }

bool may_take_over(const Storage& donor, std::size_t bytes) {
  // Its node's reference and ours; anything beyond is another tensor or a run that waits to read it.
  const bool sole = donor.refs.load(std::memory_order_acquire) == 2;
  return sole && may_change(donor) && donor.bytes >= bytes;
}

}  // namespace

void Submission::bind_memory() {
  leaf_data_.clear();
  output_data_.clear();
  taken_.clear();
  for (std::size_t i = 0; i < leaves.size(); ++i) {
    Storage* s = leaves[i];
    if (s->state.load(std::memory_order_acquire) == Storage::State::failed) std::rethrow_exception(s->error);
    leaf_data_.push_back(static_cast<char*>(s->data) + leaf_offsets[i]);
  }
  const std::vector<std::size_t>& bytes = entry->plan->output_bytes;
  for (std::size_t i = 0; i < outputs.size(); ++i) {
    Storage* out = outputs[i];
    const auto leaf = static_cast<std::size_t>(entry->donors[i]);
    Storage* donor = entry->donors[i] >= 0 ? leaves[leaf] : nullptr;
    if (donor && leaf_offsets[leaf] == 0 && may_take_over(*donor, bytes[i])) {
      take_over(i, donor);
    } else {
      if (donor) refused.push_back(static_cast<int>(i));
      out->data = base::pool_allocate(bytes[i]);
      out->bytes = bytes[i];
      out->free = free_to_pool;
    }
    output_data_.push_back(out->data);
  }
}

void Submission::take_over(std::size_t output, Storage* donor) {
  Storage* out = outputs[output];
  out->data = donor->data;
  out->bytes = donor->bytes;
  out->free = std::exchange(donor->free, nullptr);
  taken_.push_back(donor);
}

void Submission::settle(Storage::State state) noexcept {
  for (Storage* s : taken_) fail(s, error ? error : donated_error());
  taken_.clear();
  if (error) {
    for (const LazyTensor& d : donated) {
      Storage* s = d.node()->storage.load(std::memory_order_acquire);
      // What other tensors still look at, and what is never written, was not touched; it stays good.
      if (s && may_change(*s) && s->refs.load(std::memory_order_acquire) <= 2) fail(s, error);
    }
  }
  for (Storage* s : outputs) {
    if (s->state.load(std::memory_order_relaxed) != Storage::State::pending) continue;
    if (error) s->error = error;
    s->state.store(state, std::memory_order_release);
    s->state.notify_all();
  }
}

void Submission::run() {
  try {
    bind_memory();
    const Bindings bindings{leaves, leaf_data_, output_data_, slots, constants, scopes};
    if (tracing()) [[unlikely]]
      run_traced(*entry, bindings);
    else entry->executable->run(bindings, nullptr);
  } catch (...) {
    error = std::current_exception();
    settle(Storage::State::failed);
    throw;
  }
  settle(Storage::State::ready);
}

void Submission::run_quietly() noexcept {
  try {
    run();
  } catch (...) {  // kept in `error`
  }
}

void Submission::let_go() noexcept {
  leaves.clear();
  release_all(held);
  release_all(outputs);
  donated.clear();
}

void Submission::reset() noexcept {
  let_go();
  release_all(others);
  entry.reset();
  kept.reset();
  constants = 0;
  refused.clear();
  error = nullptr;
  next = nullptr;
  gate = nullptr;
  state.store(open, std::memory_order_relaxed);
}

void Submission::wait() {
  for (int s = state.load(std::memory_order_acquire); s == open; s = state.load(std::memory_order_acquire)) {
    base::InKernel::refuse("wait");
    state.wait(open, std::memory_order_acquire);
  }
  if (state.load(std::memory_order_acquire) == failed) std::rethrow_exception(error);
  for (Storage* s : others) s->wait();
}

bool Submission::is_done() const {
  if (state.load(std::memory_order_acquire) == open) return false;
  return std::none_of(others.begin(), others.end(), [](const Storage* s) {
    return s->state.load(std::memory_order_acquire) == Storage::State::pending;
  });
}

std::string Submission::explain() const {
  if (!entry) return "nothing to compute: every root had been evaluated\n";
  std::string text = entry->plan->str(scopes);
  if (state.load(std::memory_order_acquire) == open) return text;
  for (const int i : refused)
    text += fmt::format("copy: leaf {} was donated to output {}, but has another owner or begins inside its buffer\n",
                        entry->donors[static_cast<std::size_t>(i)], i);
  return text;
}

// ---- recycling ------------------------------------------------------------------------------------------------------

namespace {

struct SpareSubmissions {
  SpareSubmissions() { base::at_fork(base::ForkOrder::last, mutex); }
  std::mutex mutex;
  std::vector<Submission*> free;
};
SpareSubmissions& spare_submissions() {
  static SpareSubmissions* s = new SpareSubmissions;
  return *s;
}

void recycle(Submission* s) {
  s->reset();
  SpareSubmissions& pool = spare_submissions();
  std::lock_guard lock(pool.mutex);
  pool.free.push_back(s);
}

// The reference counts of shared_ptr come from a free list as well.
template <class T>
struct FreeListAllocator {
  using value_type = T;
  FreeListAllocator() = default;
  template <class U>
  FreeListAllocator(const FreeListAllocator<U>&) {}  // NOLINT: allocators convert
  T* allocate(std::size_t) { return static_cast<T*>(base::FreeList<T>::get()); }
  void deallocate(T* p, std::size_t) { base::FreeList<T>::put(p); }
  template <class U>
  bool operator==(const FreeListAllocator<U>&) const {
    return true;
  }
};

}  // namespace

std::shared_ptr<Submission> new_submission() {
  Submission* s = nullptr;
  {
    SpareSubmissions& pool = spare_submissions();
    std::lock_guard lock(pool.mutex);
    if (!pool.free.empty()) {
      s = pool.free.back();
      pool.free.pop_back();
    }
  }
  if (!s) s = new Submission;
  return {s, recycle, FreeListAllocator<Submission>{}};
}

}  // namespace metal_candle
