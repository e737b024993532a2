// The CPU GEMM against a plain f64 product, over shapes, strides, batches, segments, types and instruction sets, and its
// promise that a row's bits depend on nothing but the row, K and B.
#include "backend/cpu/gemm/gemm.h"

#include <limits>
#include <tuple>

#include "gemm_problem.h"
#include "metal_candle/dtype.hpp"

namespace metal_candle::cpu::gemm_test {
namespace {

class OnIsa : public testing::TestWithParam<std::tuple<GemmIsa, bool>> {
 protected:
  void SetUp() override {
    if (!set_gemm_isa(std::get<0>(GetParam()), std::get<1>(GetParam()))) GTEST_SKIP() << "not on this CPU";
  }
  void TearDown() override { set_gemm_isa(GemmIsa::best); }
};

constexpr GemmType kTypes[] = {GemmType::f32, GemmType::bf16, GemmType::f16, GemmType::f64};

TEST_P(OnIsa, ShapesMatchPlainProduct) {
  const int64_t ms[] = {1, 2, 3, 5, 7, 8, 13, 16, 25, 33}, ns[] = {1, 7, 16, 17, 31, 64, 100, 161},
                ks[] = {1, 2, 17, 64, 301};
  for (GemmType type : kTypes)
    for (int64_t m : ms)
      for (int64_t n : ns)
        for (int64_t k : ks)
          for (bool pack : {false, true}) {
            check(type, {.m = m, .n = n, .k = k, .pack = pack});
            if (HasFatalFailure()) return;
          }
}

TEST_P(OnIsa, StridesAndOrders) {
  using Order = Matrix::Order;
  for (GemmType type : kTypes)
    for (Order a : {Order::by_rows, Order::by_cols, Order::scattered})
      for (Order b : {Order::by_rows, Order::by_cols, Order::scattered})
        for (auto [m, n, k] : {std::tuple<int64_t, int64_t, int64_t>{1, 40, 33},
                               {6, 130, 70},
                               {20, 70, 600},
                               {70, 16, 555},
                               {100, 9, 37},
                               {45, 75, 301}})
          for (int64_t pad : {int64_t{0}, int64_t{3}})
            for (bool pack : {false, true}) {
              check(type, {.m = m, .n = n, .k = k, .a_order = a, .b_order = b, .pack = pack, .pad = pad});
              if (HasFatalFailure()) return;
            }
}

/// Strides of zero are what `expand` leaves, and gradients of sums and means are expanded; nothing of an operand's
/// strides may be taken for a sign of something else.
TEST_P(OnIsa, UnusualStrides) {
  for (GemmType type : kTypes)
    for (int o = 0; o < 64; ++o)
      for (auto [m, n, k] : {std::tuple<int64_t, int64_t, int64_t>{1, 40, 33},
                             {2, 3, 2},
                             {3, 1, 9},
                             {6, 130, 20},
                             {20, 70, 41},
                             {70, 16, 26},
                             {40, 37, 33}}) {
        const bool pack = (o / 8 + o + m + n / 3) % 2 != 0;
        const Matrix::Order a = static_cast<Matrix::Order>(o / 8), b = static_cast<Matrix::Order>(o % 8);
        check(type, {.m = m, .n = n, .k = k, .a_order = a, .b_order = b, .pack = pack, .pad = m % 3});
        check(type, {.m = m,
                     .n = n,
                     .k = k,
                     .k2 = 7,
                     .batch = 2,
                     .a_order = a,
                     .b_order = b,
                     .pack = pack,
                     .shared_a = true,
                     .sink = true});
        if (HasFatalFailure()) return;
      }
}

TEST_P(OnIsa, EmptyExtents) {
  for (GemmType type : kTypes)
    for (bool pack : {false, true})
      for (bool sink : {false, true}) {
        check(type, {.m = 0, .n = 5, .k = 3, .pack = pack, .sink = sink});
        check(type, {.m = 5, .n = 0, .k = 3, .pack = pack, .sink = sink});
        check(type, {.m = 5, .n = 37, .k = 0, .pack = pack, .sink = sink, .pad = 2});
        check(type, {.m = 5, .n = 37, .k = 0, .k2 = 7, .pack = pack, .sink = sink});
        check(type, {.m = 5, .n = 37, .k = 4, .batch = 0, .sink = sink});
        if (HasFatalFailure()) return;
      }
}

TEST_P(OnIsa, SegmentsBatchesSinksAndStores) {
  for (GemmType type : kTypes)
    for (bool sink : {false, true})
      for (GemmType c_type : kTypes) {
        for (int64_t m : {1, 9, 50}) {
          check(type, {.m = m, .n = 77, .k = 530, .k2 = 16, .pack = true, .sink = sink, .pad = 1, .c_type = c_type});
          check(type,
                {.m = m, .n = 77, .k = 531, .k2 = 7, .pack = true, .pack2 = true, .sink = sink, .c_type = c_type});
          check(type, {.m = m, .n = 40, .k = 33, .batch = 5, .sink = sink, .pad = 1, .c_type = c_type});
          check(type, {.m = m,
                       .n = 40,
                       .k = 33,
                       .batch = 3,
                       .b_order = Matrix::by_cols,
                       .shared_b = true,
                       .sink = sink,
                       .c_type = c_type});
          check(type, {.m = m, .n = 40, .k = 33, .batch = 3, .shared_a = true, .sink = sink, .c_type = c_type});
        }
        check(type,
              {.m = 90, .n = 12, .k = 600, .batch = 2, .a_order = Matrix::by_cols, .sink = sink, .c_type = c_type});
        if (HasFatalFailure()) return;
      }
}

TEST_P(OnIsa, LargeEnoughForEveryBlocking) {
  for (GemmType type : {GemmType::f32, GemmType::bf16})
    for (bool pack : {false, true}) {
      // Several groups of columns with a short second product; few rows over long ones, both ways around.
      check(type, {.m = 220, .n = 400, .k = 96, .k2 = 16, .b_order = Matrix::by_cols, .pack = pack});
      for (int64_t k : {630, 631})
        for (int64_t rows : {7, 16, 31}) {
          check(type, {.m = rows, .n = 208, .k = k, .a_order = Matrix::by_cols, .pack = pack, .pad = 1});
          check(type, {.m = rows, .n = 112, .k = k, .batch = 2, .pack = pack, .sink = true});
          check(type, {.m = 240, .n = rows, .k = k, .a_order = Matrix::by_cols, .pad = 1});
        }
      check(type, {.m = 400, .n = 300, .k = 700, .k2 = 8, .pack = pack, .sink = pack});
      check(type,
            {.m = 130, .n = 600, .k = 1030, .a_order = Matrix::by_cols, .b_order = Matrix::by_cols, .pack = pack});
      if (HasFatalFailure()) return;
    }
}

std::vector<char> product(GemmType type, int64_t m, Matrix& a, Matrix& b, const void* pack,
                          GemmTiling (*cut)(GemmTiling)) {
  GemmArgs g;
  g.m = m, g.n = b.cols, g.type = type, g.c_type = type == GemmType::f64 ? type : GemmType::f32,
  g.c_row_stride = b.cols;
  g.segments[0] = {a.ref(), pack != nullptr ? MatrixRef{pack, 0, 0} : b.ref(), pack != nullptr, a.cols, 0, 0};
  std::vector<char> c(static_cast<std::size_t>(m * b.cols) * bytes_of(g.c_type));
  g.c = c.data();
  const GemmTiling t = cut(plan_gemm(g));
  std::vector<char> scratch(t.scratch_bytes);
  for (int64_t job = 0; job < t.jobs; ++job) run_gemm_job(g, t, job, scratch.data(), job - 1);
  return c;
}

TEST_P(OnIsa, RowBitsDependOnNothingElse) {
  const auto as_planned = +[](GemmTiling t) { return t; };
  // block_steps of a plan may shrink freely: copies get smaller.
  const auto short_blocks = +[](GemmTiling t) {
    t.block_steps = std::min<int64_t>(t.block_steps, 12);
    t.holds_a = t.holds_b = t.spread_b = false;
    return t;
  };
  for (GemmType type : kTypes) {
    const int64_t k = 613, n = 133, most = 130;
    Matrix a(type, most, k, 7), a_cols(type, most, k, 7, Matrix::by_cols), b(type, k, n, 8),
        b_cols(type, k, n, 8, Matrix::by_cols);
    const std::vector<char> pack = packed(b);
    const std::vector<char> all = product(type, most, a, b, pack.data(), as_planned);
    for (int64_t m = 1; m <= most; ++m) {
      const auto rows = [&](const std::vector<char>& c) { return std::memcmp(c.data(), all.data(), c.size()) == 0; };
      ASSERT_TRUE(rows(product(type, m, a, b, pack.data(), as_planned))) << gemm_isa_name() << " m " << m;
      if (m > 30 && m % 10 != 0) continue;
      ASSERT_TRUE(rows(product(type, m, a, b, nullptr, as_planned))) << gemm_isa_name() << " unpacked, m " << m;
      ASSERT_TRUE(rows(product(type, m, a, b_cols, nullptr, as_planned)))
          << gemm_isa_name() << " transposed B, m " << m;
      ASSERT_TRUE(rows(product(type, m, a_cols, b, nullptr, as_planned)))
          << gemm_isa_name() << " transposed A, m " << m;
      if (m <= 40) continue;
      ASSERT_TRUE(rows(product(type, m, a, b, pack.data(), short_blocks))) << gemm_isa_name() << " blocks, m " << m;
    }
  }
}

TEST_P(OnIsa, SegmentsAreOneChain) {
  for (GemmType type : kTypes)
    for (int64_t k : {64, 612, 2100})  // in one kernel call, and in several
      for (int64_t m : {1, 9, 60}) {
        const int64_t n = 77, k2 = 16;
        Matrix a(type, m, k + k2, 7), b(type, k + k2, n, 8);
        const auto as_planned = +[](GemmTiling t) { return t; };
        const std::vector<char> whole = product(type, m, a, b, nullptr, as_planned);
        GemmArgs g;
        g.m = m, g.n = n, g.type = type, g.c_type = type == GemmType::f64 ? type : GemmType::f32, g.c_row_stride = n;
        g.segments[0] = {a.ref(), b.ref(), false, k, 0, 0};
        g.segments[1] = {{a.at(0, 0, k), a.row_stride, 1}, {b.at(0, k, 0), b.row_stride, 1}, false, k2, 0, 0};
        std::vector<char> c(whole.size());
        g.c = c.data();
        run_all(g);
        ASSERT_EQ(c, whole) << gemm_isa_name() << " k " << k << " m " << m;
      }
}

/// Kernels that round sums themselves give what rounding f32 results gives: infinities, NaN and tiny numbers, too.
TEST_P(OnIsa, HalvesAreRoundedSums) {
  const int64_t m = 45, n = 75, k = 34;
  Matrix a(GemmType::bf16, m, k, 7), b(GemmType::bf16, k, n, 8);
  const auto set = [](Matrix& x, int64_t i, int64_t j, float value) {
    const metal_candle::bf16 half(value);
    std::memcpy(x.at(0, i, j), &half, 2);
  };
  for (int64_t j = 0; j < k; ++j) set(a, 3, j, 0x1p-70f), set(a, 4, j, 0x1.8p-30f), set(a, 5, j, 0x1.fep127f);
  for (int64_t i = 0; i < k; ++i) set(b, i, 9, 0x1p-65f), set(b, i, 10, 0x1.cp-97f), set(b, i, 11, 0x1.8p1f);
  set(a, 7, 0, std::numeric_limits<float>::infinity());
  set(a, 8, 1, std::numeric_limits<float>::quiet_NaN());
  GemmArgs g;
  g.m = m, g.n = n, g.type = GemmType::bf16, g.c_row_stride = n;
  for (bool batched : {false, true}) {
    g.segments[0] = {a.ref(), b.ref(), false, batched ? k : k - 2, 0, 0};
    if (!batched)
      g.segments[1] = {{a.at(0, 0, k - 2), a.row_stride, 1}, {b.at(0, k - 2, 0), b.row_stride, 1}, false, 2};
    g.batch = batched ? 2 : 1, g.c_batch = m * n;
    std::vector<float> sums(static_cast<std::size_t>(g.batch * m * n));
    std::vector<metal_candle::bf16> halves(sums.size());
    g.c_type = GemmType::f32, g.c = sums.data();
    run_all(g);
    g.c_type = GemmType::bf16, g.c = halves.data();
    run_all(g);
    for (std::size_t i = 0; i < sums.size(); ++i)
      ASSERT_EQ(halves[i].bits, metal_candle::bf16(sums[i]).bits) << gemm_isa_name() << " at " << i << ": " << sums[i];
  }
}

TEST_P(OnIsa, SwappedProductHasTheSameBits) {
  for (GemmType type : kTypes)
    for (auto [k, m] : {std::pair<int64_t, int64_t>{613, 120}, {614, 112}}) {
      const int64_t n = 16;
      Matrix a(type, m, k, 7), a_cols(type, m, k, 7, Matrix::by_cols), b(type, k, n, 8);
      const auto as_planned = +[](GemmTiling t) { return t; };
      const auto swapped = +[](GemmTiling t) {
        EXPECT_TRUE(t.swapped);
        return t;
      };
      ASSERT_EQ(product(type, m, a, b, nullptr, as_planned), product(type, m, a_cols, b, nullptr, swapped));
    }
}

/// A few rows, where kernels may take B's rows as they are, and the same rows among many, over a packed B.
TEST_P(OnIsa, FewRowsOverLongOnesHaveTheSameBits) {
  const auto as_planned = +[](GemmTiling t) { return t; };
  for (GemmType type : kTypes) {
    const int64_t k = 614, n = 208, most = 60;
    Matrix a(type, most, k, 7), a_cols(type, most, k, 7, Matrix::by_cols), b(type, k, n, 8);
    const std::vector<char> all = product(type, most, a, b, packed(b).data(), as_planned);
    for (int64_t m : {7, 13, 16, 24, 32})
      for (Matrix* left : {&a, &a_cols}) {
        const std::vector<char> c = product(type, m, *left, b, nullptr, as_planned);
        ASSERT_EQ(std::memcmp(c.data(), all.data(), c.size()), 0) << gemm_isa_name() << " m " << m;
      }
  }
}

/// Rows of a power of two of bytes are copied by blocks that a thread's next jobs read: right, and with the same bits as
/// rows that are read where they are.
TEST_P(OnIsa, RowsThatShareSetsAreGathered) {
  const auto gathered = +[](GemmTiling t) {
    EXPECT_TRUE(t.gathers_a);
    return t;
  };
  const auto in_place = +[](GemmTiling t) {
    EXPECT_FALSE(t.gathers_a);
    return t;
  };
  for (GemmType type : {GemmType::f32, GemmType::bf16}) {
    if (type == GemmType::bf16 && !std::get<1>(GetParam())) continue;  // widened rows are copied in any case
    check(type, {.m = 66, .n = 259, .k = 2048, .k2 = 16, .pack = true, .pack2 = true});
    check(type, {.m = 66, .n = 259, .k = 2048, .k2 = 16, .b_order = Matrix::by_cols, .sink = true});
    check(type, {.m = 64, .n = 256, .k = 10240, .pack = true, .sink = true});  // K in blocks, all of them kept
    if (HasFatalFailure()) return;
    const int64_t m = 250, k = 2048, n = 290;
    Matrix together(type, m, k, 7), apart(type, m, k, 7, Matrix::by_rows, 24), b(type, k, n, 8);
    const std::vector<char> pack = packed(b);
    const std::vector<char> expected = product(type, m, apart, b, pack.data(), in_place);
    ASSERT_EQ(product(type, m, together, b, pack.data(), gathered), expected);
    ASSERT_EQ(product(type, m, together, b, nullptr, gathered), expected);
  }
}

std::string isa_label(const testing::TestParamInfo<std::tuple<GemmIsa, bool>>& info) {
  const char* names[] = {"best", "portable", "ssse3", "sse4", "avx2", "avx512", "neon"};
  return std::string(names[static_cast<int>(std::get<0>(info.param))]) +
         (std::get<1>(info.param) ? "" : "_no_bf16_dot");
}

INSTANTIATE_TEST_SUITE_P(Gemm, OnIsa,
                         testing::Values(std::tuple{GemmIsa::best, true}, std::tuple{GemmIsa::portable, false},
                                         std::tuple{GemmIsa::ssse3, false}, std::tuple{GemmIsa::sse4, false},
                                         std::tuple{GemmIsa::avx2, false}, std::tuple{GemmIsa::avx512, false},
                                         std::tuple{GemmIsa::neon, false}),
                         isa_label);

TEST(GemmIsaTest, VectorWidthDoesNotChangeBits) {
  const auto as_planned = +[](GemmTiling t) { return t; };
  for (GemmType type : {GemmType::f32, GemmType::f64}) {
    Matrix a(type, 40, 301, 7), b(type, 301, 77, 8);
    if (!set_gemm_isa(GemmIsa::avx2, false)) GTEST_SKIP();
    const std::vector<char> narrow = product(type, 40, a, b, nullptr, as_planned);
    if (!set_gemm_isa(GemmIsa::avx512, false)) GTEST_SKIP();
    EXPECT_EQ(narrow, product(type, 40, a, b, nullptr, as_planned));
  }
  set_gemm_isa(GemmIsa::best);
}

}  // namespace
}  // namespace metal_candle::cpu::gemm_test
