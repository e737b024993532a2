// The CPU executable on plans made by hand: against plain loops, on 1, 2 and 4 threads, which must give the same bytes.
#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstring>
#include <deque>
#include <functional>
#include <memory>
#include <vector>

#include "backend/backend.h"
#include "base/pool.h"
#include "base/thread_pool.h"
#include "metal_candle/error.hpp"
#include "tests/backend/vm_builder.h"

namespace metal_candle {
namespace {

using Where = PlanBuffer::Where;
using Dims = std::vector<std::int64_t>;

std::vector<float> numbers(std::int64_t count, int seed) {
  std::vector<float> v(static_cast<std::size_t>(count));
  std::uint32_t x = 12345u + static_cast<std::uint32_t>(seed) * 977u;
  for (auto& y : v) {
    x = x * 1664525u + 1013904223u;
    y = static_cast<float>(static_cast<int>(x >> 20) - 2048) / 1024.0f;
  }
  return v;
}

/// A plan, and the memory for running it.
struct Bench {
  std::shared_ptr<Plan> plan = std::make_shared<Plan>();
  std::vector<Storage*> leaves;
  std::vector<void*> leaf_data, output_data;
  std::deque<std::vector<std::uint64_t>> memory;
  std::vector<std::uint64_t> slots;
  std::unique_ptr<Backend> backend = make_cpu_backend();
  std::unique_ptr<Executable> executable, large_executable;

  ~Bench() {
    for (auto* s : leaves) s->release();
  }
  int add(PlanBuffer b) {
    plan->buffers.push_back(b);
    return static_cast<int>(plan->buffers.size()) - 1;
  }
  template <class T>
  int leaf(const std::vector<T>& values) {
    const std::size_t bytes = values.size() * sizeof(T);
    leaves.push_back(Storage::make(bytes));
    leaves.back()->frozen = true;
    if (bytes > 0) std::memcpy(leaves.back()->data, values.data(), bytes);
    leaf_data.push_back(leaves.back()->data);
    return add({.where = Where::leaf, .index = plan->leaves++, .bytes = bytes});
  }
  int output(std::size_t bytes) {
    plan->output_bytes.push_back(bytes);
    return add({.where = Where::output, .index = static_cast<int>(plan->output_bytes.size()) - 1, .bytes = bytes});
  }
  int temporary(std::size_t bytes) {
    const std::size_t offset = plan->arena_bytes;
    plan->arena_bytes += (bytes + 63) / 64 * 64;
    return add({.where = Where::arena, .bytes = bytes, .offset = offset});
  }
  int slot(double value) {
    slots.push_back(std::bit_cast<std::uint64_t>(value));
    return add({.where = Where::slot, .index = plan->slots++, .bytes = 8});
  }
  PlanStep& step(PlanStep::Kind kind, int phase, const char* label) {
    plan->steps.emplace_back();
    plan->steps.back().kind = kind;
    plan->steps.back().phase = phase;
    plan->steps.back().label = label;
    plan->phases = std::max(plan->phases, phase + 1);
    return plan->steps.back();
  }
  PlanStep& fused(KernelProgram p, int phase) {
    PlanStep& s = step(PlanStep::Kind::fused, phase, "fused");
    p.buffers = static_cast<int>(plan->buffers.size());
    s.program = std::move(p);
    return s;
  }

  void run(std::vector<TaskTime>* times = nullptr) {
    if (!executable) executable = backend->lower(plan);
    memory.clear();
    output_data.clear();
    for (auto bytes : plan->output_bytes) {
      memory.emplace_back(bytes / 8 + 1, 0xa5a5a5a5a5a5a5a5u);
      output_data.push_back(memory.back().data());
    }
    executable->run({leaves, leaf_data, output_data, slots}, times);
  }
  template <class T = float>
  std::vector<T> result(std::size_t i = 0) const {
    const T* data = static_cast<const T*>(output_data[i]);
    return {data, data + plan->output_bytes[i] / sizeof(T)};
  }
  /// Runs on several numbers of threads, twice each, in the caller alone and as if the plan were a large one; all must
  /// give the same bytes.
  void run_everywhere() {
    const int before = base::threads();
    run();
    const std::vector<std::vector<std::uint64_t>> first(memory.begin(), memory.end());
    const auto large = std::make_shared<Plan>(*plan);
    for (PlanStep& s : large->steps) s.flops = 1e9;
    executable.swap(large_executable);
    executable = backend->lower(large);
    for (int threads : {1, 2, 4}) {
      base::set_threads(threads);
      for (int repeat = 0; repeat < 2; ++repeat) {
        run();
        const std::vector<std::vector<std::uint64_t>> bytes(memory.begin(), memory.end());
        EXPECT_EQ(bytes, first) << threads << " threads";
      }
    }
    executable.swap(large_executable);
    base::set_threads(before);
  }
};

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
  Bench t;
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
  Bench t;
  const auto xs = numbers(64, 3);
  const int x = t.leaf(xs), s = t.slot(2.5), out = t.output(64 * 4);
  const int c = t.add({.where = Where::constant, .bytes = 8, .bits = std::bit_cast<std::uint64_t>(0.25)});
  ProgramBuilder b({1});
  b.stage(64);
  const auto scalar = [&](int buffer) { return b.cast(b.load({.buffer = buffer, .dtype = DType::f64, .row_strides = {0}}), DType::f32); };
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

// ---- matmul ----------------------------------------------------------------------------------------------------------

/// Sum over k in double, with the strides of the step; out[batch, m, n].
template <class T>
std::vector<double> product_of(const MatmulStep& s, const std::vector<T>& a, const std::vector<T>& b, const std::vector<T>& a2 = {},
                               const std::vector<T>& b2 = {}) {
  std::int64_t batch = 1;
  for (auto e : s.batch) batch *= e;
  std::vector<double> out;
  for (std::int64_t e = 0; e < batch; ++e)
    for (std::int64_t i = 0; i < s.m; ++i)
      for (std::int64_t j = 0; j < s.n; ++j) {
        double sum = 0;
        const auto add = [&](const MatmulOperand& x, const MatmulOperand& y, std::int64_t k, const auto& xs, const auto& ys) {
          std::int64_t p = x.offset, q = y.offset, rest = e;
          for (std::size_t d = s.batch.size(); d-- > 0; rest /= s.batch[d]) {
            p += rest % s.batch[d] * x.batch_strides[d];
            q += rest % s.batch[d] * y.batch_strides[d];
          }
          for (std::int64_t l = 0; l < k; ++l)
            sum += static_cast<double>(static_cast<float>(xs[static_cast<std::size_t>(p + i * x.row_stride + l * x.col_stride)])) *
                   static_cast<double>(static_cast<float>(ys[static_cast<std::size_t>(q + l * y.row_stride + j * y.col_stride)]));
        };
        add(s.a, s.b, s.k, a, b);
        if (s.k2 > 0) add(s.a2, s.b2, s.k2, a2, b2);
        out.push_back(sum);
      }
  return out;
}

template <class T>
void expect_close(const std::vector<T>& got, const std::vector<double>& want, double tolerance, double scale = 1) {
  ASSERT_EQ(got.size(), want.size());
  for (std::size_t i = 0; i < got.size(); ++i)
    ASSERT_NEAR(static_cast<double>(static_cast<float>(got[i])), want[i], tolerance * (scale + std::abs(want[i]))) << "element " << i;
}

struct BatchCase {
  Dims batch, a_strides, b_strides;
  std::int64_t m, n, k;
  bool constant;
};

void check_batch(const BatchCase& c) {
  Bench t;
  std::int64_t batch = 1, a_size = c.m * c.k, b_size = c.k * c.n;
  for (std::size_t d = 0; d < c.batch.size(); ++d) {
    batch *= c.batch[d];
    a_size += (c.batch[d] - 1) * c.a_strides[d];
    b_size += (c.batch[d] - 1) * c.b_strides[d];
  }
  const auto as = numbers(a_size + 3, 5), bs = numbers(b_size + 5, 6);
  const int a = t.leaf(as), b = t.leaf(bs), out = t.output(static_cast<std::size_t>(batch * c.m * c.n) * 4);
  MatmulStep& s = t.step(PlanStep::Kind::matmul, 0, "matmul").matmul;
  s.m = c.m, s.n = c.n, s.k = c.k, s.batch = c.batch, s.out = out;
  s.a = {a, 3, c.k, 1, c.a_strides, false};
  s.b = {b, 5, c.n, 1, c.b_strides, c.constant};
  t.run_everywhere();
  expect_close(t.result(), product_of(s, as, bs), 1e-5);
  for (auto* leaf : t.leaves) EXPECT_EQ(leaf->packed.load() != nullptr, c.constant && leaf == t.leaves[1] && c.k * c.n >= 4096);
}

TEST(Executable, MatmulBatches) {
  const std::int64_t m = 7, n = 80, k = 60, mk = m * k, kn = k * n;
  check_batch({{}, {}, {}, 33, n, k, false});
  check_batch({{}, {}, {}, 1, 200, 300, true});
  check_batch({{3, 4}, {4 * mk, mk}, {0, 0}, m, n, k, true});        // one matrix
  check_batch({{3, 4}, {4 * mk, mk}, {0, 0}, 1, n, k, false});       // one row each, at a distance
  check_batch({{3, 4}, {4 * mk, mk}, {4 * kn, kn}, m, n, k, false});  // dense batches
  check_batch({{3, 4}, {4 * mk, mk}, {4 * kn, kn}, m, n, k, true});
  check_batch({{3, 4}, {4 * mk, mk}, {kn, 0}, m, n, k, true});       // shared by groups
  check_batch({{3, 4}, {mk, 0}, {0, kn}, m, n, k, true});            // each with each
  check_batch({{3, 4}, {0, 0}, {4 * kn, kn}, m, n, k, false});       // shared left side
  check_batch({{2, 3, 1, 2}, {6 * mk, mk, 77, 3 * mk}, {0, kn, 3, 0}, m, n, k, true});
  check_batch({{3, 0}, {mk, mk}, {0, 0}, m, n, k, false});
  check_batch({{2}, {mk}, {0}, m, n, 0, false});
  check_batch({{2}, {mk}, {0}, 0, n, k, false});
  check_batch({{2}, {mk}, {0}, m, 0, k, false});
}

/// A product of [batch, m, k] and a constant b, a second product, and an epilogue gelu-like: max(p + bias, 0) * scale + residual.
void check_epilogue(DType dtype, bool reduces) {
  const std::int64_t batch = 3, m = 20, n = 70, k = 90, r = 8;
  Bench t;
  const auto as = numbers(batch * m * k, 1), bs = numbers(k * n, 2), a2 = numbers(batch * m * r, 3), b2 = numbers(r * n, 4);
  const auto bias = numbers(n, 5), residual = numbers(batch * m * n, 6);
  const auto leaf = [&](const std::vector<float>& v) {
    if (dtype == DType::f64) return t.leaf(std::vector<double>(v.begin(), v.end()));
    if (dtype == DType::i32) {
      std::vector<std::int32_t> w;
      for (float x : v) w.push_back(static_cast<std::int32_t>(x * 100));
      return t.leaf(w);
    }
    return t.leaf(v);
  };
  const int a = leaf(as), b = leaf(bs), a2_leaf = leaf(a2), b2_leaf = leaf(b2), bias_leaf = t.leaf(bias), res = t.leaf(residual);
  const int out = t.output(static_cast<std::size_t>(batch * m * n) * 4), sums = t.output(static_cast<std::size_t>(batch * m) * 4);
  const int tile = t.add({.where = Where::tile});
  t.slot(0.5);
  PlanStep& step = t.step(PlanStep::Kind::matmul, 0, "matmul");
  MatmulStep& s = step.matmul;
  s.dtype = dtype, s.m = m, s.n = n, s.k = k, s.k2 = r, s.batch = {batch}, s.epilogue = true, s.tile = tile;
  s.a = {a, 0, k, 1, {m * k}, false}, s.b = {b, 0, n, 1, {0}, true};
  s.a2 = {a2_leaf, 0, r, 1, {m * r}, false}, s.b2 = {b2_leaf, 0, n, 1, {0}, true};
  ProgramBuilder p({batch, m});
  p.stage(n);
  int product = p.load(p.dense(tile, dtype));
  if (dtype != DType::f32) product = p.cast(product, DType::f32);
  const int biased = p.map(Elementwise::add, product, p.load(p.column_weights(bias_leaf)));
  const int value = p.map(Elementwise::add, p.map(Elementwise::mul, p.map(Elementwise::maximum, biased, p.literal(0)), p.slot(0)),
                          p.load(p.dense(res)));
  p.store(value, p.dense(out));
  p.store(reduces ? p.reduce(KOp::reduce_sum, value) : p.row_index(), p.per_row(sums, reduces ? DType::f32 : DType::i32));
  if (!reduces) p.p.values.back().type = RegType::i64;
  step.program = p.done();
  t.run_everywhere();
  const auto scaled = [&](std::vector<float> v) {
    if (dtype == DType::i32)
      for (float& x : v) x = static_cast<float>(static_cast<std::int32_t>(x * 100));
    return v;
  };
  auto want = product_of(s, scaled(as), scaled(bs), scaled(a2), scaled(b2));
  std::vector<double> want_sums(static_cast<std::size_t>(batch * m));
  for (std::size_t i = 0; i < want.size(); ++i) {
    want[i] = std::max(want[i] + static_cast<double>(bias[i % n]), 0.0) * 0.5 + static_cast<double>(residual[i]);
    want_sums[i / n] += want[i];
  }
  expect_close(t.result(), want, 1e-5);
  if (reduces) expect_close(t.result(1), want_sums, 1e-4);
  else for (int i = 0; i < batch * m; ++i) EXPECT_EQ(t.result<std::int32_t>(1)[static_cast<std::size_t>(i)], i);
}

TEST(Executable, MatmulEpilogueOnTiles) { check_epilogue(DType::f32, false); }
TEST(Executable, MatmulEpilogueThatReduces) { check_epilogue(DType::f32, true); }
TEST(Executable, MatmulEpilogueOfDoubles) { check_epilogue(DType::f64, false); }
TEST(Executable, MatmulEpilogueOfIntegers) { check_epilogue(DType::i32, true); }

template <class T>
void check_type() {
  const std::int64_t batch = 2, m = 19, n = 70, k = 130;
  Bench t;
  std::vector<T> as, bs;
  for (float x : numbers(batch * m * k, 1)) as.push_back(static_cast<T>(x * 16));
  for (float x : numbers(batch * k * n, 2)) bs.push_back(static_cast<T>(x * 16));
  const int a = t.leaf(as), b = t.leaf(bs), out = t.output(static_cast<std::size_t>(batch * m * n) * sizeof(T));
  MatmulStep& s = t.step(PlanStep::Kind::matmul, 0, "matmul").matmul;
  s.dtype = dtype_of<T>, s.m = m, s.n = n, s.k = k, s.batch = {batch}, s.out = out;
  s.a = {a, 0, k, 1, {m * k}, false};
  s.b = {b, 0, 1, k, {k * n}, true};  // stored transposed
  t.run_everywhere();
  expect_close(t.result<T>(), product_of(s, as, bs), std::is_same_v<T, bf16> ? 1e-2 : std::is_same_v<T, f16> ? 2e-3 : 1e-5, 1000);
}

TEST(Executable, MatmulTypes) {
  check_type<float>();
  check_type<double>();
  check_type<bf16>();
  check_type<f16>();
  check_type<std::int32_t>();
  check_type<std::int64_t>();
}

TEST(Executable, ConstantsArePackedOnceForAllPlansAndRuns) {
  const auto as = numbers(64 * 256, 1), bs = numbers(256 * 256, 2);
  Bench t;
  const int a = t.leaf(as), b = t.leaf(bs), out = t.output(64 * 128 * 4), second = t.output(64 * 128 * 4);
  for (int half = 0; half < 2; ++half) {
    MatmulStep& s = t.step(PlanStep::Kind::matmul, 0, "matmul").matmul;
    s.m = 64, s.n = 128, s.k = 256, s.out = half == 0 ? out : second;
    s.a = {a, 0, 256, 1, {}, false}, s.b = {b, 128 * half, 256, 1, {}, true};
  }
  t.run_everywhere();
  const auto first = t.result(), other = t.result(1);
  expect_close(first, product_of(t.plan->steps[0].matmul, as, bs), 1e-4);
  expect_close(other, product_of(t.plan->steps[1].matmul, as, bs), 1e-4);
  const auto forms = [&] {
    int n = 0;
    for (const PackedForm* f = t.leaves[1]->packed.load(); f != nullptr; f = f->next.get()) ++n;
    return n;
  };
  EXPECT_EQ(forms(), 2);
  const auto again = t.backend->lower(t.plan);
  again->run({t.leaves, t.leaf_data, t.output_data, t.slots});
  EXPECT_EQ(forms(), 2);
  // Without storages the leaves are read as they are.
  const auto plain = t.backend->lower(t.plan);
  plain->run({{}, t.leaf_data, t.output_data, t.slots});
  EXPECT_EQ(t.result(), first);
  EXPECT_EQ(t.result(1), other);
}

// ---- kernels ---------------------------------------------------------------------------------------------------------

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
  for (std::int64_t i = begin; i < end; ++i) c.outputs[0].as<float>()[i] = static_cast<float>(x[i] * total * static_cast<double>(c.attrs[0]));
}
std::int64_t parts_of(const KernelCall& c, int) { return (c.inputs[0].shape.numel() + kPart - 1) / kPart; }
const CpuKernel kScaleBySum{.run = scale_by_sum, .tasks = parts_of, .passes = 2,
                            .scratch = [](const KernelCall&) { return kPart * sizeof(double); },
                            .shared = [](const KernelCall& c) { return static_cast<std::size_t>(parts_of(c, 0)) * sizeof(double); }};

void add_kernel(Bench& t, int in, int out, std::int64_t n, std::int64_t factor, const char* label) {
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
  Bench t;
  const int x = t.leaf(ones), y = t.output(static_cast<std::size_t>(n) * 4), z = t.output(static_cast<std::size_t>(n) * 4);
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

// ---- errors ----------------------------------------------------------------------------------------------------------

TEST(Executable, NamesTheStepWhoseIndexIsOutOfRange) {
  const std::string scope = "layer.3";
  for (const bool large : {false, true}) {
    const std::int64_t rows = large ? 4096 : 4;
    Bench t;
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
        EXPECT_EQ(std::string(e.what()), "layer.3: embedding: index out of range");
      }
      EXPECT_EQ(t.result()[0], table[128]) << "the rest is computed";
    }
    static_cast<std::int32_t*>(t.leaf_data[1])[rows - 1] = -10;
    t.run();
  }
}

TEST(Executable, KernelsReportFailures) {
  Bench t;
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
  Bench t;
  const int x = t.leaf(numbers(64, 1)), out = t.output(256);
  t.temporary(std::size_t{1} << 50);
  t.fused(binary(Elementwise::add, x, x, out, 64), 0);
  EXPECT_THROW(t.run(), OutOfMemory);
}

}  // namespace
}  // namespace metal_candle
