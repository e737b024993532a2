// What a thread needs to evaluate, kept from one evaluation to the next.
#pragma once

#include <vector>

#include "graph/capture.h"
#include "runtime/miss_watch.h"
#include "runtime/submission.h"

namespace metal_candle {

struct Scratch {
  Capture capture;
  Submission submission;            // of evaluations that wait
  std::vector<LazyTensor> wanted;   // the roots to compute, where not all are
  std::vector<Storage*> results;    // per root; a reference each, until published
  std::vector<std::int64_t> bases;  // per root: where its buffer begins in that storage, in elements
  std::vector<Node*> gone;          // inputs that nodes have let go
  MissWatch misses;
};

/// This thread's scratch, for as long as the lease lives. An evaluation inside another gets one of its own.
class ScratchLease {
 public:
  ScratchLease();
  ~ScratchLease();
  ScratchLease(const ScratchLease&) = delete;
  ScratchLease& operator=(const ScratchLease&) = delete;
  Scratch* operator->() const { return scratch_; }
  Scratch& operator*() const { return *scratch_; }

 private:
  Scratch* scratch_;
};

}  // namespace metal_candle
