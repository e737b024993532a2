// checkpoint(f, inputs): forward, f is recorded as always, and its value is marked by an identity node that also names
// the inputs (kCheckpoint; the compiler takes the value and forgets the mark). Backward, when the gradient g of the
// value is there, the nodes between inputs and value are recorded once more, from barriers over the inputs:
//
//   forward   x ─ f ─ y                   x' = barrier(x, g)     a copy of x that is not there before g is
//   backward  x' ─ f ─ y', and the gradient of y' is taken instead of that of y
//
// Expressions over x' are not expressions over x, so nothing of f's inside is shared with the forward pass, where it
// can be let go at once; and because x' waits for g, it is computed when it is needed. What f uses besides its inputs
// (weights) and does not compute from them is not copied. Checkpoints nest. What a plan must honour: a barrier is an
// alias of its first input, ordered after the others, and is not simplified away.
#include "autograd/checkpoint.h"

#include <unordered_map>

#include "graph/record.h"
#include "metal_candle/autograd.hpp"
#include "metal_candle/error.hpp"
#include "ops/identity.h"
#include "ops/table.h"

namespace metal_candle {
namespace autograd {
namespace {

// A fresh node like `node`, over other inputs; an undefined one is the number that `node` has in that place.
LazyTensor like(Node* node, std::span<const LazyTensor> inputs) {
  if (!(node->scalar_flags & Node::kScalarOperand)) {
    return record_typed(*node->op, node->dtype, node->shape, inputs, node->attrs);
  }
  const bool first = !inputs[0].defined();
  const Scalar s = node->scalar_flags & Node::kScalarInt ? Scalar(node->scalar_i) : Scalar(node->scalar_f);
  LazyTensor copy = record_with_scalar(*node->op, node->dtype, inputs[first ? 1 : 0], s, first);
  copy.node()->scalar_flags = node->scalar_flags;  // literal or slot as it was, whatever scope is open here
  return copy;
}

}  // namespace

bool is_checkpoint(const Node* node) {
  return node->op == &ops::identity_def && node->attributes()[0] == ops::kCheckpoint;
}

Region::Region(Node* checkpoint) {
  std::vector<Node*> inputs;
  if (!append_inputs(checkpoint, inputs)) return;
  NodeNumbers marks;
  for (std::size_t i = 1; i < inputs.size(); ++i)
    if (marks.find_or_add(inputs[i], static_cast<std::uint32_t>(i)) == i) frontier_.push_back(inputs[i]);
  marked_ = frontier_.size();
  walk_.add(inputs[0], [&](Node* node, std::vector<Node*>& children) {
    if (marks.find(node) == NodeNumbers::kNone) append_inputs(node, children);
  });

  depends_.assign(walk_.size(), 0);
  has_outputs_.assign(walk_.size(), 0);
  std::vector<char> on_frontier(walk_.size(), 0);
  for (const std::uint32_t v : walk_.order()) {
    bool depends = marks.find(walk_.node(v)) != NodeNumbers::kNone;
    on_frontier[v] = depends;
    for (const std::uint32_t in : walk_.inputs(v)) depends |= in != GraphWalk::kNone && depends_[in];
    depends_[v] = depends;
    if (walk_.node(v)->op->kind == OpKind::output && !walk_.inputs(v).empty()) has_outputs_[walk_.inputs(v)[0]] = 1;
    for (const std::uint32_t in : walk_.inputs(v)) {
      if (!depends || in == GraphWalk::kNone || depends_[in] || on_frontier[in]) continue;
      on_frontier[in] = 1;
      frontier_.push_back(walk_.node(in));
    }
  }
  value_ = walk_.find(inputs[0]);
  if (!depends_[value_]) frontier_.push_back(inputs[0]);
}

LazyTensor Region::replay(const LazyTensor& after, std::vector<LazyTensor>& begins) const {
  std::vector<LazyTensor> copies(walk_.size());
  const Attrs barrier{ops::kBarrier};
  for (std::size_t i = 0; i < frontier_.size(); ++i) {
    const LazyTensor x = LazyTensor::share(frontier_[i]);
    const LazyTensor late[] = {x, after};
    begins.push_back(i < marked_ ? record_typed(ops::identity_def, x.dtype(), x.shape(), late, &barrier) : x);
    const std::uint32_t v = walk_.find(frontier_[i]);
    if (v != GraphWalk::kNone) copies[v] = begins.back();
  }
  std::unordered_map<std::uint32_t, Tensors> outputs;  // of the copies of ops that have several
  for (const std::uint32_t v : walk_.order()) {
    if (copies[v].defined() || !depends_[v]) continue;
    Node* node = walk_.node(v);
    std::vector<LazyTensor> inputs;
    for (const std::uint32_t in : walk_.inputs(v)) inputs.push_back(in == GraphWalk::kNone ? LazyTensor() : copies[in]);
    if (has_outputs_[v]) outputs[v] = record_all(*node->op, inputs, node->attributes());
    else if (node->op->kind != OpKind::output) copies[v] = like(node, inputs);
    else copies[v] = outputs[walk_.inputs(v)[0]][static_cast<std::size_t>(node->attributes()[0])];
  }
  return copies[value_];
}

}  // namespace autograd

LazyTensor stop_gradient(const LazyTensor& x) {
  const CalledAs named("stop_gradient", x);
  return record(ops::identity_def, {x}, {ops::kStopGradient});
}

LazyTensor checkpoint(const std::function<LazyTensor(const std::vector<LazyTensor>&)>& f,
                      const std::vector<LazyTensor>& inputs) {
  if (!f) throw UserError(ErrorKind::argument, "checkpoint: the function is empty", "checkpoint");
  for (const LazyTensor& x : inputs)
    if (!x.defined()) throw UserError(ErrorKind::argument, "checkpoint: an input is an empty handle", "checkpoint");
  Tensors marked{f(inputs)};
  if (!marked[0].defined())
    throw UserError(ErrorKind::argument, "checkpoint: the function's result is an empty handle", "checkpoint");
  marked.insert(marked.end(), inputs.begin(), inputs.end());
  const CalledAs named("checkpoint", inputs);
  return record(ops::identity_def, marked, {ops::kCheckpoint});
}

}  // namespace metal_candle
