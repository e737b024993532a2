// The CPU executable on plans made by hand: the same bytes on 1, 2 and 4 threads, whatever the size it is taken for.
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "base/pool.h"
#include "metal_candle/error.hpp"
#include "tests/backend/hand_plan.h"

namespace metal_candle {
namespace {

/// y = op(x, z) over n elements in rows of 64.
KernelProgram binary(Elementwise op, int x, int z, int y, std::int64_t n, double scale = 1) {
  ProgramBuilder b({n / 64});
  b.stage(64);
  int v = b.map(op, b.load(b.dense(x)), b.load(b.dense(z)));
  if (scale != 1) v = b.map(Elementwise::mul, v, b.literal(scale));
  b.store(v, b.dense(y));
  return b.done();
}

TEST(Executable, PhasesOfFusedSteps) {
  const std::int64_t n = 64 * 4096;
  const auto xs = numbers(n, 1), zs = numbers(n, 2);
  HandPlan t;
  const auto bytes = static_cast<std::size_t>(n) * 4;
  const int x = t.leaf(xs), z = t.leaf(zs);
  const int sum = t.temporary(bytes), product = t.temporary(bytes), out = t.output(bytes), second = t.output(bytes);
  const int in_place = t.add({.where = Where::arena, .bytes = bytes, .same_as = sum});
  t.fused(binary(Elementwise::add, x, z, sum, n), 0);
  t.fused(binary(Elementwise::mul, x, z, product, n), 0);
  t.fused(binary(Elementwise::mul, sum, x, in_place, n), 1);
  t.fused(binary(Elementwise::sub, in_place, product, out, n), 2);
  t.fused(binary(Elementwise::add, product, product, second, n, 0.5), 2);
  t.run_everywhere();
  EXPECT_FALSE(t.executable->tiny());
  const auto r = t.result(), s = t.result(1);
  for (std::size_t i = 0; i < r.size(); ++i) {
    ASSERT_EQ(r[i], (xs[i] + zs[i]) * xs[i] - xs[i] * zs[i]);
    ASSERT_EQ(s[i], xs[i] * zs[i]);
  }
  EXPECT_GE(t.backend->arena_bytes(), 2 * bytes);
  t.backend->release_memory();
  EXPECT_EQ(t.backend->arena_bytes(), 0u);
  t.run();
  EXPECT_EQ(t.result(), r);
}

TEST(Executable, SlotsAndConstantsAsArrays) {
  HandPlan t;
  const auto xs = numbers(64, 3);
  const int x = t.leaf(xs), s = t.slot(2.5), out = t.output(64 * 4);
  const int c = t.add({.where = Where::constant, .bytes = 8, .bits = std::bit_cast<std::uint64_t>(0.25)});
  ProgramBuilder b({1});
  b.stage(64);
  const auto scalar = [&](int buffer) {
    return b.cast(b.load({.buffer = buffer, .dtype = DType::f64, .row_strides = {0}}), DType::f32);
  };
  const int direct = b.slot(0);
  const int v = b.map(Elementwise::add, b.map(Elementwise::mul, b.load(b.dense(x)), scalar(s)), scalar(c));
  b.store(b.map(Elementwise::add, v, direct), b.dense(out));
  t.fused(b.done(), 0);
  t.run();
  EXPECT_TRUE(t.executable->tiny());
  for (std::size_t i = 0; i < 64; ++i) EXPECT_EQ(t.result()[i], xs[i] * 2.5f + 0.25f + 2.5f);
  t.slots[0] = std::bit_cast<std::uint64_t>(-1.0);
  t.run();
  for (std::size_t i = 0; i < 64; ++i) EXPECT_EQ(t.result()[i], xs[i] * -1.0f + 0.25f - 1.0f);
}

// Two passes: partial sums of 100 elements into shared memory, then each element times the total. Negative: fails.
constexpr std::int64_t kPart = 100;
void scale_by_sum(const KernelCall& c, int pass, std::int64_t task) {
  auto* sums = static_cast<double*>(c.shared);
  const float* x = c.inputs[0].as<float>();
  const std::int64_t n = c.inputs[0].shape.numel(), begin = task * kPart, end = std::min(n, begin + kPart);
  if (pass == 0) {
    auto* copy = static_cast<double*>(c.scratch);
    for (std::int64_t i = begin; i < end; ++i) copy[i - begin] = x[i];
    sums[task] = 0;
    for (std::int64_t i = begin; i < end; ++i) sums[task] += copy[i - begin];
    return;
  }
  double total = 0;
  for (std::int64_t i = 0; i < (n + kPart - 1) / kPart; ++i) total += sums[i];
  if (total < 0) c.fail("negative total");
  if (c.outputs[0].data == nullptr) return;
  for (std::int64_t i = begin; i < end; ++i)
    c.outputs[0].as<float>()[i] = static_cast<float>(x[i] * total * static_cast<double>(c.attrs[0]));
}
std::int64_t parts_of(const KernelCall& c, int) { return (c.inputs[0].shape.numel() + kPart - 1) / kPart; }
const CpuKernel kScaleBySum{
    .run = scale_by_sum,
    .tasks = parts_of,
    .passes = 2,
    .scratch = [](const KernelCall&) { return kPart * sizeof(double); },
    .shared = [](const KernelCall& c) { return static_cast<std::size_t>(parts_of(c, 0)) * sizeof(double); }};

void add_kernel(HandPlan& t, int in, int out, std::int64_t n, std::int64_t factor, const char* label) {
  PlanStep& s = t.step(PlanStep::Kind::kernel, 0, label);
  s.kernel.cpu = &kScaleBySum;
  s.kernel.attrs = {factor};
  s.kernel.inputs = {{in, DType::f32, Shape{n}, Shape{1}, 0}};
  s.kernel.outputs = {{out, DType::f32, Shape{n}, Shape{1}, 0}};
  s.flops = static_cast<double>(n) * 100;
}

TEST(Executable, KernelsWithPassesSideBySide) {
  const std::int64_t n = 20000;
  const std::vector<float> ones(static_cast<std::size_t>(n), 0.5f);
  HandPlan t;
  const int x = t.leaf(ones), y = t.output(static_cast<std::size_t>(n) * 4),
            z = t.output(static_cast<std::size_t>(n) * 4);
  add_kernel(t, x, y, n, 2, "double");
  add_kernel(t, x, z, n, 3, "triple");
  add_kernel(t, x, -1, n, 3, "unread");
  add_kernel(t, x, z, 0, 3, "empty");
  t.run_everywhere();
  for (std::size_t i = 0; i < ones.size(); ++i) {
    ASSERT_EQ(t.result(0)[i], 10000.0f) << i;
    if (i > 50) break;
  }
  EXPECT_EQ(t.result(1).back(), 15000.0f);
  std::vector<TaskTime> times;
  t.run(&times);
  EXPECT_EQ(times.size(), 3u * 2 * 200);
  for (const auto& time : times) EXPECT_LE(time.begin_ns, time.end_ns);
}

// ---- errors ---------------------------------------------------------------------------------------------------------

TEST(Executable, NamesTheStepWhoseIndexIsOutOfRange) {
  const std::string scope = "layer.3";
  for (const bool large : {false, true}) {
    const std::int64_t rows = large ? 4096 : 4;
    HandPlan t;
    std::vector<std::int32_t> ids(static_cast<std::size_t>(rows), 2);
    const auto table = numbers(10 * 64, 1);
    const int leaf = t.leaf(table), index = t.leaf(ids), out = t.output(static_cast<std::size_t>(rows) * 64 * 4);
    ProgramBuilder b({rows});
    b.stage(64);
    const int row = b.load(b.per_row(index, DType::i32), false);
    KAccess gather = b.column_weights(leaf);
    gather.gather = row, gather.gather_stride = 64, gather.gather_extent = 10;
    b.store(b.load(gather), b.dense(out));
    PlanStep& step = t.fused(b.done(), 0);
    step.label = "embedding";
    step.scope = &scope;
    t.run_everywhere();
    EXPECT_EQ(t.executable->tiny(), !large);
    EXPECT_EQ(t.result()[0], table[128]);
    static_cast<std::int32_t*>(t.leaf_data[1])[rows - 1] = 10;
    for (int repeat = 0; repeat < 2; ++repeat) {
      try {
        t.run();
        ADD_FAILURE() << "no error";
      } catch (const UserError& e) {
        EXPECT_EQ(e.kind(), ErrorKind::index);
        EXPECT_EQ(e.op(), "embedding");
        EXPECT_EQ(e.scope(), "layer.3");
        EXPECT_EQ(std::string(e.what()), "layer.3: embedding: index 10 is out of range: an extent of 10 has -10 to 9");
      }
      EXPECT_EQ(t.result()[0], table[128]) << "the rest is computed";
    }
    static_cast<std::int32_t*>(t.leaf_data[1])[rows - 1] = -10;
    t.run();
  }
}

TEST(Executable, KernelsReportFailures) {
  HandPlan t;
  const std::vector<float> xs(1000, -1.0f);
  const int x = t.leaf(xs), y = t.output(4000);
  add_kernel(t, x, y, 1000, 1, "scale");
  EXPECT_THROW(
      {
        try {
          t.run();
        } catch (const UserError& e) {
          EXPECT_EQ(std::string(e.what()), "scale: negative total");
          throw;
        }
      },
      UserError);
}

TEST(Executable, ArenaThatCannotBeHad) {
  HandPlan t;
  const int x = t.leaf(numbers(64, 1)), out = t.output(256);
  t.temporary(std::size_t{1} << 50);
  t.fused(binary(Elementwise::add, x, x, out, 64), 0);
  EXPECT_THROW(t.run(), OutOfMemory);
}

}  // namespace
}  // namespace metal_candle
