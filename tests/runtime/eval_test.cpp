// eval: one root, several, shared parts, views, and what becomes of the graph.
#include <gtest/gtest.h>

#include "graph/node.h"
#include "metal_candle/autograd.hpp"
#include "metal_candle/graph.hpp"
#include "metal_candle/ops.hpp"
#include "tests/runtime/probe.h"

namespace metal_candle {
namespace {

using test::probe;
using Floats = std::vector<float>;

Tensor iota_f32(std::int64_t n) { return Tensor::arange(0, n, 1, DType::f32); }

TEST(Eval, OneRoot) {
  const auto x = Tensor::from<float>({1, 2, 3}, {3});
  const LazyTensor y = x * 2 + 1;
  EXPECT_FALSE(y.is_evaluated());
  const Tensor now = y.eval();
  EXPECT_TRUE(y.is_evaluated());
  EXPECT_TRUE(now.is_ready());
  EXPECT_EQ(now.to_vector<float>(), (Floats{3, 5, 7}));
  EXPECT_EQ(now.node(), y.node());
}

TEST(Eval, SeveralRootsInOnePlan) {
  const auto x = iota_f32(4);
  const LazyTensor a = x + 1, b = a * 2, c = sum(b);
  const test::Counted counted;
  eval({c, a, b});
  EXPECT_EQ(counted.evaluations(), 1u);
  EXPECT_EQ(Tensor(a).to_vector<float>(), (Floats{1, 2, 3, 4}));
  EXPECT_EQ(Tensor(b).to_vector<float>(), (Floats{2, 4, 6, 8}));
  EXPECT_EQ(Tensor(c).item<float>(), 20);
}

TEST(Eval, ASharedPartIsComputedOnce) {
  const LazyTensor shared = probe(iota_f32(8));
  const LazyTensor a = shared * 2, b = shared * 3;
  test::probe_runs = 0;
  eval({a, b, a + b});
  EXPECT_EQ(test::probe_runs, 1);
  EXPECT_EQ(Tensor(b).to_vector<float>()[7], 24);
}

TEST(Eval, AnInteriorHandleIsComputedAgain) {
  const LazyTensor inner = probe(iota_f32(8)), outer = inner * 2;
  test::probe_runs = 0;
  outer.eval();
  EXPECT_FALSE(inner.is_evaluated());
  EXPECT_EQ(inner.eval().to_vector<float>()[3], 4);
  EXPECT_EQ(test::probe_runs, 2);
}

TEST(Eval, AnEvaluatedTensorIsALeaf) {
  const LazyTensor y = probe(iota_f32(8));
  y.eval();
  test::probe_runs = 0;
  const LazyTensor z = y * 2;
  EXPECT_EQ(z.eval().to_vector<float>()[1], 4);
  EXPECT_EQ(test::probe_runs, 0);
  const test::Counted counted;
  y.eval();
  eval({y, z});
  eval({});
  EXPECT_EQ(counted.evaluations(), 0u);
}

TEST(Eval, InputsAreLetGo) {
  LazyTensor y;
  const Node* input = nullptr;
  {
    const auto x = iota_f32(8);
    input = x.node();
    y = x + 1;
  }
  EXPECT_EQ(y.node()->input(0).load(), input);
  y.eval();
  EXPECT_EQ(y.node()->input(0).load(), nullptr);
}

TEST(Eval, OneRootGivenTwice) {
  const LazyTensor y = iota_f32(3) + 1;
  eval({y, y});
  EXPECT_EQ(Tensor(y).to_vector<float>(), (Floats{1, 2, 3}));
}

TEST(Eval, EqualRootsMayShareABuffer) {
  const auto x = iota_f32(3);
  const LazyTensor a = x + x, b = x + x;
  eval({a, b});
  EXPECT_EQ(Tensor(a).to_vector<float>(), Tensor(b).to_vector<float>());
  LazyTensor gone = a;
  EXPECT_EQ((b * 2).eval().to_vector<float>(), (Floats{0, 4, 8}));
}

TEST(Eval, SomeRootsWereEvaluatedBefore) {
  const LazyTensor a = iota_f32(3) + 1, b = a * 2;
  a.eval();
  eval({a, b});
  EXPECT_EQ(Tensor(b).to_vector<float>(), (Floats{2, 4, 6}));
}

TEST(Eval, AViewOfALeafSharesItsBuffer) {
  const auto x = iota_f32(6);
  const LazyTensor t = transpose(reshape(x, {2, 3})), row = slice(reshape(x, {2, 3}), 0, 1, 2);
  eval({t, row});
  EXPECT_EQ(t.node()->storage.load(), x.node()->storage.load());
  EXPECT_EQ(Tensor(t).to_vector<float>(), (Floats{0, 3, 1, 4, 2, 5}));
  EXPECT_EQ(Tensor(row).to_vector<float>(), (Floats{3, 4, 5}));
  EXPECT_FALSE(Tensor(t).is_contiguous());
  // A view is an input like any other.
  EXPECT_EQ(sum(t * 2).eval().item<float>(), 30);
  EXPECT_EQ((row + 1).eval().to_vector<float>(), (Floats{4, 5, 6}));
}

TEST(Eval, AViewOfAResult) {
  const LazyTensor y = reshape(iota_f32(6), {2, 3}) + 1, t = transpose(y);
  eval({t, y});
  EXPECT_EQ(Tensor(t).to_vector<float>(), (Floats{1, 4, 2, 5, 3, 6}));
  EXPECT_EQ(Tensor(y).to_vector<float>(), (Floats{1, 2, 3, 4, 5, 6}));
}

TEST(Eval, AViewOutlivesItsBase) {
  LazyTensor t;
  {
    const LazyTensor y = reshape(iota_f32(6), {2, 3}) + 1;
    t = transpose(y);
    eval({t, y});
  }
  EXPECT_EQ(Tensor(t).to_vector<float>(), (Floats{1, 4, 2, 5, 3, 6}));
}

TEST(Eval, SeveralOutputsOneByOne) {
  const auto x = Tensor::from<float>({3, 1, 2}, {3});
  const Sorted s = sort(x);
  EXPECT_EQ(s.values.eval().to_vector<float>(), (Floats{1, 2, 3}));
  EXPECT_EQ(s.indices.eval().to_vector<std::int32_t>(), (std::vector<std::int32_t>{1, 2, 0}));
}

TEST(Eval, ABareNumber) { EXPECT_EQ(scalar(2.5).eval().item<double>(), 2.5); }

TEST(Eval, NothingToCompute) {
  const auto empty = Tensor::zeros({0, 3});
  EXPECT_EQ((empty + 1).eval().numel(), 0);
  EXPECT_EQ(sum(empty).eval().item<float>(), 0);
}

TEST(Eval, AnEmptyHandleIsRefused) {
  EXPECT_THROW(LazyTensor().eval(), UserError);
  EXPECT_THROW(eval({iota_f32(2) + 1, LazyTensor()}), UserError);
  EXPECT_THROW(eval_async({.roots = {LazyTensor()}}), UserError);
}

TEST(Eval, AFailedEvaluationLeavesItsRootsAsTheyWere) {
  const LazyTensor bad = take(iota_f32(3), Tensor::from<std::int64_t>({7}, {1}));
  EXPECT_THROW(bad.eval(), UserError);
  EXPECT_FALSE(bad.is_evaluated());
  EXPECT_THROW((bad + 1).eval(), UserError);
  EXPECT_EQ((iota_f32(3) + 1).eval().to_vector<float>(), (Floats{1, 2, 3}));
}

// Neither capture, nor compilation, nor destruction may recurse.
TEST(Eval, AMillionOperations) {
  constexpr int kDeep = 1'000'000;
  LazyTensor x = Tensor::zeros({2, 3}) + 1;
  for (int i = 0; i < kDeep; ++i) x = transpose(x);
  EXPECT_EQ(sum(x).eval().item<float>(), 6);
  const auto one = Tensor::ones({1});
  LazyTensor dropped = one;
  for (int i = 0; i < kDeep; ++i) dropped = dropped + one;
  EXPECT_EQ(ComputationGraph::capture({dropped}).nodes.size(), kDeep + 1u);
}

// Readers make numbers for themselves, but neither as deep as this nor again and again.
TEST(Eval, LongArithmeticOnNumbersAlone) {
  constexpr int kDeep = 100'000;
  const Tensor x = Tensor::full({3}, 2.0F);
  LazyTensor counted = zeros({}), doubled = ones({}), product = x;
  for (int i = 0; i < kDeep; ++i) counted = counted + 1.0F;
  EXPECT_EQ((x + counted).eval().to_f64(), std::vector<double>(3, kDeep + 2));
  for (int i = 0; i < 100; ++i) doubled = doubled + doubled;
  EXPECT_EQ((x * doubled).eval().to_f64(), std::vector<double>(3, 0x1p101));
  for (int i = 0; i < kDeep; ++i) product = product * 1.0F;
  EXPECT_EQ(grad(sum(product), {LazyTensor(x)})[0].eval().to_f64(), std::vector<double>(3, 1));
}

TEST(Eval, ADeepChainOfArithmetic) {
  constexpr int kDeep = 1'000'000;
  const auto one = Tensor::ones({1});
  LazyTensor y = Tensor::zeros({1});
  for (int i = 0; i < kDeep; ++i) y = y + one;
  EXPECT_EQ(y.eval().item<float>(), kDeep);
}

TEST(Explain, ShowsThePlanAndComputesNothing) {
  const LazyTensor y = probe(iota_f32(8)) * 2;
  test::probe_runs = 0;
  const std::string text = explain({y});
  EXPECT_NE(text.find("probe"), std::string::npos) << text;
  EXPECT_EQ(test::probe_runs, 0);
  EXPECT_FALSE(y.is_evaluated());
}

}  // namespace
}  // namespace metal_candle
