// Many threads at once: recording, evaluating the same nodes, recording from what others evaluate. Run it under TSan.
#include <gtest/gtest.h>

#include <barrier>
#include <cmath>
#include <functional>
#include <thread>

#include "metal_candle/ops.hpp"
#include "tests/runtime/probe.h"

namespace metal_candle {
namespace {

constexpr int kThreads = 16;

void on_threads(const std::function<void(int)>& f) {
  std::barrier start(kThreads);
  std::vector<std::thread> threads;
  for (int i = 0; i < kThreads; ++i)
    threads.emplace_back([&, i] {
      start.arrive_and_wait();
      f(i);
    });
  for (std::thread& t : threads) t.join();
}

TEST(Threads, EachItsOwnGraph) {
  on_threads([](int i) {
    LazyTensor y = Tensor::full({8}, i);
    for (int step = 0; step < 50; ++step) {
      y = y + 1;
      if (step % 5 == 0) y.eval();
    }
    EXPECT_EQ(y.eval().to_vector<float>()[7], static_cast<float>(i + 50));
  });
}

TEST(Threads, OneNodeEvaluatedByAll) {
  for (int round = 0; round < 30; ++round) {
    const LazyTensor shared = tanh(Tensor::full({33}, 0.25) * 2) + 1, root = sum(shared);
    const float expected = 33 * (std::tanh(0.5f) + 1);
    on_threads([&](int i) {
      if (i % 2 == 0) {
        EXPECT_NEAR(root.eval().item<float>(), expected, 1e-4);
      } else {
        eval({shared, root});
        EXPECT_NEAR(Tensor(shared).to_vector<float>()[32], expected / 33, 1e-6);
      }
    });
  }
}

TEST(Threads, RecordingFromWhatOthersEvaluate) {
  for (int round = 0; round < 30; ++round) {
    std::vector<LazyTensor> chain = {Tensor::zeros({9})};
    for (int i = 0; i < 40; ++i) chain.push_back(chain.back() + 1);
    on_threads([&](int i) {
      for (int k = 0; k < 10; ++k) {
        const auto at = static_cast<std::size_t>((i * 7 + k * 11) % 40 + 1);
        const LazyTensor mine = chain[at] * 2 + chain[at - 1];
        EXPECT_EQ(mine.eval().to_vector<float>()[4], static_cast<float>(3 * at - 1));
        if (k % 3 == 0) chain[at].eval();
      }
    });
  }
}

// Where graphs had locks, a + b on one thread and b + a on another could each hold one and wait for the other.
TEST(Threads, TwoGraphsJoinedInOppositeOrder) {
  for (int round = 0; round < 30; ++round) {
    const LazyTensor a = exp(Tensor::full({64}, 0.0f)) * 3, b = sqrt(Tensor::full({64}, 16.0f)) + 1;
    on_threads([&](int i) {
      LazyTensor y = i % 2 ? a - b : b - a;
      for (int k = 0; k < 20; ++k) y = i % 2 ? (y + a) + b : (b + y) + a;
      EXPECT_EQ(y.eval().to_vector<float>()[63], (i % 2 ? -2.0f : 2.0f) + 20 * 8);
    });
  }
}

TEST(Threads, AsyncFromAll) {
  set_queue_depth(4);
  on_threads([](int i) {
    LazyTensor y = Tensor::full({64}, i);
    for (int step = 0; step < 40; ++step) {
      const LazyTensor next = step % 3 == 0 ? y * 1 + 1 : test::probe(y);
      if (step % 2 == 0) eval_async({.roots = {next}, .donate = {y}});
      else next.eval();
      y = next;
    }
    EXPECT_EQ(Tensor(y).to_vector<float>()[63], static_cast<float>(i + 40));
  });
  set_queue_depth(64);
  synchronize();
}

TEST(Threads, CompileASharedStructureOnce) {
  clear_plan_cache();
  const test::Counted counted;
  on_threads(
      [](int i) { EXPECT_EQ((Tensor::full({77}, i) * 3).eval().to_vector<float>()[0], static_cast<float>(3 * i)); });
  EXPECT_EQ(counted.compiled(), 1u);
  EXPECT_EQ(counted.replays(), kThreads - 1u);
}

TEST(Threads, SettingsWhileOthersCompute) {
  on_threads([](int i) {
    for (int k = 0; k < 20; ++k) {
      if (i == 0) set_threads(k % 3 + 1);
      else if (i == 1) clear_plan_cache();
      else if (i == 2) trim_memory();
      else if (i == 3) (void)memory();
      else if (i == 4) (void)explain({Tensor::ones({5}) + 1});
      else EXPECT_EQ(sum(Tensor::ones({300, 200})).eval().item<float>(), 60000);
    }
  });
  set_threads(0);
}

}  // namespace
}  // namespace metal_candle
