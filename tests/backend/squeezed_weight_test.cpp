// Squeezed weights: every bit of a bf16 weight comes back, a product has the bits that it has on packed panels, and what
// cannot be squeezed is packed.
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

#include "backend/cpu/packed_weight.h"
#include "tests/backend/hand_plan.h"

namespace metal_candle::cpu {
namespace {

using std::int64_t;

struct Random {
  std::uint64_t state;
  std::uint64_t bits() {
    state = state * 6364136223846793005u + 1442695040888963407u;
    return state >> 33;
  }
  double uniform() { return static_cast<double>(bits()) * 0x1p-31; }
  /// As weights are spread, roughly.
  float usual() { return static_cast<float>((uniform() + uniform() + uniform() + uniform() - 2) * 0.05); }
};

/// k x n values, most of them usual; one of `rarity` is one that has no code.
std::vector<bf16> weights_of(int64_t k, int64_t n, std::uint64_t seed, std::uint64_t rarity, bool finite = false) {
  const float odd[] = {0,
                       -0.0f,
                       0x1p-130f,
                       -0x1.8p-127f,
                       0x1p-60f,
                       -0x1p60f,
                       1e4f,
                       std::numeric_limits<float>::max(),
                       -std::numeric_limits<float>::infinity(),
                       std::numeric_limits<float>::quiet_NaN()};
  Random random{seed};
  std::vector<bf16> w;
  for (int64_t i = 0; i < k * n; ++i) {
    const bool rare = random.bits() % rarity == 0;
    w.emplace_back(rare ? odd[random.bits() % (finite ? 7 : 10)] : random.usual());
  }
  return w;
}

GemmShape shape_of(int64_t n, int64_t k) { return {0, n, k, GemmType::bf16}; }

std::vector<char> pack(const GemmShape& s, MatrixRef b) {
  std::vector<char> to(packed_b_bytes(s));
  pack_b(s, b, to.data(), 0, packed_b_panels(s));
  return to;
}

/// Empty if it cannot be done.
std::vector<char> squeeze(const GemmShape& s, MatrixRef b) {
  const int64_t panels = packed_b_panels(s);
  std::vector<char> to(squeezed_b_bytes(s) + 8, 0x5a), scratch(packed_b_bytes(s) / static_cast<std::size_t>(panels));
  for (int64_t p = 0; p < panels; ++p)
    if (!squeeze_b(s, b, to.data(), p, p + 1, scratch.data())) return {};
  for (int i = 0; i < 8; ++i) EXPECT_EQ(to[squeezed_b_bytes(s) + static_cast<std::size_t>(i)], 0x5a);
  return to;
}

/// C's bytes, by way of run_gemm_job.
std::vector<char> product(GemmArgs g, std::size_t bytes) {
  std::vector<char> c(bytes, 0x11);
  g.c = c.data();
  g.c_row_stride = g.n;
  const GemmTiling t = plan_gemm(g);
  std::vector<char> scratch(t.scratch_bytes + 64);
  for (int64_t job = 0; job < t.jobs; ++job) run_gemm_job(g, t, job, scratch.data(), job - 1);
  return c;
}

class SqueezedWeight : public testing::Test {
 protected:
  void SetUp() override {
    if (!squeezes_b(shape_of(32, 4))) GTEST_SKIP() << "not on this CPU";
  }
};

TEST_F(SqueezedWeight, HasTheBitsOfPacked) {
  for (const auto& [n, k] : {std::pair<int64_t, int64_t>{32, 4}, {64, 64}, {96, 300}, {160, 2052}})
    for (const std::uint64_t rarity : {1'000'000, 4000, 700}) {
      const auto w = weights_of(k, n, 3 + rarity, k < 64 ? 1'000'000 : rarity);
      const GemmShape shape = shape_of(n, k);
      for (const bool turned : {false, true}) {
        const MatrixRef b{w.data(), turned ? 1 : n, turned ? k : 1};
        const auto packed = pack(shape, b), squeezed = squeeze(shape, b);
        ASSERT_FALSE(squeezed.empty()) << n << " x " << k << " rarity " << rarity;
        for (const int64_t m : {1, 2, 3, 5, 6, 8, 13, 14, 15, 29, 61, 200})
          for (const bool by_rows : {true, false})
            for (const int64_t k2 : {0, 16}) {
              const auto x = weights_of(m, k, 9, 1'000'000), x2 = weights_of(m, 16, 8, 1'000'000),
                         w2 = weights_of(16, n, 7, 1'000'000);
              GemmArgs g;
              g.m = m, g.n = n, g.type = GemmType::bf16;
              g.c_type = m % 2 == 0 ? GemmType::bf16 : GemmType::f32;
              g.segments[0] = {{x.data(), by_rows ? k : 1, by_rows ? 1 : m}, {packed.data(), 0, 0}, true, k};
              g.segments[1] = {{x2.data(), 16, 1}, {w2.data(), n, 1}, false, k2};
              const auto bytes = static_cast<std::size_t>(m * n * (m % 2 == 0 ? 2 : 4));
              const auto want = product(g, bytes);
              g.segments[0].b.data = squeezed.data(), g.segments[0].b_squeezed = true;
              ASSERT_TRUE(product(g, bytes) == want)
                  << m << " x " << n << " x " << k << "+" << k2 << " rarity " << rarity;
            }
      }
    }
}

/// Ones on the diagonal bring every weight back; tiny ones as zero, as the instruction reads them.
TEST_F(SqueezedWeight, BringsEveryWeightBack) {
  const int64_t k = 256, n = 64;
  std::vector<bf16> ones(static_cast<std::size_t>(k * k));
  for (int64_t i = 0; i < k; ++i) ones[static_cast<std::size_t>(i * k + i)] = bf16(1.0f);
  // The last: so many zeros that they get a code.
  for (const std::uint64_t rarity : {1'000'000, 2000, 600, 9}) {
    auto w = weights_of(k, n, 77, rarity, true);
    if (rarity == 9)
      for (auto& x : w)
        if (std::abs(static_cast<float>(x)) < 1e-4f || std::abs(static_cast<float>(x)) > 1) x = bf16(-0.0f);
    const GemmShape shape = shape_of(n, k);
    const auto squeezed = squeeze(shape, {w.data(), n, 1});
    ASSERT_FALSE(squeezed.empty()) << rarity;
    EXPECT_LT(squeezed.size(), packed_b_bytes(shape) * 4 / 5);
    GemmArgs g;
    g.m = k, g.n = n, g.type = GemmType::bf16;
    g.segments[0] = {{ones.data(), k, 1}, {squeezed.data(), 0, 0}, true, k, 0, 0, true};
    const auto c = product(g, static_cast<std::size_t>(k * n * 4));
    for (std::size_t i = 0; i < w.size(); ++i) {
      float got;
      std::memcpy(&got, c.data() + 4 * i, 4);
      const auto want = static_cast<float>(w[i]);
      ASSERT_EQ(got, std::abs(want) < std::numeric_limits<float>::min() ? 0.0f : want) << "weight " << i;
    }
  }
}

TEST_F(SqueezedWeight, RefusesWhatHasNoFewExponents) {
  std::vector<bf16> w(64 * 256);
  Random random{5};
  for (auto& x : w) x.bits = static_cast<std::uint16_t>(random.bits());
  EXPECT_TRUE(squeeze(shape_of(64, 256), {w.data(), 64, 1}).empty());
  EXPECT_FALSE(squeezes_b(shape_of(40, 256)));
  EXPECT_FALSE(squeezes_b(shape_of(64, 254)));
  EXPECT_FALSE(squeezes_b(shape_of(64, 0)));
  EXPECT_FALSE(squeezes_b({0, 64, 256, GemmType::f16}));
  EXPECT_FALSE(squeezes_b({0, 64, 256, GemmType::f32}));
  EXPECT_TRUE(set_gemm_isa(GemmIsa::best, false));
  EXPECT_FALSE(squeezes_b(shape_of(64, 256)));
  set_gemm_isa(GemmIsa::best);
  EXPECT_TRUE(squeezes_b(shape_of(64, 256)));
}

int forms_of(const Storage& s) {
  int count = 0;
  for (const PackedForm* f = s.packed.load(); f != nullptr; f = f->next.get()) ++count;
  return count;
}

/// One weight of `bytes`, as a step; whether the form that it left beside the weight is squeezed.
bool step_squeezes(int64_t m, int64_t n, int64_t k, bool suitable) {
  std::vector<bf16> x, w(static_cast<std::size_t>(n * k));
  Random random{11};
  for (int64_t i = 0; i < m * k; ++i) x.emplace_back(random.usual());
  for (auto& v : w) v = bf16(random.usual());
  if (!suitable)
    for (std::size_t i = 0; i < w.size(); i += 100) w[i] = bf16(0x1p-40f);
  HandPlan t;
  const int a = t.leaf(x), b = t.leaf(w), out = t.output(static_cast<std::size_t>(m * n) * 2);
  MatmulStep& s = t.step(PlanStep::Kind::matmul, 0, "matmul").matmul;
  s.dtype = DType::bf16, s.m = m, s.n = n, s.k = k, s.out = out;
  s.a = {a, 0, k, 1, {}, false}, s.b = {b, 0, 1, k, {}, true};
  t.run_everywhere();
  const auto got = t.result<std::uint16_t>();
  const auto plain = t.backend->lower(t.plan);
  plain->run({{}, t.leaf_data, t.output_data, t.slots});
  EXPECT_EQ(t.result<std::uint16_t>(), got);
  EXPECT_EQ(forms_of(*t.leaves[1]), 1);
  WeightView view{.n = n, .k = k, .row_stride = 1, .col_stride = k, .type = GemmType::bf16, .isa = gemm_isa_name()};
  view.squeezed = suitable;
  EXPECT_EQ(packed_weight(*t.leaves[1], view, 1) != nullptr, true);
  return suitable && forms_of(*t.leaves[1]) == 1;
}

TEST_F(SqueezedWeight, StepsSqueezeWhatCachesDoNotHold) {
  EXPECT_TRUE(step_squeezes(1, 8192, 2048, true));
  EXPECT_TRUE(step_squeezes(3, 8192, 2048, true));
  EXPECT_FALSE(step_squeezes(1, 8160, 2048, true));   // a little less
  EXPECT_FALSE(step_squeezes(20, 8192, 2048, true));  // many rows: not for so little
  EXPECT_TRUE(step_squeezes(20, 8192, 4096, true));
  EXPECT_FALSE(step_squeezes(1, 8192, 2048, false));
}

}  // namespace
}  // namespace metal_candle::cpu
