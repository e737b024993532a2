// The plan cache: what is part of a plan's key and what is not, eviction, and the warning of repeated misses.
#include <gtest/gtest.h>

#include <mutex>

#include "metal_candle/autograd.hpp"
#include "metal_candle/few_sizes.hpp"
#include "metal_candle/ops.hpp"
#include "tests/runtime/probe.h"

namespace metal_candle {
namespace {

using test::Counted;

class PlanCacheTest : public testing::Test {
 protected:
  void SetUp() override {
    clear_plan_cache();
    set_log([this](const std::string& line) { log += line + "\n"; });
  }
  void TearDown() override {
    set_log({});
    set_plan_cache_size(512);
  }
  std::string log;
};

// Misses of smaller graphs than this are not worth a word.
LazyTensor long_enough(LazyTensor x) {
  for (int i = 0; i < 8; ++i) x = tanh(x);
  return x;
}

TEST_F(PlanCacheTest, SmallGraphsMayMiss) {
  for (std::int64_t n = 61; n < 69; ++n) (Tensor::ones({n}) * 2).eval();
  EXPECT_EQ(log, "");
}

TEST_F(PlanCacheTest, TheSameStructureIsReplayed) {
  const auto x = Tensor::ones({4});
  (x * 2 + 1).eval();
  const Counted counted;
  EXPECT_EQ((Tensor::zeros({4}) * 2 + 1).eval().to_vector<float>(), (std::vector<float>{1, 1, 1, 1}));
  EXPECT_EQ(counted.compiled(), 0u);
  EXPECT_EQ(counted.replays(), 1u);
}

TEST_F(PlanCacheTest, NumbersAreSlots) {
  const auto x = Tensor::ones({4});
  (x * 2.0f).eval();
  const Counted counted;
  for (int i = 0; i < 10; ++i)
    EXPECT_EQ((x * static_cast<float>(i)).eval().to_vector<float>()[3], static_cast<float>(i));
  EXPECT_EQ(counted.compiled(), 0u);
}

TEST_F(PlanCacheTest, OneNumberInTwoPlacesIsTwoSlots) {
  const auto x = Tensor::ones({4});
  (x * 2.0f - 2.0f).eval();
  const Counted counted;
  EXPECT_EQ((x * 3.0f - 1.0f).eval().to_vector<float>()[0], 2);
  EXPECT_EQ(counted.compiled(), 0u);
}

TEST_F(PlanCacheTest, LiteralsShapesTypesAndAttributesAreStructure) {
  auto literal = [](float v) {
    const LiteralScope scope;
    return Tensor::ones({4}) * v;
  };
  const std::vector<std::function<LazyTensor()>> all = {
      [&] { return literal(2); },
      [&] { return literal(3); },
      [] { return Tensor::ones({4}) * 2; },
      [] { return Tensor::ones({5}) * 2; },
      [] { return Tensor::ones({4}, DType::f64) * 2; },
      [] {
        return sum(Tensor::ones({4, 4}), {0});
      },
      [] {
        return sum(Tensor::ones({4, 4}), {1});
      },
      [] {
        return transpose(Tensor::ones({4, 4})).eval() * 2;
      },
      [] {
        return Tensor::ones({4, 4}) * 2;
      },
      [] {
        const auto x = Tensor::ones({4});
        return x + x;
      },
      [] { return Tensor::ones({4}) + Tensor::ones({4}); },
  };
  for (const auto& f : all) {
    const LazyTensor t = f();
    const Counted counted;
    t.eval();
    EXPECT_EQ(counted.compiled(), 1u);
  }
  for (const auto& f : all) {
    const LazyTensor t = f();
    const Counted counted;
    t.eval();
    EXPECT_EQ(counted.compiled(), 0u);
  }
}

TEST_F(PlanCacheTest, RootsAndTheirOrderAreStructure) {
  auto run = [](int which) {
    const auto x = Tensor::ones({4});
    const LazyTensor a = x + 1, b = a * 2;
    const Counted counted;
    if (which == 0) eval({a, b});
    if (which == 1) eval({b, a});
    if (which == 2) eval({b});
    return counted.compiled();
  };
  for (int i = 0; i < 3; ++i) EXPECT_EQ(run(i), 1u) << i;
  for (int i = 0; i < 3; ++i) EXPECT_EQ(run(i), 0u) << i;
}

TEST_F(PlanCacheTest, PassesArePartOfTheKey) {
  auto compiled = [] {
    const Counted counted;
    (Tensor::ones({4}) * 2 + 1).eval();
    return counted.compiled();
  };
  EXPECT_EQ(compiled(), 1u);
  {
    const PassesOff off;
    EXPECT_EQ(compiled(), 1u);
    EXPECT_EQ(compiled(), 0u);
  }
  EXPECT_EQ(compiled(), 0u);
}

TEST_F(PlanCacheTest, TheOldestGoesFirst) {
  EXPECT_THROW(set_plan_cache_size(-1), UserError);
  EXPECT_THROW(set_queue_depth(0), UserError);
  set_plan_cache_size(2);
  auto of_size = [](std::int64_t n) { (Tensor::ones({n}) + 1).eval(); };
  const Counted counted;
  of_size(11);
  of_size(12);
  of_size(11);
  of_size(13);  // instead of 12
  EXPECT_EQ(counted.evicted(), 1u);
  of_size(11);
  EXPECT_EQ(counted.compiled(), 3u);
  of_size(12);
  EXPECT_EQ(counted.compiled(), 4u);
}

TEST_F(PlanCacheTest, ThreeMissesInARowAreReported) {
  for (std::int64_t n = 21; n < 23; ++n) long_enough(Tensor::ones({n}) * 2).eval();
  EXPECT_EQ(log, "");
  for (std::int64_t n = 23; n < 26; ++n) long_enough(Tensor::ones({n}) * 2).eval();
  EXPECT_NE(log.find("extent 0 changed from 22 to 23"), std::string::npos) << log;
  EXPECT_EQ(log.find("from 23 to 24"), std::string::npos) << "said twice: " << log;
}

TEST_F(PlanCacheTest, SizesThatAreSaidToBeFewAreNotReported) {
  {
    const FewSizes few, nested;
    for (std::int64_t n = 61; n < 66; ++n) long_enough(Tensor::ones({n}) * 2).eval();
  }
  EXPECT_EQ(log, "");
  tanh(long_enough(Tensor::ones({60}) * 2)).eval();  // another program, so that a warning of before is forgotten
  for (std::int64_t n = 71; n < 74; ++n) long_enough(Tensor::ones({n}) * 2).eval();
  EXPECT_NE(log.find("extent 0 changed"), std::string::npos) << "only while the guard lives";
}

TEST_F(PlanCacheTest, DifferentProgramsAreNoRepeatedMiss) {
  const auto x = Tensor::ones({31});
  (x + 1).eval();
  (x * 2).eval();
  tanh(x).eval();
  (x * 2 + 1).eval();
  EXPECT_EQ(log, "");
}

TEST_F(PlanCacheTest, AHitInBetweenEndsTheRow) {
  for (std::int64_t n = 41; n < 47; ++n) {
    long_enough(Tensor::ones({n}) * 2).eval();
    long_enough(Tensor::ones({n}) * 3).eval();
  }
  EXPECT_EQ(log, "");
}

TEST_F(PlanCacheTest, AChangedLiteralIsNamed) {
  for (int i = 0; i < 3; ++i) {
    const LiteralScope scope;
    long_enough(sigmoid(Tensor::ones({51}) * static_cast<float>(i + 2))).eval();
  }
  EXPECT_NE(log.find("literal changed"), std::string::npos) << log;
}

TEST_F(PlanCacheTest, ATrainingLoopCompilesOnce) {
  auto w = Tensor::full({4, 3}, 0.1);
  const auto x = Tensor::arange(0, 8, 1, DType::f32), y = Tensor::ones({2, 3});
  LazyTensor weights = w;
  std::vector<float> losses;
  for (int step = 0; step < 6; ++step) {
    const LazyTensor e = matmul(reshape(x, {2, 4}), weights) - y, loss = mean(e * e);
    const std::vector<LazyTensor> g = grad(loss, std::vector<LazyTensor>{weights});
    const LazyTensor next = weights - g[0] * (0.01 / (step + 1));
    const Counted counted;
    eval({loss, next});
    EXPECT_EQ(counted.compiled(), step == 0 ? 1u : 0u);
    EXPECT_EQ(counted.replays(), step == 0 ? 0u : 1u);
    weights = next;
    losses.push_back(Tensor(loss).item<float>());
  }
  for (std::size_t i = 1; i < losses.size(); ++i) EXPECT_LT(losses[i], losses[i - 1]);
}

}  // namespace
}  // namespace metal_candle
