// A compiled function keeps, for each kind of inputs it met, the plan of its graph and what the graph reads besides the
// inputs. A call puts the inputs' buffers in their places among the plan's leaves and runs.
#include "metal_candle/compiled.hpp"

#include <algorithm>
#include <atomic>
#include <mutex>
#include <utility>

#include "graph/epoch.h"
#include "graph/record.h"
#include "graph/tensor.h"
#include "metal_candle/error.hpp"
#include "runtime/evaluate.h"
#include "runtime/runtime.h"
#include "runtime/scratch.h"

namespace metal_candle {
namespace {

constexpr std::size_t kKinds = 16;  // kept; the one unused for longest goes first

/// What of an input the graph depends on. Which inputs share a buffer is not part of it: recorded as if none did, the
/// plan takes over a donated buffer only if nobody else has it.
struct Kind {
  DType dtype;
  bool frozen, external;
  Shape shape;
  const Shape* strides;  // null: dense

  static Kind of(const Tensor& t) {
    const Node& n = *t.node();
    const Storage& s = *n.storage.load(std::memory_order_acquire);
    return {n.dtype, s.frozen, s.owner != nullptr, n.shape, n.layout ? &n.layout->strides : nullptr};
  }
};

struct KeptKind {
  Kind kind;
  Shape strides;
  explicit KeptKind(const Kind& k) : kind(k), strides(k.strides ? *k.strides : Shape{}) {}
  bool is(const Kind& k) const {
    return k.dtype == kind.dtype && k.frozen == kind.frozen && k.external == kind.external && k.shape == kind.shape &&
           (k.strides != nullptr) == (kind.strides != nullptr) && (!k.strides || *k.strides == strides);
  }
};

/// The function's graph for one kind of inputs.
struct Recorded {
  // A result is the plan's next output, an input as it came, or a tensor that was there.
  struct Result {
    bool computed;
    int input;
    Tensor constant;
  };
  struct Place {
    std::size_t leaf;
    int input;
  };

  std::vector<KeptKind> kinds;
  PassMask passes;
  std::vector<Result> results;
  std::shared_ptr<PlanEntry> entry;  // null: nothing is computed
  std::vector<Storage*> leaves;      // a reference to each; null where an input goes
  std::vector<std::int64_t> offsets;
  std::vector<Place> places;
  std::vector<std::uint64_t> slots;
  std::vector<const std::string*> scopes;
  std::uint64_t constants = 0;

  Recorded() = default;
  Recorded(const Recorded&) = delete;
  Recorded& operator=(const Recorded&) = delete;
  ~Recorded() {
    for (Storage* s : leaves)
      if (s) s->release();
  }
  bool fits(const std::vector<Tensor>& inputs) const {
    if (passes != passes_on() || inputs.size() != kinds.size()) return false;
    for (std::size_t i = 0; i < kinds.size(); ++i)
      if (!kinds[i].is(Kind::of(inputs[i]))) return false;
    return true;
  }
  void take_graph(const Capture& capture, const std::vector<LazyTensor>& inputs);
};

std::int64_t offset_bytes(const Node& n) {
  return n.layout ? n.layout->offset * static_cast<std::int64_t>(size_of(n.dtype)) : 0;
}

void Recorded::take_graph(const Capture& capture, const std::vector<LazyTensor>& inputs) {
  static std::atomic<std::uint64_t> numbers{0};
  entry = plan_of(capture);
  slots = capture.slots;
  find_scopes(*entry, capture, scopes);
  bool constant = true;
  for (std::size_t i = 0; i < capture.leaves.size(); ++i) {
    Node* const node = capture.leaves[i];
    const auto at = std::find_if(inputs.begin(), inputs.end(), [&](const LazyTensor& t) { return t.node() == node; });
    offsets.push_back(offset_bytes(*node));
    leaves.push_back(at == inputs.end() ? capture.storages[i] : nullptr);
    if (at == inputs.end()) {
      capture.storages[i]->retain();
    } else {
      const auto input = at - inputs.begin();
      places.push_back({i, static_cast<int>(input)});
      constant &= !kinds[static_cast<std::size_t>(input)].kind.frozen;
    }
  }
  if (constant) constants = numbers.fetch_add(1, std::memory_order_relaxed) + 1;
}

/// A tensor like an input, without values or memory: another thread may be giving the input its own.
LazyTensor stand_in(const Tensor& t) {
  static const auto* error = new std::exception_ptr(std::make_exception_ptr(
      UserError(ErrorKind::argument, "compiled function: its inputs have no values while it is recorded")));
  static char somebody;
  const Node& n = *t.node();
  const Storage& like = *n.storage.load(std::memory_order_acquire);
  const std::shared_ptr<void> owner = like.owner ? std::shared_ptr<void>(std::shared_ptr<void>(), &somebody) : nullptr;
  Storage* s = Storage::make_external(nullptr, 0, owner, like.device);
  s->frozen = like.frozen;
  s->error = *error;
  s->state.store(Storage::State::failed, std::memory_order_release);
  return make_leaf(s, n.dtype, n.shape, n.layout);
}

bool eager() {
  const RecordHook hook = exchange_record_hook(nullptr);
  exchange_record_hook(hook);
  return hook != nullptr;
}

}  // namespace

struct CompiledFunction::State {
  Function function;
  CompileOptions options;
  std::mutex mutex;
  std::vector<std::shared_ptr<const Recorded>> recorded;  // the one used last is the first

  std::shared_ptr<const Recorded> find(const std::vector<Tensor>& inputs);
  std::shared_ptr<const Recorded> record(const std::vector<Tensor>& inputs) const;
  void run_recorded(const std::shared_ptr<const Recorded>& r, const std::vector<Tensor>& inputs,
                    std::vector<Tensor>& results) const;
  void run_eagerly(const std::vector<Tensor>& inputs, std::vector<Tensor>& results) const;

  template <class T>
  std::vector<LazyTensor> donated(const std::vector<T>& inputs) const {
    std::vector<LazyTensor> list;
    for (const int i : options.donate) list.push_back(inputs[static_cast<std::size_t>(i)]);
    return list;
  }
};

std::shared_ptr<const Recorded> CompiledFunction::State::find(const std::vector<Tensor>& inputs) {
  {
    const std::lock_guard lock(mutex);
    const auto at = std::find_if(recorded.begin(), recorded.end(), [&](const auto& r) { return r->fits(inputs); });
    if (at != recorded.end()) {
      std::rotate(recorded.begin(), at, at + 1);
      return recorded.front();
    }
  }
  std::shared_ptr<const Recorded> fresh = record(inputs);
  const std::lock_guard lock(mutex);
  if (recorded.size() == kKinds) recorded.pop_back();
  recorded.insert(recorded.begin(), fresh);
  return fresh;
}

std::shared_ptr<const Recorded> CompiledFunction::State::record(const std::vector<Tensor>& inputs) const {
  auto r = std::make_shared<Recorded>();
  r->passes = passes_on();
  std::vector<LazyTensor> stand_ins;
  for (const Tensor& t : inputs) {
    r->kinds.emplace_back(Kind::of(t));
    stand_ins.push_back(stand_in(t));
  }
  std::vector<LazyTensor> roots;
  for (const LazyTensor& result : function(stand_ins)) {
    if (!result.defined())
      throw UserError(ErrorKind::argument, "compiled function: a result is an empty tensor handle");
    const auto same = [&](const LazyTensor& t) { return t.node() == result.node(); };
    const auto at = std::find_if(stand_ins.begin(), stand_ins.end(), same);
    const bool given = at != stand_ins.end(), there = !given && result.is_evaluated();
    r->results.push_back(
        {!given && !there, given ? static_cast<int>(at - stand_ins.begin()) : -1, there ? Tensor(result) : Tensor()});
    if (r->results.back().computed) roots.push_back(result);
  }
  if (roots.empty()) return r;
  const ScratchLease s;
  const GraphReader reader;
  s->capture.run(roots, donated(stand_ins));
  r->take_graph(s->capture, stand_ins);
  return r;
}

void CompiledFunction::State::run_recorded(const std::shared_ptr<const Recorded>& r, const std::vector<Tensor>& inputs,
                                           std::vector<Tensor>& results) const {
  const ScratchLease s;
  if (r->entry) {
    Submission& submission = s->submission;
    submission.entry = r->entry;
    submission.leaves = r->leaves;
    submission.leaf_offsets = r->offsets;
    submission.slots = r->slots;
    submission.scopes = r->scopes;
    submission.kept = r;
    submission.constants = r->constants;
    const auto hold = [&](const Node& n) {
      Storage* storage = n.storage.load(std::memory_order_acquire);
      storage->retain();
      submission.held.push_back(storage);
      return storage;
    };
    for (const Recorded::Place& p : r->places) {
      const Node& n = *inputs[static_cast<std::size_t>(p.input)].node();
      submission.leaves[p.leaf] = hold(n);
      submission.leaf_offsets[p.leaf] = offset_bytes(n);
    }
    // Once more, so that nothing is written over an input that is a result as well.
    for (const Recorded::Result& result : r->results)
      if (result.input >= 0) hold(*inputs[static_cast<std::size_t>(result.input)].node());
    for (const int i : options.donate) submission.donated.push_back(inputs[static_cast<std::size_t>(i)]);
    submission.make_outputs(false);
    hold_results(*s, submission);
    count_run(*r->entry);
    runtime().queue.run_now(submission);
  }
  std::size_t output = 0;
  for (const Recorded::Result& result : r->results) {
    if (!result.computed) {
      results.push_back(result.input >= 0 ? inputs[static_cast<std::size_t>(result.input)] : result.constant);
      continue;
    }
    const PlanOutput& out = r->entry->plan->outputs[output];
    const Layout layout{out.strides, s->bases[output] + out.offset};
    const bool plain = out.dense && layout.offset == 0;
    Storage* storage = std::exchange(s->results[output++], nullptr);
    results.push_back(make_leaf(storage, out.dtype, out.shape, plain ? nullptr : &layout));
  }
  s->results.clear();
  s->bases.clear();
}

void CompiledFunction::State::run_eagerly(const std::vector<Tensor>& inputs, std::vector<Tensor>& results) const {
  const std::vector<LazyTensor> roots = function({inputs.begin(), inputs.end()});
  eval_now({.roots = roots, .donate = donated(inputs)});
  for (const LazyTensor& root : roots) results.emplace_back(root);
}

CompiledFunction::CompiledFunction(Function function, CompileOptions options) : state_(std::make_shared<State>()) {
  if (!function) throw UserError(ErrorKind::argument, "compiled function: there is no function");
  state_->function = std::move(function);
  state_->options = std::move(options);
}

void CompiledFunction::run(const std::vector<Tensor>& inputs, std::vector<Tensor>& results) const {
  if (!state_) throw UserError(ErrorKind::argument, "compiled function: an empty one was called");
  if (&inputs == &results)
    throw UserError(ErrorKind::argument, "compiled function: its inputs and its results are one list");
  for (const Tensor& t : inputs)
    if (!t.defined()) throw UserError(ErrorKind::argument, "compiled function: an input is an empty tensor handle");
  for (const int i : state_->options.donate)
    if (i < 0 || static_cast<std::size_t>(i) >= inputs.size())
      throw UserError(ErrorKind::argument, "compiled function: it donates an input that is not given");
  results.clear();
  if (eager()) state_->run_eagerly(inputs, results);
  else state_->run_recorded(state_->find(inputs), inputs, results);
}

std::vector<Tensor> CompiledFunction::operator()(const std::vector<Tensor>& inputs) const {
  std::vector<Tensor> results;
  run(inputs, results);
  return results;
}

}  // namespace metal_candle
