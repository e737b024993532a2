// Matmul steps of the CPU executable: batches, types, epilogues and packed constants, against sums in double.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

#include "tests/backend/hand_plan.h"

namespace metal_candle {
namespace {

using Dims = std::vector<std::int64_t>;

/// Sum over k in double, with the strides of the step; out[batch, m, n].
template <class T>
std::vector<double> product_of(const MatmulStep& s, const std::vector<T>& a, const std::vector<T>& b,
                               const std::vector<T>& a2 = {}, const std::vector<T>& b2 = {}) {
  std::int64_t batch = 1;
  for (auto e : s.batch) batch *= e;
  std::vector<double> out;
  for (std::int64_t e = 0; e < batch; ++e)
    for (std::int64_t i = 0; i < s.m; ++i)
      for (std::int64_t j = 0; j < s.n; ++j) {
        double sum = 0;
        const auto add = [&](const MatmulOperand& x, const MatmulOperand& y, std::int64_t k, const auto& xs,
                             const auto& ys) {
          std::int64_t p = x.offset, q = y.offset, rest = e;
          for (std::size_t d = s.batch.size(); d-- > 0; rest /= s.batch[d]) {
            p += rest % s.batch[d] * x.batch_strides[d];
            q += rest % s.batch[d] * y.batch_strides[d];
          }
          for (std::int64_t l = 0; l < k; ++l)
            sum += static_cast<double>(
                       static_cast<float>(xs[static_cast<std::size_t>(p + i * x.row_stride + l * x.col_stride)])) *
                   static_cast<double>(
                       static_cast<float>(ys[static_cast<std::size_t>(q + l * y.row_stride + j * y.col_stride)]));
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
    ASSERT_NEAR(static_cast<double>(static_cast<float>(got[i])), want[i], tolerance * (scale + std::abs(want[i])))
        << "element " << i;
}

struct BatchCase {
  Dims batch, a_strides, b_strides;
  std::int64_t m, n, k;
  bool constant;
};

void check_batch(const BatchCase& c) {
  HandPlan t;
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
  for (auto* leaf : t.leaves)
    EXPECT_EQ(leaf->packed.load() != nullptr, c.constant && leaf == t.leaves[1] && c.k * c.n >= 4096);
}

TEST(MatmulStep, Batches) {
  const std::int64_t m = 7, n = 80, k = 60, mk = m * k, kn = k * n;
  check_batch({{}, {}, {}, 33, n, k, false});
  check_batch({{}, {}, {}, 1, 200, 300, true});
  check_batch({{3, 4}, {4 * mk, mk}, {0, 0}, m, n, k, true});         // one matrix
  check_batch({{3, 4}, {4 * mk, mk}, {0, 0}, 1, n, k, false});        // one row each, at a distance
  check_batch({{3, 4}, {4 * mk, mk}, {4 * kn, kn}, m, n, k, false});  // dense batches
  check_batch({{3, 4}, {4 * mk, mk}, {4 * kn, kn}, m, n, k, true});
  check_batch({{3, 4}, {4 * mk, mk}, {kn, 0}, m, n, k, true});  // shared by groups
  check_batch({{3, 4}, {mk, 0}, {0, kn}, m, n, k, true});       // each with each
  check_batch({{3, 4}, {0, 0}, {4 * kn, kn}, m, n, k, false});  // shared left side
  check_batch({{2, 3, 1, 2}, {6 * mk, mk, 77, 3 * mk}, {0, kn, 3, 0}, m, n, k, true});
  check_batch({{3, 0}, {mk, mk}, {0, 0}, m, n, k, false});
  check_batch({{2}, {mk}, {0}, m, n, 0, false});
  check_batch({{2}, {mk}, {0}, 0, n, k, false});
  check_batch({{2}, {mk}, {0}, m, 0, k, false});
}

/// A product of [batch, m, k] and a constant b, a second product, and an epilogue gelu-like: max(p + bias, 0) * scale +
/// residual.
void check_epilogue(DType dtype, bool reduces) {
  const std::int64_t batch = 3, m = 20, n = 70, k = 90, r = 8;
  HandPlan t;
  const auto as = numbers(batch * m * k, 1), bs = numbers(k * n, 2), a2 = numbers(batch * m * r, 3),
             b2 = numbers(r * n, 4);
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
  const int a = leaf(as), b = leaf(bs), a2_leaf = leaf(a2), b2_leaf = leaf(b2), bias_leaf = t.leaf(bias),
            res = t.leaf(residual);
  const int out = t.output(static_cast<std::size_t>(batch * m * n) * 4),
            sums = t.output(static_cast<std::size_t>(batch * m) * 4);
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
  const int value =
      p.map(Elementwise::add, p.map(Elementwise::mul, p.map(Elementwise::maximum, biased, p.literal(0)), p.slot(0)),
            p.load(p.dense(res)));
  p.store(value, p.dense(out));
  p.store(reduces ? p.reduce(KOp::reduce_sum, value) : p.row_index(),
          p.per_row(sums, reduces ? DType::f32 : DType::i32));
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
  else
    for (int i = 0; i < batch * m; ++i) EXPECT_EQ(t.result<std::int32_t>(1)[static_cast<std::size_t>(i)], i);
}

TEST(MatmulStep, EpilogueOnTiles) { check_epilogue(DType::f32, false); }
TEST(MatmulStep, EpilogueThatReduces) { check_epilogue(DType::f32, true); }
TEST(MatmulStep, EpilogueOfDoubles) { check_epilogue(DType::f64, false); }
TEST(MatmulStep, EpilogueOfIntegers) { check_epilogue(DType::i32, true); }

template <class T>
void check_type() {
  const std::int64_t batch = 2, m = 19, n = 70, k = 130;
  HandPlan t;
  std::vector<T> as, bs;
  for (float x : numbers(batch * m * k, 1)) as.push_back(static_cast<T>(x * 16));
  for (float x : numbers(batch * k * n, 2)) bs.push_back(static_cast<T>(x * 16));
  const int a = t.leaf(as), b = t.leaf(bs), out = t.output(static_cast<std::size_t>(batch * m * n) * sizeof(T));
  MatmulStep& s = t.step(PlanStep::Kind::matmul, 0, "matmul").matmul;
  s.dtype = dtype_of<T>, s.m = m, s.n = n, s.k = k, s.batch = {batch}, s.out = out;
  s.a = {a, 0, k, 1, {m * k}, false};
  s.b = {b, 0, 1, k, {k * n}, true};  // stored transposed
  t.run_everywhere();
  expect_close(t.result<T>(), product_of(s, as, bs),
               std::is_same_v<T, bf16>  ? 1e-2
               : std::is_same_v<T, f16> ? 2e-3
                                        : 1e-5,
               1000);
}

TEST(MatmulStep, Types) {
  check_type<float>();
  check_type<double>();
  check_type<bf16>();
  check_type<f16>();
  check_type<std::int32_t>();
  check_type<std::int64_t>();
}

TEST(MatmulStep, ConstantsArePackedOnceForAllPlansAndRuns) {
  const auto as = numbers(64 * 256, 1), bs = numbers(256 * 256, 2);
  HandPlan t;
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

// One way: packed once, for both threads and runs. Both ways, as a training step: left as it is.
TEST(MatmulStep, ManyRowsPackAWeightThatIsReadOneWay) {
  const auto as = numbers(300 * 256, 1), bs = numbers(256 * 256, 2);
  for (const int ways : {1, 2}) {
    HandPlan t;
    const int a = t.leaf(as), b = t.leaf(bs);
    for (int back = 0; back < ways; ++back) {
      const int out = t.output(300 * 256 * 4);
      MatmulStep& s = t.step(PlanStep::Kind::matmul, 0, "matmul").matmul;
      s.m = 300, s.n = 256, s.k = 256, s.out = out;
      s.a = {a, 0, 256, 1, {}, false}, s.b = {b, 0, back == 0 ? 1 : 256, back == 0 ? 256 : 1, {}, true};
    }
    for (int i = 0; i < 2; ++i) {
      t.run_everywhere();
      for (std::size_t w = 0; w < t.plan->steps.size(); ++w)
        expect_close(t.result(w), product_of(t.plan->steps[w].matmul, as, bs), 1e-4);
      const PackedForm* form = t.leaves[1]->packed.load();
      EXPECT_EQ(form != nullptr, ways == 1);
      EXPECT_TRUE(form == nullptr || form->next == nullptr);
    }
    const auto packed = t.result();
    const auto plain = t.backend->lower(t.plan);
    plain->run({{}, t.leaf_data, t.output_data, t.slots});
    EXPECT_EQ(t.result(), packed);
  }
}

}  // namespace
}  // namespace metal_candle
