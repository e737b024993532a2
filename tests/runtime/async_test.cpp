// eval_async: order, tensors in flight, errors at every dependent wait. A gate holds the queue: nothing here depends
// on time.
#include <gtest/gtest.h>

#include <optional>
#include <thread>

#include "graph/node.h"
#include "metal_candle/ops.hpp"
#include "runtime/queue.h"
#include "tests/runtime/probe.h"

namespace metal_candle {
namespace {

using test::failing_probe;
using test::probe;
using Floats = std::vector<float>;

TEST(Async, ReturnsBeforeTheWorkIsDone) {
  GateForTest gate;
  const auto a = Tensor::from<float>({1, 2, 3}, {3}), b = Tensor::from<float>({4, 5, 6}, {3});
  const LazyTensor c = a + b;
  const AsyncRun run = eval_async({.roots = {c}});
  EXPECT_FALSE(run.done());
  EXPECT_TRUE(c.is_evaluated());
  EXPECT_FALSE(Tensor(c).is_ready());
  gate.open();
  run.wait();
  EXPECT_TRUE(run.done());
  EXPECT_EQ(Tensor(c).to_vector<float>(), (Floats{5, 7, 9}));
}

TEST(Async, ATensorInFlightIsAnInput) {
  GateForTest gate;
  LazyTensor x = Tensor::zeros({4});
  std::vector<AsyncRun> runs;
  for (int i = 0; i < 10; ++i) {
    x = probe(x);
    runs.push_back(eval_async({.roots = {x}}));
  }
  for (const AsyncRun& r : runs) EXPECT_FALSE(r.done());
  gate.open();
  EXPECT_EQ(Tensor(x).to_vector<float>(), (Floats{10, 10, 10, 10}));
}

TEST(Async, SyncAfterAsync) {
  std::optional<GateForTest> gate(std::in_place);
  const LazyTensor x = probe(Tensor::zeros({4}));
  const AsyncRun run = eval_async({.roots = {x}});
  const LazyTensor y = x * 2;
  std::atomic<bool> begun{false};
  std::thread other([&] {
    begun = true;
    EXPECT_EQ(y.eval().to_vector<float>(), (Floats{2, 2, 2, 2}));
  });
  while (!begun) std::this_thread::yield();
  EXPECT_FALSE(y.is_evaluated());
  gate.reset();
  other.join();
  EXPECT_TRUE(run.done());
}

TEST(Async, AReaderOfThePendingTensorWaits) {
  std::optional<GateForTest> gate(std::in_place);
  const LazyTensor x = probe(Tensor::zeros({1}));
  const AsyncRun run = eval_async({.roots = {x}});
  std::thread reader([&] { EXPECT_EQ(Tensor(x).item<float>(), 1); });
  gate.reset();
  reader.join();
  EXPECT_EQ(run.get<float>(x), 1);
}

TEST(Async, RootsOfAnEarlierRun) {
  GateForTest gate;
  const LazyTensor x = probe(Tensor::zeros({1})), y = x + 1;
  const AsyncRun first = eval_async({.roots = {x}});
  const AsyncRun both = eval_async({.roots = {x, y}}), again = eval_async({.roots = {x}});
  EXPECT_FALSE(both.done());
  EXPECT_FALSE(again.done());
  gate.open();
  again.wait();
  EXPECT_EQ(both.get<float>(y), 2);
  EXPECT_TRUE(first.done());
}

TEST(Async, TheOldNames) {
  AsyncGraphExecutor executor;
  std::optional<GateForTest> gate(std::in_place);
  const AsyncTensor t = executor.submit(Tensor::from<float>({1, 2, 3}, {3}) * 2);
  EXPECT_FALSE(t.is_ready());
  const AsyncTensor next = executor.submit(t.tensor() + 1);
  gate.reset();
  EXPECT_EQ(t.wait().to_vector<float>(), (Floats{2, 4, 6}));
  executor.synchronize();
  EXPECT_TRUE(next.is_ready());
  EXPECT_EQ(next.wait().to_vector<float>(), (Floats{3, 5, 7}));
}

TEST(Async, AFullQueueWaits) {
  set_queue_depth(3);  // the gate is one of them
  std::optional<GateForTest> gate(std::in_place);
  std::atomic<int> submitted{0};
  std::thread submitter([&] {
    for (int i = 0; i < 4; ++i) {
      eval_async({.roots = {Tensor::zeros({2}) + 1}});
      ++submitted;
    }
  });
  while (submitted < 2) std::this_thread::yield();
  EXPECT_EQ(submitted, 2);
  gate.reset();
  submitter.join();
  EXPECT_EQ(submitted, 4);
  set_queue_depth(64);
  synchronize();
}

TEST(Async, AnEmptyRun) {
  EXPECT_TRUE(AsyncRun().done());
  AsyncRun().wait();
  const auto x = Tensor::zeros({1});
  const AsyncRun run = eval_async({.roots = {x}});
  run.wait();
  EXPECT_TRUE(run.done());
  EXPECT_NE(run.explain(), "");
}

// ---- errors ---------------------------------------------------------------------------------------------------------

template <class F>
std::string message_of(F f) {
  try {
    f();
  } catch (const UserError& e) {
    return e.what();
  }
  ADD_FAILURE() << "nothing was thrown";
  return "";
}

TEST(AsyncErrors, SurfaceAtEveryDependentWait) {
  GateForTest gate;
  const LazyTensor bad = failing_probe(Tensor::zeros({2})), child = bad * 2, grandchild = probe(child);
  const AsyncRun first = eval_async({.roots = {bad}}), second = eval_async({.roots = {child}}),
                 third = eval_async({.roots = {grandchild}});
  const LazyTensor fine = probe(Tensor::zeros({2}));
  const AsyncRun other = eval_async({.roots = {fine}});
  gate.open();
  const std::string what = message_of([&] { first.wait(); });
  EXPECT_NE(what.find("the probe was asked to fail"), std::string::npos) << what;
  for (int turn = 0; turn < 2; ++turn) {
    EXPECT_EQ(message_of([&] { first.wait(); }), what);
    EXPECT_EQ(message_of([&] { second.wait(); }), what);
    EXPECT_EQ(message_of([&] { third.wait(); }), what);
    EXPECT_EQ(message_of([&] { Tensor(bad).wait(); }), what);
    EXPECT_EQ(message_of([&] { Tensor(grandchild).to_vector<float>(); }), what);
    EXPECT_EQ(message_of([&] { (child + 1).eval(); }), what);
    EXPECT_EQ(message_of([&] { (void)eval_async({.roots = {bad + 1}}).wait(); }), what);
    EXPECT_EQ(message_of([&] { eval({bad}); }), what);
  }
  other.wait();
  EXPECT_EQ(Tensor(fine).to_vector<float>(), (Floats{1, 1}));
  EXPECT_EQ(probe(fine).eval().to_vector<float>(), (Floats{2, 2}));
}

TEST(AsyncErrors, AnIndexOutOfRange) {
  const LazyTensor row = take(Tensor::zeros({3, 2}), Tensor::from<std::int64_t>({5}, {1}));
  const AsyncRun run = eval_async({.roots = {row}});
  try {
    run.wait();
    FAIL();
  } catch (const UserError& e) {
    EXPECT_EQ(e.kind(), ErrorKind::index) << e.what();
  }
}

TEST(AsyncErrors, PoisonWhatWasDonated) {
  const LazyTensor p = Tensor::zeros({64}), kept = Tensor::zeros({64});
  const LazyTensor view_of_kept = reshape(kept, {8, 8}).eval();
  const LazyTensor next = failing_probe(p), other = failing_probe(kept);
  const AsyncRun run = eval_async({.roots = {next, other}, .donate = {p, kept}});
  const std::string what = message_of([&] { run.wait(); });
  EXPECT_EQ(message_of([&] { Tensor(p).wait(); }), what);
  EXPECT_EQ(message_of([&] { (p + 1).eval(); }), what);
  EXPECT_EQ(message_of([&] { Tensor(next).wait(); }), what);
  EXPECT_EQ(Tensor(view_of_kept).to_vector<float>()[5], 0) << "another owner's data was touched";
}

LazyTensor later;
const CpuKernel waiter_kernel{.run = [](const KernelCall&, int, std::int64_t) { Tensor(later).wait(); },
                              .tasks = test::one_task};
const OpDef waiter_def = [] {
  OpDef op = test::probe_def;
  op.cpu = &waiter_kernel;
  return op;
}();

TEST(AsyncErrors, AKernelThatWaitsForALaterRunIsRefused) {
  GateForTest gate;
  const AsyncRun waiter = eval_async({.roots = {record(waiter_def, {Tensor::zeros({2})})}});
  later = probe(Tensor::zeros({2}));
  const AsyncRun last = eval_async({.roots = {later}});
  gate.open();
  EXPECT_EQ(message_of([&] { waiter.wait(); }), "wait: a kernel would wait for itself");
  last.wait();
  later = {};
}

TEST(AsyncErrors, LeaveWhatIsNeverWrittenAsItWas) {
  std::vector<float> memory(64, 3);
  auto frozen = Tensor::full({64}, 2);
  frozen.freeze();
  const LazyTensor external = Tensor::from_external(memory.data(), {64}, DType::f32, std::make_shared<int>(0));
  const LazyTensor a = failing_probe(frozen), b = failing_probe(external);
  const AsyncRun run = eval_async({.roots = {a, b}, .donate = {frozen, external}});
  EXPECT_THROW(run.wait(), UserError);
  EXPECT_EQ(frozen.to_vector<float>()[63], 2);
  EXPECT_EQ(probe(external).eval().to_vector<float>()[63], 4);
}

// ---- donation -------------------------------------------------------------------------------------------------------

const void* address(const LazyTensor& t) { return Tensor(t).raw_data(); }

TEST(Donation, TheResultTakesTheBufferOver) {
  LazyTensor p = Tensor::zeros({64});
  const void* before = address(p);
  const LazyTensor next = probe(p);
  const AsyncRun run = eval_async({.roots = {next}, .donate = {p}});
  run.wait();
  EXPECT_EQ(address(next), before);
  EXPECT_EQ(Tensor(next).to_vector<float>()[63], 1);
  EXPECT_EQ(run.explain().find("copy:"), std::string::npos) << run.explain();
  const std::string what = message_of([&] { Tensor(p).wait(); });
  EXPECT_NE(what.find("donated"), std::string::npos) << what;
}

TEST(Donation, ALoopKeepsItsBuffers) {
  LazyTensor p = Tensor::zeros({64});
  const void* before = address(p);
  AsyncRun run;
  GateForTest gate;  // all steps are submitted before the first runs
  for (int i = 0; i < 20; ++i) {
    const LazyTensor next = p * 0.5f + 1;
    run = eval_async({.roots = {next}, .donate = {p}});
    p = next;
  }
  gate.open();
  run.wait();
  EXPECT_EQ(address(p), before);
  EXPECT_NEAR(Tensor(p).to_vector<float>()[0], 2, 1e-5);
}

TEST(Donation, InTheThreadThatWaits) {
  LazyTensor p = probe(Tensor::zeros({64}));
  eval_now({.roots = {p}});
  const float* data = Tensor(p).data<float>();
  for (int i = 0; i < 5; ++i) {
    const LazyTensor next = probe(p);
    eval_now({.roots = {next}, .donate = {p}});
    EXPECT_THROW(Tensor(p).wait(), UserError);
    p = next;
    EXPECT_EQ(Tensor(p).data<float>(), data);
    EXPECT_EQ(data[0], static_cast<float>(i + 2));
  }
  EXPECT_THROW(eval_now({.roots = {p + 1}, .donate = {p * 2}}), UserError);
}

TEST(Donation, InTheThreadThatWaitsBehindTheQueue) {
  std::optional<GateForTest> gate(std::in_place);
  const LazyTensor x = probe(Tensor::zeros({4}));
  const AsyncRun run = eval_async({.roots = {x}});
  const LazyTensor y = probe(x);
  std::thread other([&] { eval_now({.roots = {y}, .donate = {x}}); });
  gate.reset();
  other.join();
  EXPECT_TRUE(run.done());
  EXPECT_EQ(Tensor(y).to_vector<float>(), (Floats{2, 2, 2, 2}));
  eval_now({.roots = {y}});  // there already
  EXPECT_THROW(eval_now({.roots = {failing_probe(y)}}), UserError);
}

TEST(Donation, AnotherViewForcesACopy) {
  const LazyTensor p = Tensor::zeros({64});
  const LazyTensor view = reshape(p, {8, 8}).eval();
  const LazyTensor next = probe(p);
  const AsyncRun run = eval_async({.roots = {next}, .donate = {p}});
  run.wait();
  EXPECT_NE(address(next), address(view));
  EXPECT_EQ(Tensor(view).to_vector<float>()[0], 0);
  EXPECT_NE(run.explain().find("copy: leaf 0 was donated"), std::string::npos) << run.explain();
}

TEST(Donation, AViewThatOutlivesTheDonatedHandleForcesACopyToo) {
  LazyTensor p = Tensor::zeros({64});
  const LazyTensor view = reshape(p, {8, 8}).eval(), next = probe(p);
  EvalOptions options{.roots = {next}, .donate = {p}};
  p = {};
  const AsyncRun run = eval_async(std::move(options));
  run.wait();
  EXPECT_EQ(Tensor(view).to_vector<float>()[0], 0);
  EXPECT_EQ(Tensor(next).to_vector<float>()[0], 1);
}

TEST(Donation, ALaterRunThatReadsItForcesACopy) {
  GateForTest gate;
  const LazyTensor p = Tensor::zeros({64});
  const LazyTensor next = probe(p), reader = p * 3;
  const AsyncRun run = eval_async({.roots = {next}, .donate = {p}}), after = eval_async({.roots = {reader}});
  gate.open();
  after.wait();
  EXPECT_EQ(Tensor(reader).to_vector<float>()[0], 0);
  EXPECT_EQ(Tensor(next).to_vector<float>()[0], 1);
}

TEST(Donation, ExternalAndFrozenMemoryIsNeverWritten) {
  std::vector<float> memory(64, 0);
  const LazyTensor p = Tensor::from_external(memory.data(), {64}, DType::f32, std::make_shared<int>(0));
  auto frozen = Tensor::zeros({64});
  frozen.freeze();
  const LazyTensor a = probe(p), b = probe(frozen);
  eval_async({.roots = {a, b}, .donate = {p, frozen}}).wait();
  EXPECT_EQ(memory[0], 0);
  EXPECT_EQ(frozen.to_vector<float>()[0], 0);
  EXPECT_EQ(Tensor(a).to_vector<float>()[0], 1);
}

TEST(Donation, ARootThatLooksAtTheDonatedBuffer) {
  const LazyTensor p = Tensor::zeros({64});
  const LazyTensor view = reshape(p, {8, 8}), next = probe(p);
  eval_async({.roots = {view, next}, .donate = {p}}).wait();
  EXPECT_EQ(Tensor(view).to_vector<float>()[0], 0);
  EXPECT_EQ(Tensor(next).to_vector<float>()[0], 1);
}

TEST(Donation, AViewIntoTheMiddleOfABufferForcesACopy) {
  // Its elements would be written one place before the place where other threads read them.
  const LazyTensor p = slice(arange(65, DType::f32).eval(), 0, 1, 65).eval();
  const LazyTensor next = p + 1.0f;
  const AsyncRun run = eval_async({.roots = {next}, .donate = {p}});
  run.wait();
  EXPECT_EQ(Tensor(next).to_vector<float>()[63], 65);
  EXPECT_NE(run.explain().find("copy: leaf 0 was donated"), std::string::npos) << run.explain();
}

TEST(Donation, SomeOfManyLeaves) {
  constexpr std::size_t kLeaves = 1500;  // more than a table of leaves has room for at first
  std::vector<LazyTensor> leaves, donated, next;
  std::vector<const void*> before;
  for (std::size_t i = 0; i < kLeaves; ++i) {
    leaves.emplace_back(Tensor::full({16}, static_cast<double>(i)));
    before.push_back(address(leaves[i]));
    if (i % 3 == 0) donated.push_back(leaves[i]);
  }
  const LazyTensor view = reshape(leaves[0], {4, 4}).eval();  // of a donated leaf: it shares the buffer
  for (std::size_t i = 0; i < kLeaves; ++i) next.push_back(leaves[i] + (i == 7 ? reshape(view, {16}) : leaves[i]));
  eval_async({.roots = next, .donate = donated}).wait();
  for (std::size_t i = 0; i < kLeaves; ++i) {
    ASSERT_EQ(address(next[i]) == before[i], i % 3 == 0 && i > 0) << i;
    ASSERT_EQ(Tensor(next[i]).to_vector<float>()[15], i == 7 ? 7.0f : 2.0f * static_cast<float>(i));
  }
}

TEST(Donation, OnlyEvaluatedTensorsCanBeDonated) {
  const LazyTensor y = Tensor::zeros({2}) + 1;
  EXPECT_THROW(eval_async({.roots = {y * 2}, .donate = {y}}), UserError);
}

}  // namespace
}  // namespace metal_candle
