// The end of a program: what was submitted is finished, nothing hangs, and tensors with static lifetime still work.
#include <gtest/gtest.h>

#include <unistd.h>

#include <cstdio>
#include <cstdlib>

#include "metal_candle/ops.hpp"
#include "tests/runtime/probe.h"

namespace metal_candle {
namespace {

constexpr int kSteps = 50, kGood = 42;

/// Outlives the library's own clean-up: it was made before the queue began.
struct Last {
  LazyTensor result;
  ~Last() {
    if (!result.defined()) return;
    const bool finished = Tensor(result).is_ready() && Tensor(result).item<float>() == kSteps;
    // Replays in destructors run where they stand, asynchronous ones too.
    const LazyTensor more = result * 2, later = more + 1;
    const bool works =
        more.eval().item<float>() == 2 * kSteps && eval_async({.roots = {later}}).get<float>(later) == 2 * kSteps + 1;
    _exit(finished && works ? kGood : 1);
  }
};

[[noreturn]] void end_with_work_in_flight() {
  static Last last;
  const LazyTensor known = Tensor::zeros({1}) * 2;
  known.eval();
  (known + 1).eval();
  LazyTensor x = Tensor::zeros({1});
  set_queue_depth(kSteps);
  for (int i = 0; i < kSteps; ++i) {
    x = test::probe(x);
    eval_async({.roots = {x}});
  }
  last.result = x;
  std::exit(1);
}

TEST(Exit, FinishesWhatWasSubmitted) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  EXPECT_EXIT(end_with_work_in_flight(), testing::ExitedWithCode(kGood), "");
}

}  // namespace
}  // namespace metal_candle
