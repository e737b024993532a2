#include "graph/epoch.h"
#include "runtime/evaluate.h"
#include "runtime/runtime.h"
#include "runtime/scratch.h"

namespace metal_candle {

AsyncRun eval_async(EvalOptions options) { return AsyncRun(evaluate_async(std::move(options))); }

void AsyncRun::wait() const {
  if (submission_) submission_->wait();
}
bool AsyncRun::done() const { return !submission_ || submission_->is_done(); }
std::string AsyncRun::explain() const { return submission_ ? submission_->explain() : std::string(); }

AsyncTensor AsyncGraphExecutor::submit(const LazyTensor& root) {
  AsyncRun run = eval_async({.roots = {root}});
  return {root, std::move(run)};
}
void AsyncGraphExecutor::synchronize() { metal_candle::synchronize(); }

void synchronize() { runtime().queue.drain(); }

namespace {

std::shared_ptr<const PlanEntry> planned(const std::vector<LazyTensor>& roots) {
  ScratchLease s;
  const GraphReader reader;
  s->capture.run(roots);
  return plan_of(s->capture);
}

}  // namespace

std::string explain(const std::vector<LazyTensor>& roots) { return planned(roots)->plan->str(); }
std::size_t temporary_bytes(const std::vector<LazyTensor>& roots) { return planned(roots)->plan->arena_bytes; }

}  // namespace metal_candle
