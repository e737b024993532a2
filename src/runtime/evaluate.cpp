#include "runtime/evaluate.h"

#include <algorithm>
#include <functional>
#include <thread>

#include "base/fork.h"
#include "graph/epoch.h"
#include "graph/record.h"
#include "metal_candle/error.hpp"
#include "runtime/runtime.h"
#include "runtime/scratch.h"

namespace metal_candle {

HookPause::HookPause() : outer_(exchange_record_hook(nullptr)) {}
HookPause::~HookPause() { exchange_record_hook(outer_); }

namespace {

void check_defined(std::span<const LazyTensor> tensors) {
  for (const LazyTensor& t : tensors)
    if (!t.defined()) throw UserError(ErrorKind::argument, "eval: an empty tensor handle was given");
}

bool any_evaluated(std::span<const LazyTensor> roots) {
  return std::any_of(roots.begin(), roots.end(), [](const LazyTensor& t) { return t.node()->evaluated(); });
}

// ---- plans ----------------------------------------------------------------------------------------------------------

/// Which output may be written over which donated leaf. A leaf that a root still looks at is not among them.
std::vector<int> donors_of(const Plan& plan) {
  std::vector<int> donors = plan.output_donor;
  donors.resize(plan.output_bytes.size(), -1);
  for (const PlanOutput& out : plan.outputs) {
    const PlanBuffer& buffer = plan.buffers[static_cast<std::size_t>(out.buffer)];
    if (buffer.where != PlanBuffer::Where::leaf) continue;
    for (int& d : donors)
      if (d == buffer.index) d = -1;
  }
  return donors;
}

/// Compiles, and finds out which captured node each step has its scope from: a replay of the plan is of other nodes.
/// For that every node gets a scope of its own meanwhile.
Plan compile_traceably(const Capture& capture, PassMask passes, std::vector<int>& recorded) {
  std::vector<std::string> stand_ins;
  for (const Node* n : capture.nodes) stand_ins.push_back(n->scope ? *n->scope : std::string());
  Plan plan = compile(capture.graph(stand_ins.data()), runtime().backend->caps(), passes);
  const std::string* const first = stand_ins.data();
  const std::less<> before;
  for (PlanStep& step : plan.steps) {
    const bool stands_in = step.scope && !before(step.scope, first) && before(step.scope, first + stand_ins.size());
    recorded.push_back(stands_in ? static_cast<int>(step.scope - first) : -1);
    if (stands_in) step.scope = capture.nodes[static_cast<std::size_t>(recorded.back())]->scope;
  }
  return plan;
}

std::shared_ptr<PlanEntry> compile_entry(const Capture& capture, const PlanKey& key) {
  Runtime& r = runtime();
  const HookPause recording_is_plain;
  auto entry = std::make_shared<PlanEntry>();
  entry->words.assign(key.words.begin(), key.words.end());
  entry->hash = key.hash;
  entry->passes = key.passes;
  entry->plan = std::make_shared<const Plan>(compile_traceably(capture, key.passes, entry->recorded));
  entry->donors = donors_of(*entry->plan);
  entry->executable = r.backend->lower(entry->plan);
  r.compiled.fetch_add(1, std::memory_order_relaxed);
  return entry;
}

// ---- results --------------------------------------------------------------------------------------------------------

/// Takes the node's inputs out of it; they are released when no reader of the graph can still see them.
void take_inputs(Node* node, std::vector<Node*>& gone) {
  for (int i = 0; i < node->input_count; ++i)
    if (Node* in = node->input(i).exchange(nullptr, std::memory_order_acq_rel)) gone.push_back(in);
}

void retire_all(std::vector<Node*>& gone) {
  retire(gone);
  gone.clear();
}

/// Makes `node` a leaf over `storage` (takes the reference), unless another evaluation got there first.
/// `base` is where the buffer that `out` looks at begins in its storage, in elements.
void publish(Node* node, Storage* storage, const PlanOutput& out, std::int64_t base, std::vector<Node*>* gone) {
  if (node->evaluated() || node->claimed.exchange(true, std::memory_order_acq_rel)) {
    storage->release();
    // The other one is between two lines of this function; its result is the node's.
    while (!node->evaluated()) std::this_thread::yield();
    return;
  }
  const std::int64_t offset = base + out.offset;
  if (!out.dense || offset != 0) node->layout = Layout::make(out.strides, offset);
  node->storage.store(storage, std::memory_order_seq_cst);
  if (gone) take_inputs(node, *gone);
}

void publish_all(Scratch& s, std::span<const LazyTensor> roots, const Plan& plan, Mode mode) {
  for (std::size_t i = 0; i < roots.size(); ++i)
    publish(roots[i].node(), std::exchange(s.results[i], nullptr), plan.outputs[i], s.bases[i],
            mode == Mode::eager ? nullptr : &s.gone);
  s.results.clear();
  s.bases.clear();
  retire_all(s.gone);
}

/// Roots that have a result already: explicit evaluation lets their inputs go (eager mode had kept them).
void drop_inputs_of_evaluated(Scratch& s, std::span<const LazyTensor> roots) {
  for (const LazyTensor& t : roots)
    if (t.node()->evaluated()) take_inputs(t.node(), s.gone);
  retire_all(s.gone);
}

/// Captures the roots and binds them to their plan.
void prepare(Scratch& s, Submission& submission, std::span<const LazyTensor> roots, std::span<const LazyTensor> donated,
             Mode mode) {
  const GraphReader reader;
  s.capture.run(roots, donated);
  submission.entry = plan_of(s.capture, mode == Mode::lazy ? &s.misses : nullptr);
  submission.bind(s.capture);
}

/// The roots that are not evaluated, in s.wanted.
std::span<const LazyTensor> select_unevaluated(Scratch& s, std::span<const LazyTensor> roots) {
  for (const LazyTensor& t : roots)
    if (!t.node()->evaluated()) s.wanted.push_back(t);
  return s.wanted;
}

}  // namespace

void hold_results(Scratch& s, const Submission& submission) {
  const Plan& plan = *submission.entry->plan;
  for (const PlanOutput& out : plan.outputs) {
    const PlanBuffer& buffer = plan.buffers[static_cast<std::size_t>(out.buffer)];
    const auto& from = buffer.where == PlanBuffer::Where::leaf ? submission.leaves : submission.outputs;
    Storage* storage = from[static_cast<std::size_t>(buffer.index)];
    storage->retain();
    s.results.push_back(storage);
    // A view of a leaf starts where the leaf starts.
    const bool leaf = buffer.where == PlanBuffer::Where::leaf;
    const std::int64_t bytes = leaf ? submission.leaf_offsets[static_cast<std::size_t>(buffer.index)] : 0;
    s.bases.push_back(bytes / static_cast<std::int64_t>(size_of(out.dtype)));
  }
}

void count_run(PlanEntry& entry) {
  Runtime& r = runtime();
  r.evaluations.fetch_add(1, std::memory_order_relaxed);
  if (entry.run_before.exchange(true, std::memory_order_relaxed)) r.replays.fetch_add(1, std::memory_order_relaxed);
}

namespace {

/// A thread that makes a plan runs decompositions, which may be anybody's.
thread_local bool making_plan = false;
struct MakingPlan {
  MakingPlan() { making_plan = true; }
  ~MakingPlan() { making_plan = false; }
  MakingPlan(const MakingPlan&) = delete;
  MakingPlan& operator=(const MakingPlan&) = delete;
  const base::Occupied by_decompositions;
};

}  // namespace

std::shared_ptr<PlanEntry> plan_of(const Capture& capture, MissWatch* watch) {
  if (making_plan)
    throw UserError(ErrorKind::argument, "eval: nothing can be evaluated within a decomposition, only recorded");
  Runtime& r = runtime();
  const PassMask passes = passes_on();
  const PlanKey key{capture.words, capture.hash ^ ~passes, passes};
  if (auto entry = r.plans.find(key)) {
    if (watch) watch->hit(capture);
    return entry;
  }
  if (watch) watch->miss(capture);
  std::lock_guard lock(r.compiling);
  if (auto entry = r.plans.find(key)) return entry;
  const MakingPlan making;
  auto entry = compile_entry(capture, key);
  r.plans.insert(entry);
  return entry;
}

void evaluate(std::span<const LazyTensor> roots, Mode mode) {
  ScratchLease s;
  const std::span<const LazyTensor> all = roots;
  const bool some = any_evaluated(roots);
  if (some) [[unlikely]] {
    roots = select_unevaluated(*s, all);
    if (mode != Mode::eager) drop_inputs_of_evaluated(*s, all);
  }
  if (!roots.empty()) {
    Submission& submission = s->submission;
    prepare(*s, submission, roots, {}, mode);
    submission.make_outputs(false);
    hold_results(*s, submission);
    count_run(*submission.entry);
    runtime().queue.run_now(submission);
    publish_all(*s, roots, *submission.entry->plan, mode);
  }
  if (some) [[unlikely]]
    for (const LazyTensor& t : all) t.node()->storage.load(std::memory_order_acquire)->wait();
}

namespace {

void check(const EvalOptions& options) {
  check_defined(options.roots);
  check_defined(options.donate);
  for (const LazyTensor& d : options.donate)
    if (!d.is_evaluated()) throw UserError(ErrorKind::argument, "eval: only evaluated tensors can be donated");
}

}  // namespace

std::shared_ptr<Submission> evaluate_async(EvalOptions options) {
  check(options);
  ScratchLease s;
  auto submission = new_submission();
  std::span<const LazyTensor> roots = options.roots;
  if (any_evaluated(roots)) {
    for (const LazyTensor& t : options.roots)
      if (Storage* storage = t.node()->storage.load(std::memory_order_acquire)) {
        storage->retain();
        submission->others.push_back(storage);
      }
    roots = select_unevaluated(*s, options.roots);
    drop_inputs_of_evaluated(*s, options.roots);
  }
  if (roots.empty()) {
    submission->state.store(Submission::done, std::memory_order_release);
    return submission;
  }
  prepare(*s, *submission, roots, options.donate, Mode::lazy);
  submission->make_outputs(true);
  hold_results(*s, *submission);
  submission->donated.assign(options.donate.begin(), options.donate.end());
  count_run(*submission->entry);
  const std::shared_ptr<PlanEntry> entry = submission->entry;
  // Queued first, seen as pending after: whoever finds a pending buffer finds its run in the queue.
  runtime().queue.enqueue(submission);
  publish_all(*s, roots, *entry->plan, Mode::lazy);
  return submission;
}

void evaluate_now(EvalOptions options) {
  check(options);
  if (options.roots.empty() || any_evaluated(options.roots)) return evaluate_async(std::move(options))->wait();
  ScratchLease s;
  Submission& submission = s->submission;
  prepare(*s, submission, options.roots, options.donate, Mode::lazy);
  submission.make_outputs(false);
  hold_results(*s, submission);
  submission.donated.assign(options.donate.begin(), options.donate.end());
  count_run(*submission.entry);
  runtime().queue.run_now(submission);
  publish_all(*s, options.roots, *submission.entry->plan, Mode::lazy);
}

// ---- the public face ------------------------------------------------------------------------------------------------

void eval(const std::vector<LazyTensor>& roots) {
  check_defined(roots);
  evaluate(roots, Mode::lazy);
}

void eval_now(EvalOptions options) { evaluate_now(std::move(options)); }

Tensor LazyTensor::eval() const {
  check_defined({this, 1});
  evaluate({this, 1}, Mode::lazy);
  return Tensor(*this);
}

}  // namespace metal_candle
