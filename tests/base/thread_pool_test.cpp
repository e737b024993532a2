// The thread pool: every task of every round once, rounds in order, errors, nesting, changing the number of threads.
#include "base/thread_pool.h"

#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <stdexcept>
#include <thread>
#include <vector>

#include "tests/support/in_child.h"

namespace metal_candle::base {
namespace {

class WithThreads {
 public:
  explicit WithThreads(int n) : before_(threads()) { set_threads(n); }
  ~WithThreads() { set_threads(before_); }

 private:
  int before_;
};

struct Counted {
  std::vector<std::uint32_t> tasks;
  std::vector<std::vector<int>> runs;  // plain ints: two runs of one task would be a race
  int most;
  std::atomic<int> wrong{0};

  Counted(std::vector<std::uint32_t> t, int most_threads) : tasks(std::move(t)), most(most_threads) {
    for (auto n : tasks) runs.emplace_back(n, 0);
  }
  static void run(void* user, int thread, int round, std::uint32_t task) {
    auto& c = *static_cast<Counted*>(user);
    ++c.runs[static_cast<std::size_t>(round)][task];
    if (thread < 0 || thread >= c.most) ++c.wrong;
    if (round == 0) return;
    for (int n : c.runs[static_cast<std::size_t>(round) - 1])
      if (n != 1) ++c.wrong;
  }
  void go() { run_rounds({tasks.data(), static_cast<int>(tasks.size()), run, this}, most); }
  bool right() const {
    for (const auto& round : runs)
      for (int n : round)
        if (n != 1) return false;
    return wrong == 0;
  }
};

TEST(ThreadPool, RunsEveryTaskOnceAndRoundsInOrder) {
  for (int n : {1, 2, 3, 4, 9}) {
    const WithThreads scope(n);
    EXPECT_EQ(threads(), n);
    for (int repeat = 0; repeat < 200; ++repeat) {
      Counted c({1, 7, 1, 1, 40, 2, 3, 100, 1}, n);
      c.go();
      ASSERT_TRUE(c.right()) << n << " threads, run " << repeat;
    }
  }
}

TEST(ThreadPool, ManyShortRounds) {
  const WithThreads scope(2);
  Counted c(std::vector<std::uint32_t>(20000, 2), 2);
  c.go();
  EXPECT_TRUE(c.right());
}

TEST(ThreadPool, NoRoundsIsNothing) {
  run_rounds({nullptr, 0, Counted::run, nullptr}, 2);
  bool called = false;
  parallel_for(0, 2, [&](std::uint32_t, int) { called = true; });
  EXPECT_FALSE(called);
}

TEST(ThreadPool, SleepersWakeUp) {
  const WithThreads scope(4);
  for (int i = 0; i < 20; ++i) {
    std::this_thread::sleep_for(std::chrono::milliseconds(1));  // longer than helpers stay hot
    // Two tasks that wait for each other: only a second thread can end this.
    std::atomic<int> arrived{0};
    parallel_for(2, 4, [&](std::uint32_t, int) {
      ++arrived;
      while (arrived < 2) std::this_thread::yield();
    });
  }
}

TEST(ThreadPool, UsesNoMoreThreadsThanAsked) {
  const WithThreads scope(8);
  for (int most : {2, 3, 5}) {
    std::atomic<int> inside{0}, peak{0};
    parallel_for(64, most, [&](std::uint32_t, int thread) {
      EXPECT_LT(thread, most);
      const int now = ++inside;
      int seen = peak;
      while (seen < now && !peak.compare_exchange_weak(seen, now)) {
      }
      std::this_thread::sleep_for(std::chrono::microseconds(200));
      --inside;
    });
    EXPECT_LE(peak, most);
  }
}

TEST(ThreadPool, ThrowsAfterTheOthersHaveRun) {
  for (int n : {1, 4}) {
    const WithThreads scope(n);
    std::atomic<int> ran{0};
    const auto go = [&] {
      parallel_for(50, n, [&](std::uint32_t task, int) {
        ++ran;
        if (task == 17) throw std::runtime_error("seventeen");
      });
    };
    EXPECT_THROW(go(), std::runtime_error);
    EXPECT_EQ(ran, 50);
    Counted c({5, 5}, n);
    c.go();
    EXPECT_TRUE(c.right()) << "the pool is unharmed";
  }
}

TEST(ThreadPool, JobsFromTasksRunInPlace) {
  const WithThreads scope(3);
  std::atomic<int> ran{0};
  parallel_for(6, 3, [&](std::uint32_t, int) { parallel_for(5, 3, [&](std::uint32_t, int) { ++ran; }); });
  EXPECT_EQ(ran, 30);
}

TEST(ThreadPool, CallersTakeTurns) {
  const WithThreads scope(3);
  std::vector<std::thread> callers;
  std::atomic<int> wrong{0};
  for (int i = 0; i < 4; ++i)
    callers.emplace_back([&] {
      for (int repeat = 0; repeat < 100; ++repeat) {
        Counted c({3, 1, 8}, 3);
        c.go();
        if (!c.right()) ++wrong;
      }
    });
  callers.emplace_back([] {
    for (int i = 0; i < 30; ++i) set_threads(1 + i % 4);
  });
  for (auto& t : callers) t.join();
  EXPECT_EQ(wrong, 0);
}

TEST(ThreadPool, AChildOfForkHasHelpers) {
  if (!test::kForks) GTEST_SKIP();
  const WithThreads scope(3);
  // Each task waits for the others: one thread alone never ends.
  const auto together = [] {
    std::atomic<int> there{0};
    parallel_for(3, 3, [&](std::uint32_t, int) {
      for (++there; there < 3;) std::this_thread::yield();
    });
    return there == 3;
  };
  ASSERT_TRUE(together());
  EXPECT_TRUE(test::in_child(together));
  EXPECT_TRUE(together());
}

}  // namespace
}  // namespace metal_candle::base
