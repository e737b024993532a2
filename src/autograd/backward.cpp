// The backward pass. Walk down from the outputs, mark what lies on a way to a wanted tensor, then go through the marked
// nodes in the opposite order: every gradient of a node has come in before its op's rule is asked. Rules record
// ordinary ops, so gradients have gradients.
//
// Rules need not care about broadcasting and types: what they give is summed to the input's shape and cast to its type
// here. An op without a rule of its own is differentiated through its decomposition, and a checkpoint through a copy of
// what it covers: both are backward passes over a small graph inside this one, ending at its boundary.
#include "autograd/backward.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <unordered_map>
#include <utility>

#include "autograd/checkpoint.h"
#include "autograd/graph_walk.h"
#include "graph/epoch.h"
#include "graph/record.h"
#include "metal_candle/error.hpp"
#include "metal_candle/ops.hpp"
#include "ops/identity.h"
#include "ops/table.h"

namespace metal_candle::autograd {
namespace {

// Names the nodes of a gradient after the scope of the node they belong to, by way of the hook that sees every node as
// it is recorded. An eager evaluator that is installed already goes on seeing them.
class NamedAfter {
 public:
  NamedAfter() : outer_scope_(scope_), outer_(exchange_record_hook(rename)) {
    if (outer_ != rename) next_ = outer_;
  }
  ~NamedAfter() {
    exchange_record_hook(outer_);
    scope_ = outer_scope_;
    if (outer_ != rename) next_ = nullptr;
  }
  NamedAfter(const NamedAfter&) = delete;
  NamedAfter& operator=(const NamedAfter&) = delete;
  void set(const std::string* scope) { scope_ = scope; }

 private:
  static void rename(const LazyTensor& t) {
    if (scope_) t.node()->scope = scope_;
    if (next_) next_(t);
  }
  static thread_local const std::string* scope_;
  static thread_local RecordHook next_;
  const std::string* outer_scope_;
  RecordHook outer_;
};
thread_local const std::string* NamedAfter::scope_ = nullptr;
thread_local RecordHook NamedAfter::next_ = nullptr;

// A zero is not worth adding, nor going on with.
bool is_zero(const LazyTensor& t) {
  Node* n = t.node();
  if (n->op != &ops::full_def) return false;
  const Node* value = n->input(0).load(std::memory_order_acquire);
  if (!value || !(value->scalar_flags & Node::kScalarLiteral)) return false;
  return value->scalar_flags & Node::kScalarInt ? value->scalar_i == 0 : value->scalar_f == 0;
}

// A gradient in the shape and type of what it is the gradient of.
LazyTensor fit(LazyTensor g, const Shape& shape, DType dtype) {
  if (g.shape() != shape) {
    const int lead = g.rank() - shape.rank();
    Axes axes;
    for (int i = 0; i < g.rank(); ++i)
      if (i < lead || (shape[i - lead] == 1 && g.shape()[i] != 1)) axes.push_back(i);
    if (!axes.empty()) g = sum(g, axes, true);
    if (lead > 0) g = reshape(g, g.shape().dims().subspan(static_cast<std::size_t>(lead)));
    g = expand(g, shape);
  }
  return cast(g, dtype);
}

// The number that a node has as an operand, as a tensor again: a slot or a literal as it was. The rule of `pow`
// computes with it alone, so there it is a tensor of the other operand's type and no longer weak.
LazyTensor number_of(const Node* node, DType other) {
  LazyTensor s = node->scalar_flags & Node::kScalarInt ? scalar(node->scalar_i) : scalar(node->scalar_f);
  s.node()->scalar_flags = static_cast<std::uint8_t>(node->scalar_flags & ~Node::kScalarOperand);
  return node->op == &ops::elementwise_def(Elementwise::pow) ? cast(s, other) : s;
}

[[noreturn]] void fail_gradient(const Node* node, ErrorKind kind, const std::string& what) {
  const std::string op(node->op->name), scope = node->scope ? *node->scope : std::string();
  throw UserError(kind, (scope.empty() ? scope : scope + ": ") + op + ": its gradient " + what, op, scope);
}

/// Whether `fit` can sum and expand a gradient of one shape to the other.
bool fits(const Shape& g, const Shape& x) {
  for (int i = 1; i <= std::min(g.rank(), x.rank()); ++i) {
    const std::int64_t a = g[g.rank() - i], b = x[x.rank() - i];
    if (a != b && a != 1 && b != 1) return false;
  }
  return true;
}

class Backward {
 public:
  explicit Backward(const BackwardRequest& request) : request_(request) {}
  BackwardResult run();

 private:
  void walk();
  void mark();
  void expand_node(Node* node, std::vector<Node*>& children);
  bool lets_through(const Node* node) const;

  void accumulate(std::uint32_t visit, const LazyTensor& g);
  void step(std::uint32_t visit);
  void through_output(std::uint32_t visit);
  void through_op(std::uint32_t visit);
  void through_part(std::uint32_t visit, const BackwardRequest& part);
  void through_checkpoint(std::uint32_t visit);
  Tensors inputs_of(std::uint32_t visit) const;
  Tensors outputs_of(std::uint32_t visit, const Tensors& inputs) const;
  void reach_inputs(std::uint32_t visit);
  bool needed(std::uint32_t visit) const { return visit != GraphWalk::kNone && needed_[visit]; }

  const BackwardRequest& request_;
  GraphReader reader_;  // node pointers stay valid
  LiteralScope literals_;
  NamedAfter name_;
  GraphWalk walk_;
  NodeNumbers boundary_;
  std::unordered_map<Node*, Region> regions_;
  std::vector<char> needed_, wanted_;  // by visit
  std::vector<char> reached_;          // by visit: a way leads there, checkpoints looked into
  std::vector<LazyTensor> grads_;      // by visit

  // An op with several outputs is a node that is no tensor; its outputs are nodes that name it.
  struct Several {
    std::array<LazyTensor, 4> grads;
    const OpDef* output_def = nullptr;
  };
  std::unordered_map<const Node*, Several> several_;
  std::vector<Origins> lost_;
};

bool Backward::lets_through(const Node* node) const {
  if (boundary_.find(node) != NodeNumbers::kNone) return false;
  if (node->op->kind == OpKind::leaf || node->op->kind == OpKind::scalar) return false;
  if (node->op->kind == OpKind::output) return is_float(node->dtype);
  if (node->op->vjp.none()) return false;
  if (!is_float(node->dtype)) return several_.contains(node);
  return !(node->op == &ops::identity_def && node->attributes()[0] == ops::kStopGradient);
}

void Backward::expand_node(Node* node, std::vector<Node*>& children) {
  if (!lets_through(node)) return;
  if (is_checkpoint(node)) {
    const Region& region = regions_.try_emplace(node, node).first->second;
    if (region.frontier().empty()) lost_.push_back(node->origins);
    children = region.frontier();
    return;
  }
  if (!append_inputs(node, children)) lost_.push_back(node->origins);
  if (node->op->kind == OpKind::output && !children.empty()) several_[children[0]].output_def = node->op;
}

void Backward::walk() {
  for (const LazyTensor& b : request_.boundary) boundary_.find_or_add(b.node(), 0);
  // A wanted tensor that was evaluated has lost its history by right.
  NodeNumbers wanted;
  for (const LazyTensor& w : request_.wanted) wanted.find_or_add(w.node(), 0);
  const auto expand = [&](Node* node, std::vector<Node*>& children) {
    const std::size_t lost = lost_.size();
    expand_node(node, children);
    if (wanted.find(node) != NodeNumbers::kNone) lost_.resize(lost);
  };
  for (std::size_t i = 0; i < request_.outputs.size(); ++i)
    if (request_.cotangents[i].defined()) walk_.add(request_.outputs[i].node(), expand);
}

void Backward::mark() {
  needed_.assign(walk_.size(), 0);
  wanted_.assign(walk_.size(), 0);
  reached_.assign(walk_.size(), 0);
  grads_.resize(walk_.size());
  for (const LazyTensor& w : request_.wanted)
    if (const std::uint32_t v = walk_.find(w.node()); v != GraphWalk::kNone) needed_[v] = wanted_[v] = 1;
  for (const std::uint32_t v : walk_.order())
    for (const std::uint32_t in : walk_.inputs(v)) needed_[v] |= static_cast<char>(needed(in));
}

BackwardResult Backward::run() {
  walk();
  mark();
  for (std::size_t i = 0; i < request_.outputs.size(); ++i) {
    if (!request_.cotangents[i].defined()) continue;
    const std::uint32_t v = walk_.find(request_.outputs[i].node());
    reached_[v] = 1;
    accumulate(v, request_.cotangents[i]);
  }
  const auto& order = walk_.order();
  for (auto v = order.rbegin(); v != order.rend(); ++v) step(*v);

  BackwardResult result;
  result.lost = std::move(lost_);
  for (const LazyTensor& w : request_.wanted) {
    const std::uint32_t v = walk_.find(w.node());
    result.reached.push_back(v != GraphWalk::kNone && reached_[v]);
    result.grads.push_back(v == GraphWalk::kNone ? LazyTensor() : std::exchange(grads_[v], {}));
  }
  return result;
}

void Backward::accumulate(std::uint32_t visit, const LazyTensor& g) {
  if (!needed(visit) || !g.defined() || is_zero(g)) return;
  const Node* node = walk_.node(visit);
  LazyTensor& sum = grads_[visit];
  const LazyTensor fitted = fit(g, node->shape, node->dtype);
  sum = sum.defined() ? sum + fitted : fitted;
}

void Backward::step(std::uint32_t visit) {
  if (!needed_[visit] || walk_.inputs(visit).empty()) return;
  Node* node = walk_.node(visit);
  name_.set(node->scope);
  // A checkpoint names inputs that its value may not come from: the copy of its inside tells.
  const bool looked_into = regions_.contains(node) && grads_[visit].defined();
  if (reached_[visit] && !looked_into) reach_inputs(visit);
  if (several_.contains(node)) return through_op(visit);
  if (!grads_[visit].defined()) return;
  if (node->op->kind == OpKind::output) through_output(visit);
  else if (looked_into) through_checkpoint(visit);
  else through_op(visit);
  if (!wanted_[visit]) grads_[visit] = {};
}

void Backward::reach_inputs(std::uint32_t visit) {
  for (const std::uint32_t in : walk_.inputs(visit))
    if (in != GraphWalk::kNone) reached_[in] = 1;
}

void Backward::through_output(std::uint32_t visit) {
  Node* node = walk_.node(visit);
  LazyTensor& sum = several_[walk_.node(walk_.inputs(visit)[0])].grads[static_cast<std::size_t>(node->attributes()[0])];
  sum = sum.defined() ? sum + grads_[visit] : grads_[visit];
}

Tensors Backward::inputs_of(std::uint32_t visit) const {
  const auto from = walk_.inputs(visit);
  Tensors inputs(from.size());
  for (std::size_t i = 0; i < from.size(); ++i)
    if (from[i] != GraphWalk::kNone) inputs[i] = LazyTensor::share(walk_.node(from[i]));
  for (std::size_t i = 0; i < from.size(); ++i)
    if (from[i] == GraphWalk::kNone) inputs[i] = number_of(walk_.node(visit), inputs[1 - i].dtype());
  return inputs;
}

Tensors Backward::outputs_of(std::uint32_t visit, const Tensors& inputs) const {
  Node* node = walk_.node(visit);
  const auto several = several_.find(node);
  if (several == several_.end()) return {LazyTensor::share(node)};
  InferResult types;
  node->op->infer({*node->op, inputs, node->attributes()}, types);
  const LazyTensor main = LazyTensor::share(node);
  Tensors outputs;
  for (int k = 0; k < types.count; ++k) {
    const TensorType& type = types.types[static_cast<std::size_t>(k)];
    const Attrs which{k};
    outputs.push_back(record_typed(*several->second.output_def, type.dtype, type.shape, {&main, 1}, &which));
  }
  return outputs;
}

void Backward::through_op(std::uint32_t visit) {
  Node* node = walk_.node(visit);
  const auto several = several_.find(node);
  const Tensors inputs = inputs_of(visit), outputs = outputs_of(visit, inputs);
  Tensors grads{grads_[visit]};
  if (several != several_.end()) {
    const auto& of = several->second.grads;
    grads.assign(of.begin(), of.begin() + static_cast<std::ptrdiff_t>(outputs.size()));
    if (std::none_of(grads.begin(), grads.end(), [](const LazyTensor& g) { return g.defined(); })) return;
  }
  if (node->op->vjp.decomposed()) {
    const Tensors values = decomposed({*node->op, inputs, node->attributes()}, node->scope);
    return through_part(visit, {values, grads, inputs, inputs});
  }
  const auto from = walk_.inputs(visit);
  std::array<bool, 256> needs;  // a node keeps the number of its inputs in a byte
  for (std::size_t i = 0; i < from.size(); ++i) needs[i] = needed(from[i]);
  const Tensors in_grads =
      node->op->vjp({*node->op, inputs, outputs, grads, node->attributes(), {needs.data(), from.size()}});
  if (in_grads.size() != from.size())
    fail_gradient(node, ErrorKind::argument,
                  fmt::format("has {} parts, and the op {} inputs", in_grads.size(), from.size()));
  for (std::size_t i = 0; i < in_grads.size(); ++i) {
    const LazyTensor &g = in_grads[i], &x = inputs[i];
    if (g.defined() && !fits(g.shape(), x.shape()))
      fail_gradient(node, ErrorKind::shape,
                    fmt::format("of input {} is {}{}, and the input {}{}", i, name(g.dtype()), g.shape().str(),
                                name(x.dtype()), x.shape().str()));
    accumulate(from[i], g);
  }
}

// `part` ends at its wanted tensors, which stand for this visit's inputs, in order.
void Backward::through_part(std::uint32_t visit, const BackwardRequest& part) {
  const auto from = walk_.inputs(visit);
  Tensors wanted;
  std::vector<std::uint32_t> to;
  for (std::size_t i = 0; i < from.size(); ++i) {
    if (!needed(from[i])) continue;
    wanted.push_back(part.wanted[i]);
    to.push_back(from[i]);
  }
  const BackwardResult result = Backward({part.outputs, part.cotangents, wanted, part.boundary}).run();
  lost_.insert(lost_.end(), result.lost.begin(), result.lost.end());
  for (std::size_t i = 0; i < to.size(); ++i) {
    if (result.reached[i]) reached_[to[i]] = 1;
    accumulate(to[i], result.grads[i]);
  }
}

void Backward::through_checkpoint(std::uint32_t visit) {
  const Tensors g{grads_[visit]};
  Tensors begins;
  const Tensors again{regions_.at(walk_.node(visit)).replay(g[0], begins)};
  through_part(visit, {again, g, begins, begins});
}

}  // namespace

BackwardResult backward(const BackwardRequest& request) { return Backward(request).run(); }

}  // namespace metal_candle::autograd
