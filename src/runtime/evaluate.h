// The way from handles to results: capture, look up or compile, run, publish.
#pragma once

#include <memory>
#include <span>
#include <vector>

#include "graph/capture.h"
#include "metal_candle/runtime.hpp"
#include "runtime/miss_watch.h"
#include "runtime/submission.h"

namespace metal_candle {

/// lazy: nodes with results let their inputs go. eager: they keep them, for `grad`. probe: like lazy, on behalf of a
/// tool, so nobody is warned of repeated compilations.
enum class Mode { lazy, eager, probe };

/// Computes the roots and waits.
void evaluate(std::span<const LazyTensor> roots, Mode mode);
/// Submits; null when there was nothing to compute and nothing to wait for.
std::shared_ptr<Submission> evaluate_async(EvalOptions options);

/// The same in this thread, if the device is free; waits.
void evaluate_now(EvalOptions options);

/// The plan of a capture, from the cache or compiled now; `watch` is told which. Call it inside the capture's
/// GraphReader.
std::shared_ptr<PlanEntry> plan_of(const Capture& capture, MissWatch* watch = nullptr);

/// For each root a reference to the buffer that it looks at, into `results`, and where that begins. Taken before the run
/// is queued, so that no later look at a count can miss it.
struct Scratch;
void hold_results(Scratch& s, const Submission& submission);
void count_run(PlanEntry& entry);

/// While it lives, what this thread records is not evaluated as it is recorded.
class HookPause {
 public:
  HookPause();
  ~HookPause();
  HookPause(const HookPause&) = delete;
  HookPause& operator=(const HookPause&) = delete;

 private:
  void (*outer_)(const LazyTensor&);
};

}  // namespace metal_candle
