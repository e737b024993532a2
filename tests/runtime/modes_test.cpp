// Eager mode and switched-off passes give what lazy evaluation gives; find_nan names the operation.
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <thread>

#include "graph/node.h"
#include "metal_candle/autograd.hpp"
#include "metal_candle/ops.hpp"
#include "metal_candle/scope.hpp"
#include "tests/runtime/probe.h"

namespace metal_candle {
namespace {

using test::probe;

Tensor ramp(const Shape& shape) {
  std::vector<float> v(static_cast<std::size_t>(shape.numel()));
  for (std::size_t i = 0; i < v.size(); ++i) v[i] = 0.1f * static_cast<float>(i % 17) - 0.7f;
  return Tensor::from(v, shape);
}

/// Some of everything: elementwise, reductions, products, views, gathers, several outputs, a random draw.
Tensors sampler() {
  const auto x = ramp({6, 8}), w = ramp({8, 4});
  const LazyTensor h = tanh(matmul(x, w) * 0.5f + 0.25f);
  const LazyTensor n = rms_norm(softmax(h * 2, -1) + transpose(reshape(ramp({24}), {4, 6})));
  const LazyTensor rows = take(n, Tensor::from<std::int64_t>({0, 5, 0}, {3}));
  const Sorted s = sort(h, -1);
  return {h, n, rows, s.values, s.indices, sum(n * n), mean(rows, {1}), randn({5}, {.key = Key{7}}), h * 0.0f + 1};
}

void expect_equal(const Tensors& a, const Tensors& b) {
  ASSERT_EQ(a.size(), b.size());
  for (std::size_t i = 0; i < a.size(); ++i) {
    const std::vector<double> x = Tensor(a[i]).to_f64(), y = Tensor(b[i]).to_f64();
    ASSERT_EQ(x.size(), y.size());
    for (std::size_t k = 0; k < x.size(); ++k) EXPECT_NEAR(x[k], y[k], 1e-6) << "root " << i << " element " << k;
  }
}

TEST(EagerModeTest, EvaluatesAsItRecords) {
  const test::Counted counted;
  const EagerMode eager;
  test::probe_runs = 0;
  const LazyTensor y = probe(Tensor::zeros({3}));
  EXPECT_TRUE(y.is_evaluated());
  EXPECT_EQ(test::probe_runs, 1);
  const LazyTensor z = y * 2;
  EXPECT_TRUE(z.is_evaluated());
  EXPECT_EQ(test::probe_runs, 1);
  EXPECT_EQ(counted.evaluations(), 2u);
}

TEST(EagerModeTest, GivesWhatLazyGives) {
  const Tensors lazy = sampler();
  eval(lazy);
  const EagerMode eager;
  const Tensors now = sampler();
  for (const LazyTensor& t : now) EXPECT_TRUE(t.is_evaluated());
  expect_equal(lazy, now);
}

TEST(EagerModeTest, EndsWithItsScopeAndIsAThreadsOwn) {
  {
    const EagerMode outer;
    { const EagerMode inner; }
    EXPECT_TRUE((Tensor::zeros({2}) + 1).is_evaluated());
    std::thread([] { EXPECT_FALSE((Tensor::zeros({2}) + 1).is_evaluated()); }).join();
  }
  EXPECT_FALSE((Tensor::zeros({2}) + 1).is_evaluated());
}

TEST(EagerModeTest, GradientsPassThroughEvaluatedTensors) {
  const auto x = ramp({5});
  const auto gradient = [&] {
    const LazyTensor loss = sum(tanh(x * 3) * x);
    return grad(loss, std::vector<LazyTensor>{x})[0];
  };
  const LazyTensor lazy = gradient();
  lazy.eval();
  const EagerMode eager;
  const LazyTensor now = gradient();
  EXPECT_TRUE(now.is_evaluated());
  expect_equal({lazy}, {now});
}

TEST(EagerModeTest, AnExplicitEvalLetsInputsGo) {
  const auto x = ramp({5});
  LazyTensor y;
  {
    const EagerMode eager;
    y = x * 3;
    EXPECT_NE(y.node()->input(0).load(), nullptr);
    y.eval();
  }
  EXPECT_EQ(y.node()->input(0).load(), nullptr);
  EXPECT_THROW(grad(sum(y), std::vector<LazyTensor>{x}), UserError);
}

TEST(EagerModeTest, ErrorsComeFromTheCallThatRecords) {
  const EagerMode eager;
  EXPECT_THROW(test::failing_probe(Tensor::zeros({2})), UserError);
  EXPECT_EQ(Tensor(Tensor::zeros({2}) + 1).to_vector<float>()[0], 1);
}

TEST(PassesOffTest, GivesTheSame) {
  const Tensors planned = sampler();
  eval(planned);
  std::vector<std::vector<std::string>> choices = {{}};
  for (const std::string& name : compiler_passes()) choices.push_back({name});
  EXPECT_GT(choices.size(), 3u);
  for (const auto& names : choices) {
    SCOPED_TRACE(names.empty() ? "all" : names[0]);
    const PassesOff off(names);
    const Tensors plain = sampler();
    eval(plain);
    expect_equal(planned, plain);
  }
}

TEST(PassesOffTest, WithoutAMemoryPlanAllTemporariesAreThereAtOnce) {
  const auto x = Tensor::ones({64, 64});
  const LazyTensor y = matmul(matmul(matmul(x, x), x), x);
  EXPECT_NE(explain({y}).find("arena 32768 bytes\n"), std::string::npos) << explain({y});
  const PassesOff off({"memory"});
  EXPECT_NE(explain({y}).find("arena 32768 bytes\n"), std::string::npos) << explain({y});
}

TEST(PassesOffTest, NestsAndRefusesUnknownNames) {
  EXPECT_THROW(PassesOff({"no such pass"}), UserError);
  const std::string with = explain({sum(tanh(ramp({64}) * 2))});
  {
    const PassesOff off;
    EXPECT_NE(explain({sum(tanh(ramp({64}) * 2))}), with);
  }
}

// ---- find_nan -------------------------------------------------------------------------------------------------------

TEST(FindNan, NamesTheOperationAndItsScope) {
  const auto x = Tensor::from<float>({1, -1, 2}, {3});
  LazyTensor y;
  {
    const Scope scope("layer.3");
    y = log(x) * 2;
  }
  const LazyTensor z = sum(y + 1);
  const std::string text = find_nan({z});
  EXPECT_EQ(text.rfind("log f32 [3]", 0), 0u) << text;
  EXPECT_NE(text.find("layer.3"), std::string::npos) << text;
  EXPECT_FALSE(z.is_evaluated());
  EXPECT_FALSE(y.is_evaluated());
  EXPECT_TRUE(std::isnan(z.eval().item<float>()));
}

TEST(FindNan, InfinityFromADivision) {
  const std::string text = find_nan({Tensor::ones({2}) / Tensor::zeros({2})});
  EXPECT_EQ(text.rfind("div", 0), 0u) << text;
}

TEST(FindNan, WhatCameInIsNotBlamed) {
  const auto x = Tensor::from<float>({1, std::nanf(""), 2}, {3});
  EXPECT_EQ(find_nan({x * 2 + 1}), "");
  const auto mask = Tensor::from({true, false, true}, {3});
  EXPECT_EQ(find_nan({where(mask, Tensor::ones({3}), -std::numeric_limits<double>::infinity())}), "");
}

TEST(FindNan, NanOfInfinitiesThatCameInIsBlamed) {
  const float inf = std::numeric_limits<float>::infinity();
  const auto row = Tensor::from<float>({-inf, -inf}, {2});
  const std::string softmax_of_nothing = find_nan({softmax(row) * 2});
  EXPECT_EQ(softmax_of_nothing.rfind("softmax", 0), 0u) << softmax_of_nothing;
  EXPECT_NE(softmax_of_nothing.find("first NaN"), std::string::npos) << softmax_of_nothing;
  const std::string difference = find_nan({row - row});
  EXPECT_EQ(difference.rfind("sub", 0), 0u) << difference;
  const std::string by_number = find_nan({row * 0.0f});
  EXPECT_EQ(by_number.rfind("mul", 0), 0u) << by_number;
  EXPECT_EQ(find_nan({row * 2 + 1}), "");
  // An infinity beside a NaN that came in.
  const std::string division = find_nan({1.0f / Tensor::from<float>({std::nanf(""), 0}, {2})});
  EXPECT_EQ(division.rfind("div", 0), 0u) << division;
  EXPECT_NE(division.find("first infinity"), std::string::npos) << division;
}

TEST(FindNan, FindsNothingInAHealthyGraph) { EXPECT_EQ(find_nan(sampler()), ""); }

}  // namespace
}  // namespace metal_candle
