// Memory: a replay allocates nothing, a limit is an error and not a crash, nothing leaks after a failure.
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>

#include <atomic>
#include <cstdlib>
#include <fstream>
#include <new>

#include "metal_candle/autograd.hpp"
#include "metal_candle/compiled.hpp"
#include "metal_candle/ops.hpp"
#include "runtime/queue.h"
#include "tests/runtime/probe.h"

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define MC_COUNTS_ALLOCATIONS 0
#else
#define MC_COUNTS_ALLOCATIONS 1
#endif

namespace {
std::atomic<std::uint64_t> allocations{0};
}

#if MC_COUNTS_ALLOCATIONS
// GCC sees free() where GoogleTest's `new` was inlined, and does not see that both are ours.
#pragma GCC diagnostic ignored "-Wmismatched-new-delete"
// Every C++ allocation of this program, on every thread. The library calls malloc in no other way.
void* operator new(std::size_t bytes) {
  allocations.fetch_add(1, std::memory_order_relaxed);
  if (void* p = std::malloc(bytes ? bytes : 1)) return p;
  throw std::bad_alloc();
}
void* operator new(std::size_t bytes, std::align_val_t align) {
  allocations.fetch_add(1, std::memory_order_relaxed);
  const auto a = static_cast<std::size_t>(align);
  if (void* p = std::aligned_alloc(a, (bytes + a - 1) / a * a)) return p;
  throw std::bad_alloc();
}
void operator delete(void* p) noexcept { std::free(p); }
void operator delete(void* p, std::size_t) noexcept { std::free(p); }
void operator delete(void* p, std::align_val_t) noexcept { std::free(p); }
void operator delete(void* p, std::size_t, std::align_val_t) noexcept { std::free(p); }
#endif

namespace metal_candle {
namespace {

/// A step of training: two layers, gradients, an update with a learning rate that changes every time.
struct Loop {
  LazyTensor w1 = randn({32, 64}, {.key = Key{1}}).eval(), w2 = randn({64, 8}, {.key = Key{2}}).eval();
  Tensor x = randn({16, 32}, {.key = Key{3}}).eval(), y = Tensor::ones({16, 8});
  std::vector<LazyTensor> roots = std::vector<LazyTensor>(3);

  void record(int step) {
    const LazyTensor e = matmul(tanh(matmul(x, w1) * 0.1f), w2) - y, loss = mean(e * e);
    const Tensors g = grad(loss, {w1, w2});
    const double lr = 0.01 / (step + 1);
    roots = {loss, w1 - g[0] * lr, w2 - g[1] * lr};
  }
  void take_over() {
    w1 = roots[1];
    w2 = roots[2];
  }
};

TEST(Allocation, AReplayAllocatesNothing) {
  if (!MC_COUNTS_ALLOCATIONS) GTEST_SKIP() << "sanitizers allocate";
  Loop loop;
  double first = 0, last = 0;
  for (int step = 0; step < 8; ++step) {
    loop.record(step);
    const test::Counted counted;
    const std::uint64_t before = allocations, mapped = counters().memory_requests;
    eval(loop.roots);
    const std::uint64_t after = allocations;
    if (step >= 1) {
      EXPECT_EQ(after - before, 0u) << "in step " << step;
      EXPECT_EQ(counters().memory_requests, mapped);
      EXPECT_EQ(counted.compiled(), 0u);
    }
    last = Tensor(loop.roots[0]).item<float>();
    if (step == 0) first = last;
    loop.take_over();
  }
  EXPECT_LT(last, first);
}

TEST(Allocation, NeitherDoesAnAsynchronousOne) {
  if (!MC_COUNTS_ALLOCATIONS) GTEST_SKIP() << "sanitizers allocate";
  Loop loop;
  AsyncRun run;
  for (int step = 0; step < 8; ++step) {
    loop.record(step);
    EvalOptions options{.roots = loop.roots, .donate = {loop.w1, loop.w2}};
    const std::uint64_t before = allocations, mapped = counters().memory_requests;
    run = eval_async(std::move(options));
    run.wait();
    synchronize();
    if (step >= 2) {  // the second step is the first with a donation of something computed
      EXPECT_EQ(allocations - before, 0u) << "in step " << step;
      EXPECT_EQ(counters().memory_requests, mapped);
    }
    loop.take_over();
  }
}

TEST(Allocation, NeitherDoesOneInThisThread) {
  if (!MC_COUNTS_ALLOCATIONS) GTEST_SKIP() << "sanitizers allocate";
  Loop loop;
  for (int step = 0; step < 8; ++step) {
    loop.record(step);
    EvalOptions options{.roots = loop.roots, .donate = {loop.w1, loop.w2}};
    const std::uint64_t before = allocations, mapped = counters().memory_requests;
    eval_now(std::move(options));
    if (step >= 2) {  // as above
      EXPECT_EQ(allocations - before, 0u) << "in step " << step;
      EXPECT_EQ(counters().memory_requests, mapped);
    }
    loop.take_over();
  }
}

/// The same step as a compiled function of the weights and a learning rate; the results come into one list.
void run_compiled(std::vector<int> donate) {
  Loop loop;
  int recorded = 0;
  const CompiledFunction step(
      [&](const std::vector<LazyTensor>& in) {
        ++recorded;
        const LazyTensor e = matmul(tanh(matmul(loop.x, in[0]) * 0.1f), in[1]) - loop.y, loss = mean(e * e);
        const Tensors g = grad(loss, {in[0], in[1]});
        return std::vector<LazyTensor>{loss, in[0] - g[0] * in[2], in[1] - g[1] * in[2]};
      },
      {.donate = std::move(donate)});
  std::vector<Tensor> inputs{Tensor(loop.w1), Tensor(loop.w2), Tensor()}, results;
  loop.w1 = loop.w2 = LazyTensor();
  double first = 0, last = 0;
  for (int call = 0; call < 8; ++call) {
    inputs[2] = Tensor::scalar(static_cast<float>(0.01 / (call + 1)));
    const test::Counted counted;
    const std::uint64_t before = allocations, mapped = counters().memory_requests;
    step.run(inputs, results);
    const std::uint64_t after = allocations;
    if (call >= 1) {
      EXPECT_EQ(after - before, 0u) << "in call " << call;
      EXPECT_EQ(counters().memory_requests, mapped) << "in call " << call;
      EXPECT_EQ(counted.compiled(), 0u) << "in call " << call;
      EXPECT_EQ(counted.replays(), 1u) << "in call " << call;
    }
    last = results[0].item<float>();
    if (call == 0) first = last;
    inputs[0] = results[1];
    inputs[1] = results[2];
    results.resize(1);  // the next call owns its inputs alone
  }
  EXPECT_EQ(recorded, 1);
  EXPECT_LT(last, first);
}

TEST(Allocation, NeitherDoesACompiledFunction) { run_compiled({}); }

TEST(Allocation, NeitherDoesACompiledFunctionThatMayOverwriteItsInputs) { run_compiled({0, 1}); }

TEST(Allocation, NeitherDoesAnEagerOne) {
  if (!MC_COUNTS_ALLOCATIONS) GTEST_SKIP() << "sanitizers allocate";
  const EagerMode eager;
  const auto x = Tensor::ones({64});
  for (int step = 0; step < 4; ++step) {
    const std::uint64_t before = allocations;
    const LazyTensor y = tanh(x * 2.0f) + x;
    if (step >= 1) {
      EXPECT_EQ(allocations - before, 0u) << "in step " << step;
    }
  }
}

// ---- limits ---------------------------------------------------------------------------------------------------------

class MemoryLimit : public testing::Test {
 protected:
  void SetUp() override {
    synchronize();
    trim_memory();
    live = memory().live;
  }
  void TearDown() override { set_memory_limit(0); }
  std::size_t live = 0;
};

constexpr std::int64_t kMany = 4 << 20;    // 16 MB of f32
constexpr std::size_t kSmall = 256 << 10;  // what threads may take for themselves meanwhile

TEST_F(MemoryLimit, TooMuchIsATypedError) {
  const auto x = Tensor::ones({1024});
  set_memory_limit(live + (8 << 20));
  const LazyTensor y = expand(reshape(x, {1024, 1}), {1024, kMany / 1024}) * 2;
  try {
    y.eval();
    FAIL() << "nothing was thrown";
  } catch (const OutOfMemory& e) {
    EXPECT_EQ(e.kind(), ErrorKind::memory);
    EXPECT_GE(e.bytes_asked(), static_cast<std::size_t>(kMany) * 4);
  }
  EXPECT_FALSE(y.is_evaluated());
  set_memory_limit(0);
  EXPECT_EQ(sum(y).eval().item<float>(), 2.0f * kMany);
}

TEST_F(MemoryLimit, SaysWhatIsLeft) {
  const auto asked = [](std::int64_t n) -> std::size_t {
    try {
      Tensor::zeros({n}, DType::u8);
    } catch (const OutOfMemory& e) {
      EXPECT_GE(e.bytes_asked(), static_cast<std::size_t>(n));
      return e.bytes_free();
    }
    ADD_FAILURE() << "there is that much";
    return 0;
  };
  constexpr std::int64_t kTooMuch = std::int64_t{1} << 50;
  const std::size_t free = asked(kTooMuch);  // without a limit: the system's
  EXPECT_GT(free, std::size_t{1} << 20);
  EXPECT_LT(free, std::size_t{1} << 45);
  set_memory_limit(live + (8 << 20));
  for (const std::int64_t n : {kTooMuch, std::int64_t{64} << 20}) {
    const std::size_t left = asked(n);
    EXPECT_LE(left, std::size_t{8} << 20);
    EXPECT_GE(left, (std::size_t{8} << 20) - kSmall);
  }
}

/// While it lives, the process can map this much beyond what it has.
class FewAddresses {
 public:
  explicit FewAddresses(std::size_t more) {
    getrlimit(RLIMIT_AS, &before_);
    std::size_t pages = 0;
    std::ifstream("/proc/self/statm") >> pages;
    const rlimit less{pages * static_cast<std::size_t>(sysconf(_SC_PAGESIZE)) + more, before_.rlim_max};
    setrlimit(RLIMIT_AS, &less);
  }
  ~FewAddresses() { setrlimit(RLIMIT_AS, &before_); }
  FewAddresses(const FewAddresses&) = delete;
  FewAddresses& operator=(const FewAddresses&) = delete;

 private:
  rlimit before_ = {};
};

TEST_F(MemoryLimit, SaysWhatIsLeftToAProcessOfFewAddresses) {
  std::size_t free = 0;
  {
    const FewAddresses few(64 << 20);
    try {
      Tensor::zeros({256 << 20}, DType::u8);
    } catch (const OutOfMemory& e) {
      free = e.bytes_free();
    }
  }
  EXPECT_GT(free, std::size_t{32} << 20);
  EXPECT_LE(free, std::size_t{64} << 20);
}

#if MC_COUNTS_ALLOCATIONS  // a sanitizer ends the program where `new` fails
TEST_F(MemoryLimit, RecordingBeyondItIsATypedErrorToo) {
  LazyTensor y = Tensor::ones({1});
  {
    const FewAddresses few(64 << 20);
    EXPECT_THROW(for (int i = 0; i < (8 << 20); ++i) y = y + 1, OutOfMemory);
    y = LazyTensor();
  }
  EXPECT_EQ((Tensor::ones({1}) + 1).eval().item<float>(), 2);
}
#endif

TEST_F(MemoryLimit, NothingLeaksAfterAFailure) {
  set_memory_limit(live + (40 << 20));
  for (int i = 0; i < 5; ++i) {
    // The second of these outputs does not fit; the first had been allocated.
    const LazyTensor a = full({kMany}, 1.0), b = full({kMany}, 2.0), c = full({kMany}, 3.0);
    EXPECT_THROW(eval({a, b, c}), OutOfMemory);
    EXPECT_LE(memory().live, live + kSmall) << "in round " << i;
  }
  const LazyTensor fits = full({kMany}, 1.0);
  EXPECT_EQ(sum(fits).eval().item<float>(), static_cast<float>(kMany));
}

TEST_F(MemoryLimit, AnAsynchronousFailureSurfacesAtTheWait) {
  set_memory_limit(live + (8 << 20));
  {
    const LazyTensor y = full({kMany}, 1.0);
    const AsyncRun run = eval_async({.roots = {y}});
    EXPECT_THROW(run.wait(), OutOfMemory);
    EXPECT_THROW(Tensor(y).wait(), OutOfMemory);
    EXPECT_THROW((y + 1).eval(), OutOfMemory);
  }
  synchronize();
  EXPECT_LE(memory().live, live + kSmall);
}

TEST_F(MemoryLimit, Figures) {
  reset_peak_memory();
  {
    const LazyTensor y = full({kMany}, 1.0);
    y.eval();
    EXPECT_GE(memory().live, live + kMany * 4);
  }
  EXPECT_LE(memory().live, live + kSmall);
  EXPECT_GE(memory().peak, live + kMany * 4);
  EXPECT_GE(memory().pool, static_cast<std::size_t>(kMany * 4));
  trim_memory();
  EXPECT_LT(memory().pool, static_cast<std::size_t>(kMany * 4));
}

// ---- what a run would take ------------------------------------------------------------------------------------------

TEST(MemoryNeeds, AreWhatRunsThenTake) {
  trim_memory();
  Tensor w = randn({512, 768}, {.key = Key{1}}).eval(), v = randn({768, 512}, {.key = Key{2}}).eval();
  w.freeze(), v.freeze();
  const auto product = [&](std::int64_t rows) {
    const LazyTensor x = Tensor::ones({rows, 512});
    return matmul(tanh(matmul(x, w)), v);
  };
  const LazyTensor few = product(4), many = product(700);
  const std::size_t before = memory().live;
  const MemoryNeeds needs = memory_needs({{.roots = {few}}, {.roots = {many}}, {.roots = {few}}});
  EXPECT_EQ(memory().live, before);
  EXPECT_GE(needs.packed, 2u * 512 * 768 * sizeof(float));
  EXPECT_GE(needs.temporaries, 700u * 768 * sizeof(float));
  EXPECT_EQ(needs.results, (2u * 4 + 700) * 512 * sizeof(float));
  eval({few});
  eval({many});
  const auto took = static_cast<double>(memory().live - before);
  const auto said = static_cast<double>(needs.temporaries + needs.packed + needs.results);
  EXPECT_NEAR(said / took, 1, 0.25);  // the pool's classes are a quarter apart
  const MemoryNeeds again = memory_needs({{.roots = {product(4)}}, {.roots = {product(700)}}});
  EXPECT_EQ(again.packed, 0u);
  EXPECT_EQ(again.temporaries, 0u);
}

TEST(MemoryNeeds, ADonatedBufferIsNoNewOne) {
  const LazyTensor x = Tensor::ones({1000});
  EXPECT_EQ(memory_needs({{.roots = {x + 1}, .donate = {x}}}).results, 0u);
  EXPECT_EQ(memory_needs({{.roots = {x + 1}}}).results, 4000u);
}

TEST(MemoryNeeds, PagesThatWereNotTouchedAreToCome) {
  constexpr std::size_t kPages = 300, kPage = 4096;
  void* pages = mmap(nullptr, kPages * kPage, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  ASSERT_NE(pages, MAP_FAILED);
  madvise(pages, kPages * kPage, MADV_NOHUGEPAGE);
  for (std::size_t i = 0; i < 100; ++i) static_cast<volatile char*>(pages)[i * kPage] = 0;
  const std::shared_ptr<void> owner(pages, [](void* p) { munmap(p, kPages * kPage); });
  const Tensor x = Tensor::from_external(pages, {kPages * kPage / 4}, DType::f32, owner);
  EXPECT_EQ(memory_needs({{.roots = {x + 1}}, {.roots = {x * 2}}}).unread, 200 * kPage);
}

}  // namespace
}  // namespace metal_candle
