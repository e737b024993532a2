// Decompose: replaces composite ops, and kernel ops without a kernel here, by what they are made of.
//
// A decomposition is written as lazy tensors. It is recorded on placeholders for the node's inputs, captured, and
// spliced in. A placeholder for a number is itself a number (graph/stand_in.h).
#include <map>
#include <utility>

#include "compiler/rewrite.h"
#include "graph/capture.h"
#include "graph/epoch.h"
#include "graph/record.h"
#include "graph/stand_in.h"
#include "metal_candle/error.hpp"
#include "metal_candle/scope.hpp"
#include "ops/table.h"

namespace metal_candle {
namespace {

const OpDef placeholder_def{.name = "placeholder",
                            .kind = OpKind::leaf,
                            .infer = no_infer,
                            .decompose = nullptr,
                            .vjp = NoGrad{},
                            .samples = nullptr};

LazyTensor placeholder(const GraphNode& n, int index) {
  if (n.op->kind == OpKind::scalar) {
    if (n.slot < 0) return scalar(n.integral ? Scalar(n.literal_int) : Scalar(n.literal));
    return scalar(stand_in(index, n.integral));
  }
  const Attrs which{index};
  return record_typed(placeholder_def, n.dtype, n.shape, {}, &which);
}

/// Which input a captured node stands for, or -1.
int placeholder_index(const GraphNode& n) {
  if (n.op == &placeholder_def) return static_cast<int>(n.attrs[0]);
  if (n.op->kind != OpKind::scalar) return -1;
  return stood_for(n.integral ? Scalar(n.literal_int) : Scalar(n.literal));
}

/// Nothing that is recorded meanwhile is evaluated at once, also when a decomposition throws.
struct NoHook {
  RecordHook outer = exchange_record_hook(nullptr);
  ~NoHook() { exchange_record_hook(outer); }
};

class Decomposer {
 public:
  Decomposer(ComputationGraph& graph, const CpuKernel* (*kernel)(const OpDef*)) : graph_(graph), kernel_(kernel) {}

  /// One round; false: there was nothing to do.
  bool run() {
    if (!any_node(graph_, [&](const GraphNode& n) { return n.op->kind == OpKind::output || must_decompose(n); }))
      return false;
    bool changed = false;
    // Numbers are literals here; a slot's placeholder is told by its mark.
    LiteralScope literals;
    const NoHook plain;
    GraphReader reader;
    Rewriter rewriter(graph_);
    rewriter.run([&](GraphNode n) {
      if (n.op->kind == OpKind::output) return output(rewriter, std::move(n));
      if (!must_decompose(n)) return rewriter.add(std::move(n));
      changed = true;
      const std::vector<int> results = splice(rewriter, n);
      if (results.size() == 1) return results[0];
      // Several outputs: the `output` nodes that follow pick theirs.
      const int self = rewriter.add(n);
      for (std::size_t k = 0; k < results.size(); ++k) outputs_[{self, static_cast<std::int64_t>(k)}] = results[k];
      return self;
    });
    remove_dead(graph_);
    return changed;
  }

 private:
  bool must_decompose(const GraphNode& n) const {
    if (n.op->kind == OpKind::composite) return true;
    return n.op->kind == OpKind::kernel && !kernel_(n.op) && n.op->decompose;
  }

  int output(Rewriter& rewriter, GraphNode n) {
    // One node an output: a kernel binds each of its outputs to one buffer.
    const auto [at, fresh] = outputs_.try_emplace({n.inputs[0], n.attrs[0]}, -1);
    if (fresh) at->second = rewriter.add(std::move(n));
    return at->second;
  }

  std::vector<int> splice(Rewriter& rewriter, const GraphNode& n) {
    Tensors inputs;
    for (std::size_t i = 0; i < n.inputs.size(); ++i)
      inputs.push_back(placeholder(rewriter.node(n.inputs[i]), static_cast<int>(i)));
    const Tensors results = decomposed({*n.op, inputs, n.attrs}, n.scope);
    capture_.run(results);
    ComputationGraph part = capture_.graph();
    std::vector<int> map;
    for (GraphNode& p : part.nodes) {
      const int index = placeholder_index(p);
      if (index >= 0) {
        map.push_back(n.inputs.at(static_cast<std::size_t>(index)));
        continue;
      }
      if (p.op->kind == OpKind::leaf)
        throw InternalError("the decomposition of " + std::string(n.op->name) + " holds data");
      for (int& in : p.inputs) in = map[static_cast<std::size_t>(in)];
      p.scope = n.scope;
      p.origin = n.origin.empty() ? n.op->name : n.origin;
      map.push_back(rewriter.add(std::move(p)));
    }
    std::vector<int> out;
    for (const int r : part.roots) out.push_back(map[static_cast<std::size_t>(r)]);
    return out;
  }

  ComputationGraph& graph_;
  const CpuKernel* (*kernel_)(const OpDef*);
  Capture capture_;
  std::map<std::pair<int, std::int64_t>, int> outputs_;  // (node, output): the value
};

}  // namespace

void decompose(ComputationGraph& graph, const CpuKernel* (*kernel)(const OpDef*)) {
  // A decomposition may use composite ops itself; a cycle among them has no end.
  for (int round = 0; round < 16; ++round)
    if (!Decomposer(graph, kernel).run()) return;
  throw UserError(ErrorKind::argument, "decompositions do not end: an op decomposes to itself, or through others");
}

}  // namespace metal_candle
