// What the backward pass records, without evaluating it: how far it goes, what it leaves out, how deep it can go.
#include <gtest/gtest.h>

#include <algorithm>
#include <set>
#include <string>
#include <vector>

#include "graph/node.h"
#include "metal_candle/autograd.hpp"
#include "metal_candle/ops.hpp"
#include "metal_candle/scope.hpp"
#include "ops/identity.h"
#include "ops/table.h"
#include "tests/support/errors.h"

namespace metal_candle {
namespace {

using test::error_of;

LazyTensor data(const Shape& shape, DType dtype = DType::f32) { return Tensor::full(shape, 0.5, dtype); }

/// The nodes below `root`, which they keep alive.
struct Below {
  explicit Below(LazyTensor of) : root(std::move(of)) {
    std::vector<Node*> todo{root.node()};
    while (!todo.empty()) {
      Node* n = todo.back();
      todo.pop_back();
      if (!n || !nodes.insert(n).second) continue;
      for (int i = 0; i < n->input_count; ++i) todo.push_back(n->input(i).load());
    }
  }
  int count(std::string_view op) const {
    return static_cast<int>(std::count_if(nodes.begin(), nodes.end(), [&](Node* n) { return n->op->name == op; }));
  }
  LazyTensor root;
  std::set<Node*> nodes;
};

TEST(Backward, AChainOfAMillionNodesNeitherRecursesNorOverflows) {
  const LazyTensor x = data({2});
  LazyTensor y = x;
  for (int i = 0; i < 1'000'000; ++i) y = y + x;
  const LazyTensor g = grad(sum(y), {x})[0];
  EXPECT_EQ(g.shape(), x.shape());
  EXPECT_GT(Below(g).nodes.size(), 900'000u);
}

TEST(Backward, ADeepChainOfDecomposedOpsAndCheckpointsEither) {
  const LazyTensor x = data({2, 3});
  LazyTensor y = x;
  for (int i = 0; i < 20'000; ++i) y = softmax(y);
  EXPECT_EQ(grad(sum(y), {x})[0].shape(), x.shape());
  y = x;
  for (int i = 0; i < 2'000; ++i) y = checkpoint([](const Tensors& in) { return exp(in[0]); }, {y});
  EXPECT_EQ(grad(sum(y), {x})[0].shape(), x.shape());
}

TEST(Backward, HasTheShapeAndTypeOfTheParameter) {
  const LazyTensor w = data({3, 1}, DType::bf16), b = data({}, DType::f64), x = data({2, 3, 4});
  const auto g = grad(mean(x * w + b), {w, b, x});
  EXPECT_EQ(g[0].shape(), Shape({3, 1}));
  EXPECT_EQ(g[0].dtype(), DType::bf16);
  EXPECT_EQ(g[1].shape(), Shape({}));
  EXPECT_EQ(g[1].dtype(), DType::f64);
  EXPECT_EQ(g[2].shape(), Shape({2, 3, 4}));
}

TEST(Backward, FrozenWeightsGetNoGradientAndNothingBelowTheLowestParameterIsRecorded) {
  const LazyTensor x = data({4, 8}), frozen = data({8, 8}), w = data({8, 8});
  const LazyTensor below = matmul(exp(x), frozen);
  const LazyTensor loss = sum(matmul(matmul(below, w), frozen));
  const Below below_grad(grad(loss, {w})[0]);
  // Forward: exp and the product below w. Backward: back through the last product, and into w.
  EXPECT_EQ(below_grad.count("matmul"), 3);
  EXPECT_EQ(below_grad.count("exp"), 1);
}

TEST(Backward, AProductOverRowsIsOneProduct) {
  const LazyTensor x = data({4, 5, 8}), w = data({8, 3});
  const LazyTensor g = grad(sum(matmul(x, w)), {w})[0];
  EXPECT_EQ(g.op_name(), "matmul");  // no sum over a batch of products
  EXPECT_EQ(g.shape(), w.shape());
}

TEST(Backward, NumbersInRulesAreLiteralsAndSlotsStaySlots) {
  const LazyTensor x = data({3});
  int numbers = 0;
  const Below square_grad(grad(sum(square(x)), {x})[0]);
  for (Node* n : square_grad.nodes) {
    if (n->op->kind != OpKind::scalar && !(n->scalar_flags & Node::kScalarOperand)) continue;
    EXPECT_TRUE(n->scalar_flags & Node::kScalarLiteral);
    ++numbers;
  }
  EXPECT_EQ(numbers, 2);  // the 1 that d loss is, and the 2 of the rule
  bool slot = false;
  const Below scaled_grad(grad(sum(x * 0.5), {x})[0]);
  for (Node* n : scaled_grad.nodes)
    slot |= n->op->kind == OpKind::scalar && !(n->scalar_flags & Node::kScalarLiteral) && n->scalar_f == 0.5;
  EXPECT_TRUE(slot);
}

TEST(Backward, GradientsCarryTheScopeOfWhatTheyAreTheGradientOf) {
  const LazyTensor x = data({3});
  LazyTensor y;
  {
    const Scope scope("layer.7");
    y = tanh(x);
  }
  int named = 0;
  const Below below(grad(sum(y), {x})[0]);
  for (Node* n : below.nodes) named += n->scope && *n->scope == "layer.7";
  EXPECT_GT(named, 1);  // tanh itself, and its rule
  const LazyTensor after = exp(x);
  EXPECT_EQ(after.node()->scope, nullptr);
}

TEST(Backward, ZerosAreNotCarriedOn) {
  const LazyTensor x = data({3});
  const LazyTensor g = grad(sum(round(exp(x))), {x})[0];
  EXPECT_EQ(g.op_name(), "full");
  EXPECT_EQ(grad(sum(stop_gradient(exp(x))), {x})[0].op_name(), "full");
  EXPECT_EQ(grad(sum(cast(cast(exp(x), DType::i32), DType::f32)), {x})[0].op_name(), "full");
  EXPECT_EQ(grad(sum(data({2})), {x})[0].shape(), Shape({3}));
}

TEST(Backward, TheSameParameterTwiceHasItsGradientTwice) {
  const LazyTensor x = data({3});
  const auto g = grad(sum(x * x), {x, x});
  EXPECT_EQ(g[0].node(), g[1].node());
}

TEST(Backward, Errors) {
  const LazyTensor x = data({3}), i = Tensor::zeros({3}, DType::i32);
  EXPECT_NE(error_of([&] { grad(x, {x}); }, ErrorKind::shape).find("[3]"), std::string::npos);
  error_of([&] { grad(sum(i), {x}); }, ErrorKind::dtype);
  EXPECT_NE(error_of([&] { grad(sum(x), {x, i}); }, ErrorKind::dtype).find("parameter 1"), std::string::npos);
  error_of([&] { grad(sum(x), std::vector<LazyTensor>{LazyTensor()}); }, ErrorKind::argument);
  error_of([&] { vjp({x}, {}, {x}); }, ErrorKind::argument);
  error_of([&] { vjp({x}, {data({2})}, {x}); }, ErrorKind::shape);
}

TEST(Checkpoint, RecordsTheInsideOnceMoreFromBarriers) {
  const LazyTensor x = data({4}), w = data({4});
  const LazyTensor y = checkpoint([&](const Tensors& in) { return sum(tanh(exp(in[0] * w))); }, {x});
  const LazyTensor g = grad(square(y), {x})[0];
  const Below below(g);
  EXPECT_EQ(below.count("exp"), 2);  // forward, for 2y; and again
  Node* barrier = nullptr;
  for (Node* n : below.nodes)
    if (n->op == &ops::identity_def && n->attributes()[0] == ops::kBarrier) barrier = n;
  ASSERT_NE(barrier, nullptr);
  EXPECT_EQ(barrier->input(0).load(), x.node());
  // It waits for the gradient, which is made of the forward pass only.
  EXPECT_FALSE(Below(LazyTensor::share(barrier->input(1).load())).nodes.contains(barrier));
}

TEST(Checkpoint, WhatIsCapturedHasGradientsToo) {
  const LazyTensor x = data({4}), w = data({4}), unused = data({4});
  const LazyTensor y = checkpoint([&](const Tensors& in) { return sum(in[0] * exp(w)); }, {x, unused});
  const auto g = grad(y, {x, w, unused});
  EXPECT_NE(g[0].op_name(), "full");
  EXPECT_NE(g[1].op_name(), "full");
  EXPECT_EQ(g[2].op_name(), "full");
}

TEST(Checkpoint, OfNothingAndNested) {
  const LazyTensor x = data({4});
  const auto same = [](const Tensors& in) { return in[0]; };
  EXPECT_EQ(grad(sum(checkpoint(same, {x})), {x})[0].shape(), x.shape());
  const auto outer = [&](const Tensors& in) {
    return tanh(checkpoint([](const Tensors& inner) { return exp(inner[0]); }, {in[0] * 2}));
  };
  EXPECT_EQ(grad(sum(checkpoint(outer, {x})), {x})[0].shape(), x.shape());
}

TEST(ParamTree, KeepsItsOrderAndNamesWhatIsMissing) {
  ParamTree p{{"b", data({2})}, {"a", data({3})}};
  p.insert("c", data({4}));
  std::string order;
  for (const auto& [path, tensor] : p) order += path;
  EXPECT_EQ(order, "bac");
  EXPECT_EQ(p["a"].shape(), Shape({3}));
  EXPECT_TRUE(p.contains("c"));
  EXPECT_FALSE(p.contains("d"));
  EXPECT_NE(error_of([&] { p["layer.9.w"]; }, ErrorKind::argument).find("layer.9.w"), std::string::npos);
  error_of([&] { p.insert("a", data({1})); }, ErrorKind::argument);
  error_of([&] { p.with({data({1})}); }, ErrorKind::argument);
  const ParamTree q = p.with({data({5}), data({6}), data({7})});
  EXPECT_EQ(q["a"].shape(), Shape({6}));
  const ParamTree g = grad(sum(p["a"]), p);
  EXPECT_EQ(g.size(), 3u);
  EXPECT_EQ(g["b"].shape(), Shape({2}));
}

}  // namespace
}  // namespace metal_candle
