// The end of a program: what was submitted is finished, nothing hangs, and tensors with static lifetime still work.
#include <gtest/gtest.h>

#include <unistd.h>

#include <cmath>
#include <cstdio>
#include <cstdlib>

#include "metal_candle/autograd.hpp"
#include "metal_candle/ops.hpp"
#include "tests/runtime/probe.h"

namespace metal_candle {
namespace {

constexpr int kSteps = 50, kGood = 42;

/// Outlives the library's own clean-up: it was made before the queue began.
struct Last {
  LazyTensor result;
  /// A structure that was not seen before, with something for every pass to do.
  bool compiles() const {
    const PassesOff no_pass({"overlap"});
    const LazyTensor x = expand(reshape(result, {1, 1}), {4, 8}), w = transpose(ones({8, 8})) * 1.0;
    const LazyTensor y = matmul(softmax(x), w) + lora_fused(x, ones({8, 2}), zeros({2, 8}), 0.5);
    const LazyTensor loss = mean(square(rms_norm(sort(y).values)));
    const LazyTensor gradient = grad(loss, {result})[0];
    eval({loss, gradient});
    return std::abs(Tensor(loss).item<float>() - 1) < 1e-3 && Tensor(gradient).numel() == 1;
  }
  ~Last() {
    if (!result.defined()) return;
    const bool finished = Tensor(result).is_ready() && Tensor(result).item<float>() == kSteps;
    // Replays in destructors run where they stand, asynchronous ones too.
    const LazyTensor more = result * 2, later = more + 1;
    const bool works =
        more.eval().item<float>() == 2 * kSteps && eval_async({.roots = {later}}).get<float>(later) == 2 * kSteps + 1;
    _exit(finished && works && compiles() ? kGood : 1);
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
