#include "runtime/scratch.h"

#include <mutex>
#include <utility>

#include "base/fork.h"

namespace metal_candle {
namespace {

struct SpareScratch {
  SpareScratch() { base::at_fork(base::ForkOrder::last, mutex); }
  std::mutex mutex;
  std::vector<Scratch*> free;

  void put(Scratch* s) {
    std::lock_guard lock(mutex);
    free.push_back(s);
  }
  Scratch* get() {
    std::lock_guard lock(mutex);
    if (free.empty()) return new Scratch;
    Scratch* s = free.back();
    free.pop_back();
    return s;
  }
};
// Never destroyed, and the pointer below is trivial: destructors of statics may evaluate, after those of this thread.
SpareScratch& spare_scratch() {
  static auto* s = new SpareScratch;
  return *s;
}

thread_local Scratch* mine = nullptr;
struct Return {  // hands it over when the thread ends
  ~Return() {
    if (Scratch* s = std::exchange(mine, nullptr)) spare_scratch().put(s);
  }
};

}  // namespace

ScratchLease::ScratchLease() : scratch_(std::exchange(mine, nullptr)) {
  if (scratch_) [[likely]]
    return;
  static thread_local Return at_end;
  (void)at_end;
  scratch_ = spare_scratch().get();
}

ScratchLease::~ScratchLease() {
  scratch_->submission.reset();
  scratch_->wanted.clear();
  for (Storage* s : scratch_->results)
    if (s) s->release();
  scratch_->results.clear();
  scratch_->bases.clear();
  if (mine) spare_scratch().put(scratch_);
  else mine = scratch_;
}

}  // namespace metal_candle
