// The linear_cross_entropy kernels, called directly and compared with the definition in f64; the gradients of that
// definition by finite differences. Memory starts as NaN, tasks run in both orders, and the bytes must be the same.
#include "backend/cpu/kernels/linear_cross_entropy.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <limits>
#include <random>

#include "backend/cpu/gemm/gemm.h"
#include "kernel_harness.h"
#include "ops/linear_cross_entropy.h"

namespace metal_candle::cpu::test {
namespace {

enum class Layout { classes_last, embedding, neither };  // [d, v]; a transposed [v, d]; strides of two

struct Case {
  std::int64_t n = 5, d = 8, v = 11;
  Layout layout = Layout::classes_last;
  double smoothing = 0;
  DType dtype = DType::f32;
  DType w_dtype = DType::f32;
  double scale = 1;
};

struct Problem {
  Case c;
  std::vector<Array> inputs;  // x, w, targets
  Values x, w;                // as rounded; w as [d][v]
  std::vector<std::int64_t> targets;
  std::mt19937 random{7};

  explicit Problem(const Case& test) : c(test) {
    std::normal_distribution<double> normal;
    const auto draw = [&](std::int64_t n) {
      Values v(static_cast<std::size_t>(n));
      for (double& e : v) e = normal(random) * c.scale;
      return v;
    };
    inputs.emplace_back(c.dtype, Shape{c.n, c.d}, draw(c.n * c.d));
    x = inputs[0].values();
    const std::int64_t step = c.layout == Layout::neither ? 2 : 1;
    inputs.emplace_back(c.w_dtype, Shape{c.d * c.v * step}, draw(c.d * c.v * step));
    const Values raw = inputs[1].values();
    inputs[1].shape = Shape{c.d, c.v};
    inputs[1].strides = c.layout == Layout::classes_last ? Shape{c.v, 1} : Shape{step, c.d * step};
    for (std::int64_t e = 0; e < c.d; ++e)
      for (std::int64_t j = 0; j < c.v; ++j)
        w.push_back(raw[static_cast<std::size_t>(e * inputs[1].strides[0] + j * inputs[1].strides[1])]);
    std::uniform_int_distribution<std::int64_t> any(0, c.v - 1);
    inputs.emplace_back(DType::i64, Shape{c.n});
    for (std::int64_t i = 0; i < c.n; ++i) {
      targets.push_back(i % 4 == 1 ? -100 : i == 0 ? c.v - 1 : any(random));
      inputs[2].memory[static_cast<std::size_t>(i)] = static_cast<std::uint64_t>(targets.back());
    }
  }
  Attrs attrs() const {
    Attrs a{-100};
    a.push(c.smoothing);
    return a;
  }
  Values logits(std::int64_t row) const {
    Values l(static_cast<std::size_t>(c.v), 0.0);
    for (std::int64_t e = 0; e < c.d; ++e)
      for (std::int64_t j = 0; j < c.v; ++j)
        l[static_cast<std::size_t>(j)] +=
            x[static_cast<std::size_t>(row * c.d + e)] * w[static_cast<std::size_t>(e * c.v + j)];
    return l;
  }
  static double lse(const Values& l) {
    double top = -kInf, sum = 0;
    for (double a : l) top = std::max(top, a);
    for (double a : l) sum += std::exp(a - top);
    return top + std::log(sum);
  }
  double loss(std::int64_t row) const {
    const std::int64_t t = targets[static_cast<std::size_t>(row)];
    if (t == -100) return 0;
    const Values l = logits(row);
    double mean = 0;
    for (double a : l) mean += a / static_cast<double>(c.v);
    return lse(l) - (1 - c.smoothing) * l[static_cast<std::size_t>(t)] - c.smoothing * mean;
  }
  DType wide() const { return c.dtype == DType::f64 ? DType::f64 : DType::f32; }
  std::vector<Array> forward(bool backwards = false, unsigned skip = 0) {
    std::vector<Array> out{{wide(), Shape{c.n}}, {wide(), Shape{c.n}}, {c.dtype, Shape{c.n, c.d}}};
    run_kernel(linear_cross_entropy_kernel, inputs, out, attrs(), backwards, skip);
    return out;
  }
  Array gradient(const Array& g, bool backwards = false) {
    auto in = inputs;
    in.push_back(forward()[1]);
    in.push_back(g);
    std::vector<Array> out{{c.w_dtype, Shape{c.v, c.d}}};
    run_kernel(linear_cross_entropy_grad_kernel, in, out, attrs(), backwards);
    return out[0];
  }
};

std::vector<Case> cases() {
  std::vector<Case> all;
  for (const Layout layout : {Layout::classes_last, Layout::embedding, Layout::neither})
    for (const double smoothing : {0.0, 0.2}) {
      all.push_back({.layout = layout, .smoothing = smoothing});
      all.push_back({.n = 210, .d = 32, .v = 200, .layout = layout, .smoothing = smoothing});
      all.push_back({.n = 90, .d = 33, .v = 97, .layout = layout, .smoothing = smoothing});
      all.push_back({.n = 45, .d = 48, .v = 387, .layout = layout, .smoothing = smoothing});  // an odd class at the end
      all.push_back({.n = 5, .d = 2080, .v = 70, .layout = layout, .smoothing = smoothing, .scale = 0.2});  // in pieces
      all.push_back({.n = 7, .d = 150, .v = 65, .layout = layout, .smoothing = smoothing, .scale = 2});
      all.push_back({.n = 1, .d = 1, .v = 1, .layout = layout, .smoothing = smoothing});
      all.push_back({.n = 5, .d = 0, .v = 70, .layout = layout, .smoothing = smoothing});
    }
  all.push_back({.n = 0});
  return all;
}

TEST(LinearCrossEntropy, MatchesTheDefinition) {
  // bf16 twice: with products over pairs, where this machine has them, and without. f32 by every kind of kernel.
  const auto best = GemmIsa::best;
  for (const auto& [x_type, w_type, tolerance, dots, isa] : {std::tuple{DType::f64, DType::f64, 1e-11, true, best},
                                                             {DType::f32, DType::f32, 4e-6, true, best},
                                                             {DType::f32, DType::f32, 4e-6, true, GemmIsa::portable},
                                                             {DType::f32, DType::f32, 4e-6, true, GemmIsa::sse4},
                                                             {DType::f32, DType::f32, 4e-6, true, GemmIsa::avx2},
                                                             {DType::bf16, DType::bf16, 1e-2, true, best},
                                                             {DType::bf16, DType::bf16, 1e-2, false, best},
                                                             {DType::f16, DType::f16, 2e-3, true, best},
                                                             {DType::f32, DType::bf16, 4e-6, true, best}}) {
    int number = 0;
    if (!set_gemm_isa(isa, dots)) continue;  // not on this processor
    for (Case c : cases()) {
      SCOPED_TRACE("case " + std::to_string(number++) + " " + std::string(name(x_type)) + " " +
                   std::string(name(w_type)));
      c.dtype = x_type;
      c.w_dtype = w_type;
      Problem p(c);
      const auto got = p.forward(), again = p.forward(true), no_u = p.forward(false, 4);
      for (std::size_t i = 0; i < 3; ++i) EXPECT_EQ(got[i].memory, again[i].memory);
      for (std::size_t i = 0; i < 2; ++i) EXPECT_EQ(got[i].memory, no_u[i].memory);
      const double exact = x_type == DType::f64 ? 1e-11 : 4e-6;  // loss and lse are never rounded to 16 bits
      for (std::int64_t row = 0; row < c.n; ++row) {
        const Values l = p.logits(row);
        double largest = 1;
        for (double a : l) largest = std::max(largest, std::abs(a));
        const std::int64_t t = p.targets[static_cast<std::size_t>(row)];
        ASSERT_NEAR(got[0].get(row), p.loss(row), exact * largest);
        if (t == -100) ASSERT_EQ(got[1].get(row), kInf);
        else ASSERT_NEAR(got[1].get(row), Problem::lse(l), exact * largest);
        Values error;
        for (std::int64_t j = 0; j < c.v; ++j)
          error.push_back(t == -100 ? 0
                                    : std::exp(l[static_cast<std::size_t>(j)] - Problem::lse(l)) -
                                          c.smoothing / static_cast<double>(c.v) - (j == t ? 1 - c.smoothing : 0));
        for (std::int64_t e = 0; e < c.d; ++e) {
          double u = 0;
          for (std::int64_t j = 0; j < c.v; ++j)
            u += error[static_cast<std::size_t>(j)] * p.w[static_cast<std::size_t>(e * c.v + j)];
          ASSERT_NEAR(got[2].get(row * c.d + e), u,
                      tolerance * std::max(1.0, std::abs(u)) * c.scale * std::sqrt(largest));
        }
      }
    }
  }
  set_gemm_isa(GemmIsa::best);
}

TEST(LinearCrossEntropy, GradientsMatchFiniteDifferences) {
  for (Case c : cases()) {
    if (c.n > 100) c.n = 20, c.v = 70;
    c.dtype = c.w_dtype = DType::f64;
    Problem p(c);
    Values g(static_cast<std::size_t>(c.n));
    for (std::size_t i = 0; i < g.size(); ++i) g[i] = 0.3 + static_cast<double>(i % 5);
    const auto out = p.forward();
    const Array dw = p.gradient({DType::f64, Shape{c.n}, g});
    const double h = 1e-5;
    for (std::size_t i = 0; i < p.x.size(); i += 1 + p.x.size() / 30) {
      const double at = p.x[i];
      const auto row = static_cast<std::int64_t>(i) / c.d;
      p.x[i] = at + h;
      const double up = p.loss(row);
      p.x[i] = at - h;
      const double down = p.loss(row);
      p.x[i] = at;
      ASSERT_NEAR(out[2].get(static_cast<std::int64_t>(i)), (up - down) / (2 * h), 1e-8);
    }
    const auto total = [&] {
      double sum = 0;
      for (std::int64_t row = 0; row < c.n; ++row) sum += g[static_cast<std::size_t>(row)] * p.loss(row);
      return sum;
    };
    for (std::size_t i = 0; i < p.w.size() && c.n > 0; i += 1 + p.w.size() / 30) {
      const double at = p.w[i];
      const auto e = static_cast<std::int64_t>(i) / c.v, j = static_cast<std::int64_t>(i) % c.v;
      p.w[i] = at + h;
      const double up = total();
      p.w[i] = at - h;
      const double down = total();
      p.w[i] = at;
      ASSERT_NEAR(dw.get(j * c.d + e), (up - down) / (2 * h), 1e-7);
    }
  }
}

TEST(LinearCrossEntropy, WeightGradientMatchesF64) {
  for (const DType dtype : {DType::f32, DType::bf16, DType::f16})
    for (Case c : cases()) {
      c.dtype = c.w_dtype = dtype;
      Problem p(c);
      Values g(static_cast<std::size_t>(c.n));
      for (std::size_t i = 0; i < g.size(); ++i) g[i] = 0.3 + static_cast<double>(i % 5);
      const Array dw = p.gradient({DType::f32, Shape{c.n}, g});
      EXPECT_EQ(dw.memory, p.gradient({DType::f32, Shape{c.n}, g}, true).memory);
      c.dtype = c.w_dtype = DType::f64;
      Problem exact(c);
      for (std::size_t i = 0; i < 2; ++i) {
        const Array& from = p.inputs[i];
        Array to(DType::f64, Shape{static_cast<std::int64_t>(from.memory.size() * 8 / size_of(from.dtype))});
        for (std::int64_t k = 0; k < to.shape.numel(); ++k) to.set(k, from.get(k));
        to.shape = from.shape;
        to.strides = from.strides;
        exact.inputs[i] = to;
      }
      const Array want = exact.gradient({DType::f64, Shape{c.n}, g});
      double largest = 1;
      for (double a : want.values()) largest = std::max(largest, std::abs(a));
      const double tolerance = dtype == DType::f32 ? 1e-5 : dtype == DType::f16 ? 2e-3 : 1e-2;
      for (std::int64_t i = 0; i < c.v * c.d; ++i) ASSERT_NEAR(dw.get(i), want.get(i), tolerance * largest) << i;
    }
}

/// A row's loss and gradient do not depend on the other rows, ignored or not: wherever in a tile it lies.
TEST(LinearCrossEntropy, RowsStandAlone) {
  for (const DType dtype : {DType::f32, DType::bf16}) {
    const Case many{.n = 420, .d = 48, .v = 300, .layout = Layout::embedding, .dtype = dtype, .w_dtype = dtype};
    Problem all(many);
    const auto want = all.forward();
    for (const std::int64_t row : {0, 6, 120, 250, 419}) {
      Case single = many;
      single.n = 1;
      Problem one(single);
      one.inputs[1] = all.inputs[1];
      for (std::int64_t e = 0; e < 48; ++e) one.inputs[0].set(e, all.inputs[0].get(row * 48 + e));
      one.inputs[2].memory[0] = static_cast<std::uint64_t>(all.targets[static_cast<std::size_t>(row)]);
      const auto got = one.forward();
      EXPECT_EQ(got[0].get(0), want[0].get(row));
      EXPECT_EQ(got[1].get(0), want[1].get(row));
      for (std::int64_t e = 0; e < 48; ++e) EXPECT_EQ(got[2].get(e), want[2].get(row * 48 + e));
    }
  }
}

/// A NaN or an infinite number in a row is that row's alone; a class that nothing reaches counts for nothing.
TEST(LinearCrossEntropy, SpecialValuesStayInTheirRow) {
  for (const DType dtype : {DType::f32, DType::bf16}) {
    const Case c{.n = 40, .d = 16, .v = 130, .layout = Layout::embedding, .dtype = dtype, .w_dtype = dtype};
    Problem usual(c), odd(c);
    odd.inputs[0].set(3 * 16, std::numeric_limits<double>::quiet_NaN());
    odd.inputs[0].set(7 * 16, kInf);
    for (std::int64_t e = 0; e < 16; ++e) odd.inputs[0].set(11 * 16 + e, 0);
    const auto before = usual.forward(), after = odd.forward();
    EXPECT_TRUE(std::isnan(after[0].get(3)));
    EXPECT_FALSE(std::isfinite(after[0].get(7)));
    EXPECT_NEAR(after[1].get(11), std::log(130.0), 1e-5);
    for (std::int64_t row = 0; row < 40; ++row) {
      if (row == 3 || row == 7 || row == 11) continue;
      EXPECT_EQ(after[0].get(row), before[0].get(row)) << row;
      for (std::int64_t e = 0; e < 16; ++e) EXPECT_EQ(after[2].get(row * 16 + e), before[2].get(row * 16 + e));
    }
  }
}

TEST(LinearCrossEntropy, ReportsTargetsThatAreNoClass) {
  for (const std::int64_t bad : {std::int64_t{11}, std::int64_t{-1}}) {
    Problem p(Case{});
    p.inputs[2].memory[2] = static_cast<std::uint64_t>(bad);
    failures.clear();
    p.forward();
    EXPECT_EQ(failures.size(), 1u);
  }
}

}  // namespace
}  // namespace metal_candle::cpu::test
