// Children of fork: what was evaluated and what was waiting is there, threads are made anew, and no lock stays shut that
// another thread of the parent held.
#include <gtest/gtest.h>
#include <unistd.h>

#include <atomic>
#include <cstdlib>
#include <string>
#include <thread>
#include <vector>

#include "metal_candle/ops.hpp"
#include "metal_candle/runtime.hpp"
#include "metal_candle/scope.hpp"
#include "runtime/queue.h"
#include "tests/runtime/probe.h"
#include "tests/support/in_child.h"

#if defined(__SANITIZE_ADDRESS__)
// What the parent's threads held lies in a child, and is nobody's there. The sanitizer asks as a process exits.
static const pid_t first_process = getpid();
extern "C" int __lsan_is_turned_off() { return getpid() != first_process; }
#endif

namespace metal_candle {
namespace {

using test::in_child;
using test::probe;

class Fork : public testing::Test {
  void SetUp() override {
    if (!test::kForks) GTEST_SKIP();
  }
};

/// 3 in its corner.
LazyTensor product() { return matmul(ones({192, 3}), ones({3, 192})); }
float corner(const LazyTensor& x) { return x.eval().to_vector<float>()[0]; }

bool evaluates() {
  const LazyTensor now = product() + 1, later = now + 1;
  now.eval();
  eval_async({.roots = {later}}).wait();
  return corner(now) == 4 && corner(later) == 5;
}

TEST_F(Fork, AChildEvaluatesAsItsParentDid) {
  ASSERT_TRUE(evaluates());
  EXPECT_TRUE(in_child([] { return evaluates() && evaluates(); }));
  EXPECT_TRUE(in_child([] { return evaluates() && in_child(evaluates); })) << "a child's child";
  EXPECT_TRUE(evaluates()) << "the parent goes on";
}

TEST_F(Fork, AChildEndsByItself) {
  ASSERT_TRUE(evaluates());
  EXPECT_TRUE(in_child([]() -> bool { std::exit(0); }));
}

TEST_F(Fork, WhatWaitsInTheQueueWaitsInBoth) {
  GateForTest gate;
  LazyTensor x = Tensor::zeros({4});
  for (int i = 0; i < 5; ++i) {
    x = probe(x);
    eval_async({.roots = {x}});
  }
  const auto opened = [&] {
    gate.open();
    return corner(x) == 5 && evaluates();
  };
  EXPECT_TRUE(in_child(opened));
  EXPECT_FALSE(Tensor(x).is_ready());
  EXPECT_TRUE(opened());
}

TEST_F(Fork, LocksOfOtherThreadsAreFree) {
  std::atomic<bool> stop{false};
  std::atomic<int> wrong{0};
  std::vector<std::thread> others;
  for (int t = 0; t < 3; ++t)
    others.emplace_back([&, t] {
      for (std::int64_t n = 1; !stop; n = n % 50 + 1) {
        const Scope scope("n" + std::to_string(n));
        const LazyTensor x = ones({n}) + t;
        if (n % 10 == 0) clear_plan_cache();  // so that something is compiled
        if (t == 0) eval_async({.roots = {x}});
        if (corner(sum(x)) != static_cast<float>(n * (t + 1))) ++wrong;
      }
    });
  for (int i = 0; i < 50; ++i) EXPECT_TRUE(in_child(evaluates)) << i;
  stop = true;
  for (std::thread& t : others) t.join();
  EXPECT_EQ(wrong, 0);
}

std::atomic<bool> child_of_kernel_ran{false};
void run_forking(const KernelCall& c, int, std::int64_t) {
  child_of_kernel_ran = in_child([] { return true; });
  c.outputs[0].as<float>()[0] = 1;
}
const CpuKernel forking_kernel{.run = run_forking, .tasks = test::one_task};
const OpDef forking_def{.name = "forking",
                        .kind = OpKind::kernel,
                        .infer = [](const OpCall&, InferResult& r) { r.add(DType::f32, {}); },
                        .decompose = nullptr,
                        .vjp = NoGrad{},
                        .samples = nullptr,
                        .cpu = &forking_kernel};

TEST_F(Fork, AKernelMayFork) {
  const LazyTensor here = record(forking_def, {ones({1})}), there = record(forking_def, {ones({1})});
  here.eval();
  EXPECT_TRUE(child_of_kernel_ran.exchange(false));
  eval_async({.roots = {there}}).wait();
  EXPECT_TRUE(child_of_kernel_ran);
}

}  // namespace
}  // namespace metal_candle
