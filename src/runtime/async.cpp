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

/// `see` gets the plan and where this graph's steps were recorded.
template <class F>
auto planned(const std::vector<LazyTensor>& roots, F see) {
  ScratchLease s;
  const GraphReader reader;
  s->capture.run(roots);
  const auto entry = plan_of(s->capture);
  std::vector<const std::string*> scopes;
  find_scopes(*entry, s->capture, scopes);
  return see(*entry->plan, scopes);
}

}  // namespace

std::string explain(const std::vector<LazyTensor>& roots) {
  return planned(roots, [](const Plan& plan, const auto& scopes) { return plan.str(scopes); });
}
std::size_t temporary_bytes(const std::vector<LazyTensor>& roots) {
  return planned(roots, [](const Plan& plan, const auto&) { return plan.arena_bytes; });
}

}  // namespace metal_candle
