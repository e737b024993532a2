#include <memory>
#include <set>
#include <utility>
#include <vector>

#include "base/pages.h"
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

MemoryNeeds memory_needs(const std::vector<EvalOptions>& runs) {
  MemoryNeeds out;
  std::vector<std::shared_ptr<Submission>> submissions;
  std::vector<std::vector<void*>> data(runs.size());
  std::vector<std::pair<const Executable*, Bindings>> bound;
  std::set<const Storage*> seen;
  for (std::size_t i = 0; i < runs.size(); ++i) {
    Submission& submission = *submissions.emplace_back(new_submission());
    {
      ScratchLease s;
      const GraphReader reader;
      s->capture.run(runs[i].roots, runs[i].donate);
      submission.entry = plan_of(s->capture);
      submission.bind(s->capture);
    }
    for (std::size_t k = 0; k < submission.leaves.size(); ++k) {
      Storage& leaf = *submission.leaves[k];
      leaf.wait();
      if (seen.insert(&leaf).second) out.unread += base::absent_bytes(leaf.data, leaf.bytes);
      data[i].push_back(static_cast<char*>(leaf.data) + submission.leaf_offsets[k]);
    }
    const PlanEntry& entry = *submission.entry;
    for (std::size_t k = 0; k < entry.donors.size(); ++k)
      if (entry.donors[k] < 0) out.results += entry.plan->output_bytes[k];
    bound.push_back({entry.executable.get(), {submission.leaves, data[i], {}, submission.slots}});
  }
  runtime().queue.exclusively([&] {
    const Backend::Needs needs = runtime().backend->needs(bound);
    out.temporaries = needs.temporaries;
    out.packed = needs.packed;
  });
  return out;
}

}  // namespace metal_candle
