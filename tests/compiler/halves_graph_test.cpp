// bf16 and f16 between fused ops are f32 in registers. What is decided of them (comparisons, the place of the largest)
// must be decided as if they were rounded, or a value differs from its own maximum, which was stored.
#include <gtest/gtest.h>

#include <cmath>
#include <random>

#include "metal_candle/metal_candle.hpp"
#include "tests/support/modes.h"

namespace metal_candle::test {
namespace {

constexpr DType kHalves[] = {DType::bf16, DType::f16};
using Program = LazyTensor (*)(const LazyTensor&);

LazyTensor numbers(const Shape& shape, DType dtype, std::uint64_t key) {
  return randn(shape, {.key = Key(key), .dtype = dtype}).eval();
}
std::int64_t count(const LazyTensor& where_true) {
  return sum(cast(where_true, DType::i64)).eval().item<std::int64_t>();
}

const Program kComputed[] = {
    [](const LazyTensor& x) { return gelu(x) * 0.37; },
    [](const LazyTensor& x) { return x * 0.3; },
    [](const LazyTensor& x) { return relu(matmul(x, transpose(x)) * 0.37); },
    [](const LazyTensor& x) { return abs(x * 1.7) - min(x * 1.1, {0}, true); },
    [](const LazyTensor& x) { return layer_norm(x, {}, {}, 1e-5); },
    [](const LazyTensor& x) { return cast(cast(x, DType::f32) * 0.7f, x.dtype()); },
};

TEST(Halves, EqualTheirMaximum) {
  for (const DType dtype : kHalves) {
    for (const Mode mode : kModes) {
      const ModeGuard guard(mode);
      for (std::size_t p = 0; p < std::size(kComputed); ++p) {
        const LazyTensor x = numbers({6, 64}, dtype, 7 + p);
        const std::string what = std::string(name(dtype)) + " " + mode_name(mode) + ", program " + std::to_string(p);
        for (const int axis : {0, 1}) {
          const auto extremes = [&](LazyTensor (*checked)(const LazyTensor& z, int axis)) {
            return count(checked(kComputed[p](x), axis));
          };
          const auto rows = max(kComputed[p](x), {axis}).numel();
          EXPECT_GE(extremes([](const LazyTensor& z, int a) { return equal(z, max(z, {a}, true)); }), rows) << what;
          EXPECT_GE(extremes([](const LazyTensor& z, int a) { return equal(z, min(z, {a}, true)); }), rows) << what;
          EXPECT_EQ(extremes([](const LazyTensor& z, int a) { return greater(z, max(z, {a}, true)); }), 0) << what;
          EXPECT_EQ(extremes([](const LazyTensor& z, int a) {
                      return greater(cast(z, DType::f32), cast(max(z, {a}, true), DType::f32));
                    }),
                    0)
              << what;
          EXPECT_EQ(extremes([](const LazyTensor& z, int a) {
                      return not_equal(take_along_axis(z, argmax(z, a, true), a), max(z, {a}, true));
                    }),
                    0)
              << what;
        }
      }
    }
  }
}

/// Whole numbers, signs and integers are those of what memory would hold.
TEST(Halves, AreRoundedBeforeTheyAreMadeWhole) {
  const Program kWhole[] = {
      [](const LazyTensor& x) { return floor(x); },
      [](const LazyTensor& x) { return ceil(x); },
      [](const LazyTensor& x) { return round(x); },
      [](const LazyTensor& x) { return sign(x * 1e-5f * 1e-5f); },
      [](const LazyTensor& x) { return floor(cast(x, DType::f32)); },
      [](const LazyTensor& x) { return cast(x, DType::i32); },
      [](const LazyTensor& x) { return cast(x, DType::i64); },
      [](const LazyTensor& x) { return cast(x, DType::i8); },
      [](const LazyTensor& x) { return cast(x * 1e-5f * 1e-5f, DType::boolean); },
  };
  for (const DType dtype : kHalves) {
    // Near a half and near one, on both sides of where a half type's numbers lie.
    const LazyTensor x = cast(abs(randn({4096}, {.key = Key(40)})) * 1e-3f, dtype).eval();
    for (const double shift : {0.5, 1.0, 2.5}) {
      const auto made = [&] { return x + shift; };
      const LazyTensor stored = made().eval();
      for (std::size_t p = 0; p < std::size(kWhole); ++p) {
        const std::vector<double> wanted = [&] {
          const ModeGuard guard(Mode::eager);
          return kWhole[p](stored).eval().to_f64();
        }();
        for (const Mode mode : kModes) {
          const ModeGuard guard(mode);
          EXPECT_EQ(kWhole[p](made()).eval().to_f64(), wanted)
              << name(dtype) << " " << mode_name(mode) << ", program " << p << ", " << shift;
        }
      }
    }
  }
}

/// The place of the largest is that of the first of those that are the same number in memory.
TEST(Halves, AreTiesWhereTheyAreEqualInMemory) {
  for (const DType dtype : kHalves) {
    const LazyTensor x = cast(Tensor::from<float>({1, 1.0009765625f, 1.001953125f, 0}, {4}), DType::f32).eval();
    for (const Mode mode : kModes) {
      const ModeGuard guard(mode);
      const auto z = [&] { return cast(x * 1.0001f, dtype) + 64; };
      EXPECT_EQ(argmax(z()).eval().item<std::int32_t>(), 0) << mode_name(mode);
      EXPECT_EQ(argmin(z() * -1).eval().item<std::int32_t>(), 0) << mode_name(mode);
    }
  }
}

const Program kLosses[] = {
    [](const LazyTensor& x) { return sum(max(gelu(x), {-1})); },
    [](const LazyTensor& x) { return max(gelu(x)); },
    [](const LazyTensor& x) { return min(x * 0.3); },
    [](const LazyTensor& x) { return sum(max(x * x * 0.7, {0})); },
    [](const LazyTensor& x) {
      const LazyTensor z = x * (1 / 3.0), e = exp(z - max(z, {-1}, true));
      return sum(square(e / sum(e, {-1}, true)));
    },
    [](const LazyTensor& x) {
      const LazyTensor z = tanh(x) * 3.3, m = max(z, {-1}, true);
      return sum(log(sum(exp(z - m), {-1}, true)) + m);
    },
    [](const LazyTensor& x) { return sum(max(relu(matmul(x, transpose(x)) * 0.37), {-1})); },
    [](const LazyTensor& x) { return sum(sin(x * 1.7 / max(abs(x * 1.7), {-1}, true))); },
    [](const LazyTensor& x) { return sum(logsumexp(gelu(x) * 3.3, {-1})); },
    [](const LazyTensor& x) { return sum(maximum(gelu(x) * 1.3, x * 0.3)); },
    [](const LazyTensor& x) {
      return checkpoint([](const auto& in) { return sum(max(silu(in[0]), {1})) - min(silu(in[0])); }, {x});
    },
};

TEST(Halves, HaveTheirGradientsThroughMaxAndMin) {
  for (const DType dtype : kHalves) {
    const double eps = dtype == DType::bf16 ? 1.0 / 256 : 1.0 / 2048;
    for (std::size_t p = 0; p < std::size(kLosses); ++p) {
      const LazyTensor x = numbers({8, 64}, dtype, 20 + p);
      const auto gradient = [&](const LazyTensor& at) { return grad(kLosses[p](at), {at})[0].eval().to_f64(); };
      std::vector<double> wanted;
      {
        const ModeGuard guard(Mode::eager);
        wanted = gradient(x);  // of the halves' own ties, which f64 does not have
      }
      double largest = 0;
      for (const double w : wanted) largest = std::max(largest, std::abs(w));
      for (const Mode mode : kModes) {
        const ModeGuard guard(mode);
        const std::vector<double> got = gradient(x);
        for (std::size_t i = 0; i < got.size(); ++i)
          ASSERT_NEAR(got[i], wanted[i], 48 * eps * largest)
              << name(dtype) << " " << mode_name(mode) << ", loss " << p << ", element " << i;
      }
    }
  }
}

// ---- random graphs --------------------------------------------------------------------------------------------------

/// Chains of cheap ops and reductions. Wherever a value meets its own extreme the counts are exact.
class HalvesGraph {
 public:
  HalvesGraph(std::uint64_t seed, DType dtype) : rng_(seed), dtype_(dtype) {}

  /// Numbers that must be 0, and a gradient, which must be finite.
  std::vector<LazyTensor> run() {
    const LazyTensor x = numbers({pick(1, 9), pick(2, 40)}, dtype_, rng_());
    pool_ = {x, numbers({x.dim(1)}, dtype_, rng_())};
    for (auto steps = pick(2, 10); steps > 0; --steps) pool_.push_back(step());
    std::vector<LazyTensor> roots;
    for (int k = 0; k < 3; ++k) add_checks(any(), roots);
    LazyTensor loss = sum(cast(pool_.back(), DType::f32));
    for (int k = 0; k < 2; ++k) loss = loss + sum(cast(max(any(), {-1}), DType::f32)) - cast(min(any()), DType::f32);
    roots.push_back(grad(loss, {x})[0]);
    if (pick(0, 1)) roots.push_back(any());
    return roots;
  }

 private:
  std::int64_t pick(std::int64_t low, std::int64_t high) {
    return std::uniform_int_distribution<std::int64_t>(low, high)(rng_);
  }
  LazyTensor any() { return pool_[static_cast<std::size_t>(pick(0, static_cast<std::int64_t>(pool_.size()) - 1))]; }

  LazyTensor step() {
    const LazyTensor x = any(), z = any();
    const int axis = static_cast<int>(pick(-x.rank(), -1));
    switch (pick(0, 11)) {
      case 0: return tanh(x) * 1.7;
      case 1: return gelu(x) - 0.3;
      case 2: return x * 0.37;
      case 3: return sin(x + z);
      case 4: return maximum(x, z * 0.9);
      case 5: return tanh(x * z);
      case 6: return x - max(x, {axis}, true);
      case 7: return exp(x - max(x, {axis}, true));
      case 8: return softmax(x, axis);
      case 9: return x * sigmoid(mean(x, {axis}, true));
      case 10: return cast(sin(cast(x, DType::f32)), dtype_);
      default: return where(less(x, z), x * 0.7, z * 0.6);
    }
  }

  void add_checks(const LazyTensor& z, std::vector<LazyTensor>& roots) {
    const int axis = static_cast<int>(pick(-z.rank(), -1));
    const LazyTensor high = max(z, {axis}, true), low = min(z, {axis}, true);
    const auto nowhere = [](const LazyTensor& t) { return sum(cast(t, DType::i32)); };
    const LazyTensor hits = sum(cast(equal(z, pick(0, 1) ? high : low), DType::i32), {axis});
    roots.push_back(nowhere(less(hits, 1)));
    roots.push_back(nowhere(greater(z, high)) + nowhere(less(z, low)));
    roots.push_back(nowhere(not_equal(take_along_axis(z, argmax(z, axis, true), axis), high)));
    zeros_ += 3;
  }

 public:
  std::size_t zeros() const { return zeros_; }

 private:
  std::mt19937_64 rng_;
  DType dtype_;
  std::vector<LazyTensor> pool_;
  std::size_t zeros_ = 0;
};

TEST(Halves, RandomGraphsMeetTheirExtremes) {
  for (std::uint64_t seed = 0; seed < 400; ++seed) {
    for (const DType dtype : kHalves) {
      HalvesGraph generator(seed, dtype);
      const std::vector<LazyTensor> roots = generator.run();
      eval(roots);
      for (std::size_t r = 0; r < roots.size(); ++r)
        for (const double v : Tensor(roots[r]).to_f64()) {
          if (r < generator.zeros()) ASSERT_EQ(v, 0) << name(dtype) << " seed " << seed << ", root " << r;
          else ASSERT_TRUE(std::isfinite(v)) << name(dtype) << " seed " << seed << ", root " << r;
        }
    }
  }
}

}  // namespace
}  // namespace metal_candle::test
