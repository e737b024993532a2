// Compiled functions: the same results as without, recorded once for each kind of inputs.
#include "metal_candle/compiled.hpp"

#include <gtest/gtest.h>

#include <atomic>
#include <thread>

#include "metal_candle/error.hpp"
#include "metal_candle/ops.hpp"
#include "metal_candle/random.hpp"
#include "runtime/queue.h"
#include "tests/runtime/probe.h"

namespace metal_candle::test {
namespace {

using Inputs = std::vector<LazyTensor>;

Tensor row(std::initializer_list<float> values) {
  return Tensor::from<float>(values, {static_cast<std::int64_t>(values.size())});
}
std::vector<float> values(const Tensor& t) { return t.to_vector<float>(); }

/// y = 2x + w, and how often it was recorded.
struct Doubled {
  Tensor w = row({1, 2, 3});
  int recorded = 0;
  CompiledFunction function{[this](const Inputs& in) {
    ++recorded;
    return Inputs{in[0] * 2.0f + w};
  }};
};

TEST(CompiledFunction, IsRecordedOnceAndReadsItsInputs) {
  Doubled f;
  EXPECT_EQ(values(f.function({row({1, 1, 1})})[0]), (std::vector<float>{3, 4, 5}));
  const Counted counted;
  for (int i = 0; i < 5; ++i) {
    const float x = static_cast<float>(i);
    EXPECT_EQ(values(f.function({row({x, 0, 0})})[0]), (std::vector<float>{2 * x + 1, 2, 3}));
  }
  EXPECT_EQ(f.recorded, 1);
  EXPECT_EQ(counted.replays(), 5u);
  EXPECT_EQ(counted.compiled(), 0u);
}

TEST(CompiledFunction, IsRecordedAgainForOtherKinds) {
  Doubled f;
  f.function({row({1, 1, 1})});
  const Tensor square = Tensor::from<float>({1, 2, 3, 4, 5, 6, 7, 8, 9}, {3, 3});
  EXPECT_EQ(f.function({square})[0].shape(), Shape({3, 3}));
  EXPECT_EQ(f.recorded, 2);
  const Tensor column = slice(square, 1, 1, 2).eval(), strided = reshape(column, {3}).eval();
  EXPECT_EQ(values(f.function({strided})[0]), (std::vector<float>{5, 12, 19}));
  const int with_strides = f.recorded;
  // Another place in its buffer is not another kind.
  const Tensor last = reshape(slice(square, 1, 2, 3), {3}).eval();
  EXPECT_EQ(values(f.function({last})[0]), (std::vector<float>{7, 14, 21}));
  EXPECT_EQ(f.recorded, with_strides);
  EXPECT_EQ(values(f.function({row({0, 0, 0})})[0]), (std::vector<float>{1, 2, 3}));
  EXPECT_EQ(f.recorded, with_strides);
  Tensor frozen = row({5, 5, 5});
  frozen.freeze();
  EXPECT_EQ(values(f.function({frozen})[0]), (std::vector<float>{11, 12, 13}));
  EXPECT_EQ(f.recorded, with_strides + 1);
  {
    const PassesOff plain;
    EXPECT_EQ(values(f.function({row({0, 0, 1})})[0]), (std::vector<float>{1, 2, 5}));
    EXPECT_EQ(f.recorded, with_strides + 2);
  }
}

TEST(CompiledFunction, KeepsSoManyKindsOnly) {
  Doubled f;
  f.w = Tensor::scalar(1.0f);
  for (int round = 0; round < 2; ++round)
    for (std::int64_t n = 1; n <= 20; ++n) EXPECT_EQ(values(f.function({Tensor::ones({n})})[0])[0], 3);
  EXPECT_EQ(f.recorded, 40);
  f.function({Tensor::ones({20})});
  EXPECT_EQ(f.recorded, 40);
}

TEST(CompiledFunction, MayGiveBackInputsAndWhatWasThere) {
  const Tensor constant = row({7});
  const CompiledFunction f([&](const Inputs& in) { return Inputs{in[1], in[0] + 1.0f, constant, in[0] + 1.0f}; });
  for (float x = 0; x < 3; ++x) {
    const auto out = f({row({x}), row({-x})});
    ASSERT_EQ(out.size(), 4u);
    EXPECT_EQ(values(out[0]), (std::vector<float>{-x}));
    EXPECT_EQ(values(out[1]), (std::vector<float>{x + 1}));
    EXPECT_EQ(values(out[2]), (std::vector<float>{7}));
    EXPECT_EQ(values(out[3]), (std::vector<float>{x + 1}));
  }
  const CompiledFunction nothing([](const Inputs& in) { return Inputs{in[0]}; });
  EXPECT_EQ(values(nothing({row({4})})[0]), (std::vector<float>{4}));
}

TEST(CompiledFunction, GivesViewsOfInputs) {
  const CompiledFunction f([](const Inputs& in) { return Inputs{slice(in[0], 0, 1, 3), transpose(in[1])}; });
  const Tensor long_row = row({0, 1, 2, 3, 4, 5}), square = Tensor::from<float>({1, 2, 3, 4}, {2, 2});
  for (std::int64_t at = 0; at < 2; ++at) {
    const auto out = f({slice(long_row, 0, at, at + 4).eval(), square});
    const float first = static_cast<float>(at) + 1;
    EXPECT_EQ(values(out[0]), (std::vector<float>{first, first + 1}));
    EXPECT_EQ(values(out[1]), (std::vector<float>{1, 3, 2, 4}));
  }
}

TEST(CompiledFunction, WritesOverWhatIsDonated) {
  const CompiledFunction step([](const Inputs& in) { return Inputs{in[0] + in[1]}; }, {.donate = {0}});
  Tensor state = Tensor::zeros({4096});
  const void* const place = state.raw_data();
  for (int i = 0; i < 4; ++i) state = step({std::move(state), Tensor::ones({4096})})[0];
  EXPECT_EQ(values(state)[4095], 4);
  EXPECT_EQ(state.raw_data(), place);
  // What somebody else holds is copied.
  const Tensor kept = reshape(state, {64, 64}).eval();
  const Tensor next = step({state, Tensor::ones({4096})})[0];
  EXPECT_NE(next.raw_data(), place);
  EXPECT_EQ(values(kept)[0], 4);
  EXPECT_EQ(values(next)[0], 5);
  // The same tensor twice: its buffer is read while the sum is made.
  const Tensor twice = step({next, next})[0];
  EXPECT_EQ(values(twice)[17], 10);
  // Once it has been taken over, the old tensor says so.
  Tensor given = Tensor::ones({4096});
  step({given, Tensor::ones({4096})});
  EXPECT_THROW(given.raw_data(), UserError);
}

TEST(CompiledFunction, GivesBackWhatIsDonatedAsItCame) {
  const CompiledFunction both([](const Inputs& in) { return Inputs{in[0] * 2, in[0], in[1]}; }, {.donate = {0}});
  for (int i = 0; i < 2; ++i) {
    const Tensor x = Tensor::ones({4096}), z = Tensor::full({4096}, 5);
    const std::vector<Tensor> other = both({x, z}), same = both({z, z});
    EXPECT_EQ(values(other[0])[17], 2);
    EXPECT_EQ(values(other[1])[17], 1);
    EXPECT_EQ(values(other[2])[17], 5);
    EXPECT_EQ(values(same[0])[17], 10);
    EXPECT_EQ(values(same[1])[17], 5);
    EXPECT_EQ(values(same[2])[17], 5);
  }
}

TEST(CompiledFunction, UsesPackedWeightsOfItsOwn) {
  Tensor weights[2] = {randn({64, 96}, {.key = Key(1)}).eval(), randn({64, 96}, {.key = Key(2)}).eval()};
  for (Tensor& w : weights) w.freeze();
  // One plan serves both functions, in turns.
  CompiledFunction f[2];
  for (int i = 0; i < 2; ++i)
    f[i] = CompiledFunction([w = weights[i]](const Inputs& in) { return Inputs{matmul(in[0], w)}; });
  // Frozen inputs change from call to call.
  const CompiledFunction open([](const Inputs& in) { return Inputs{matmul(in[0], in[1])}; });
  for (int round = 0; round < 3; ++round)
    for (int i = 0; i < 2; ++i) {
      const Tensor x = randn({2, 64}, {.key = Key(static_cast<std::uint64_t>(10 + round))}).eval();
      const std::vector<float> expected = values(matmul(x, weights[i]).eval());
      EXPECT_EQ(values(f[i]({x})[0]), expected);
      EXPECT_EQ(values(open({x, weights[i]})[0]), expected);
    }
}

TEST(CompiledFunction, RefusesToEvaluateItsInputs) {
  const CompiledFunction peeks([](const Inputs& in) {
    const float first = (in[0] * 2.0f).eval().item<float>();
    return Inputs{in[0] * first};
  });
  EXPECT_THROW(peeks({row({1})}), UserError);
  const CompiledFunction looks([](const Inputs& in) { return Inputs{in[0] * Tensor(in[0]).item<float>()}; });
  EXPECT_THROW(looks({row({1})}), UserError);
  // In eager mode they have values.
  const EagerMode eager;
  EXPECT_EQ(values(peeks({row({3})})[0]), (std::vector<float>{18}));
}

TEST(CompiledFunction, TellsWhatWentWrong) {
  EXPECT_THROW(CompiledFunction()({}), UserError);
  EXPECT_THROW(CompiledFunction(CompiledFunction::Function()), UserError);
  std::vector<Tensor> both{row({1, 2, 3})};
  EXPECT_THROW(Doubled().function.run(both, both), UserError);
  EXPECT_EQ(values(both[0]), (std::vector<float>{1, 2, 3}));
  const CompiledFunction donates([](const Inputs& in) { return Inputs{in[0] + 1.0f}; }, {.donate = {1}});
  EXPECT_THROW(donates({row({1})}), UserError);
  EXPECT_THROW(donates({row({1}), Tensor()}), UserError);
  const CompiledFunction shapes([](const Inputs& in) { return Inputs{matmul(in[0], in[1])}; });
  EXPECT_THROW(shapes({Tensor::ones({2, 3}), Tensor::ones({2, 3})}), UserError);
  EXPECT_EQ(shapes({Tensor::ones({2, 3}), Tensor::ones({3, 2})})[0].shape(), Shape({2, 2}));

  const CompiledFunction fails(
      [](const Inputs& in) {
        return Inputs{failing_probe(in[0]), in[1] + 1.0f};
      },
      {.donate = {1}});
  for (int i = 0; i < 3; ++i) {
    const Tensor x = row({1}), given = row({1, 2});
    EXPECT_THROW(fails({x, given}), UserError);
    EXPECT_EQ(values(x), (std::vector<float>{1}));
    EXPECT_THROW(given.raw_data(), UserError);
  }
  // A run that failed leaves nothing behind for the next.
  Doubled f;
  EXPECT_EQ(values(f.function({row({1, 1, 1})})[0]), (std::vector<float>{3, 4, 5}));
}

TEST(CompiledFunction, TakesTensorsThatAreUnderWay) {
  Doubled f;
  for (int i = 0; i < 50; ++i) {
    const LazyTensor x = probe(row({static_cast<float>(i), 0, 0}));
    const AsyncRun run = eval_async({.roots = {x}});
    EXPECT_EQ(values(f.function({Tensor(x)})[0])[0], 2 * static_cast<float>(i + 1) + 1);
  }
}

// Relaxed, so that ThreadSanitizer sees no order but that of the queue itself.
TEST(CompiledFunction, RecordsWhileItsInputIsMade) {
  GateForTest gate;
  const LazyTensor x = LazyTensor(row({1, 2, 3})) + 1.0f;
  const AsyncRun run = eval_async({.roots = {x}});
  std::atomic<bool> recording{false};
  std::thread opener([&] {
    while (!recording.load(std::memory_order_relaxed)) std::this_thread::yield();
    gate.open();
  });
  const CompiledFunction f([&](const Inputs& in) {
    recording.store(true, std::memory_order_relaxed);
    while (!run.done()) std::this_thread::yield();
    return Inputs{in[0] * 2.0f};
  });
  EXPECT_EQ(values(f({Tensor(x)})[0]), (std::vector<float>{4, 6, 8}));
  opener.join();
}

TEST(CompiledFunction, RunsOnSeveralThreads) {
  const Tensor w = Tensor::ones({3});
  const CompiledFunction f([&](const Inputs& in) { return Inputs{in[0] * 2.0f + w}; });
  std::vector<std::thread> threads;
  std::atomic<int> wrong{0};
  for (int t = 0; t < 4; ++t)
    threads.emplace_back([&, t] {
      for (int i = 0; i < 200; ++i)
        if (values(f({Tensor::full({3}, t * 1000 + i)})[0])[2] != static_cast<float>(2 * (t * 1000 + i) + 1)) ++wrong;
    });
  for (std::thread& t : threads) t.join();
  EXPECT_EQ(wrong, 0);
}

}  // namespace
}  // namespace metal_candle::test
