// Reductions of one tensor over different axes, wanted together: a kernel's columns are added up over the same rows, so
// not all of them fit into one.
#include <gtest/gtest.h>

#include <cmath>
#include <functional>

#include "metal_candle/metal_candle.hpp"
#include "tests/support/reference.h"

namespace metal_candle::test {
namespace {

LazyTensor numbers(const Shape& shape, std::uint64_t key) { return randn(shape, {.key = Key(key)}).eval(); }

std::vector<Axes> all_axes(int rank) {
  std::vector<Axes> result;
  for (int bits = 1; bits < 1 << rank; ++bits) {
    Axes axes;
    for (int a = 0; a < rank; ++a)
      if (bits >> a & 1) axes.push_back(a);
    result.push_back(axes);
  }
  return result;
}

void check(const std::function<std::vector<LazyTensor>()>& record, double bound, const std::string& what) {
  std::vector<std::vector<double>> wanted;
  for (const LazyTensor& r : record()) wanted.push_back(reference(r));
  const std::vector<LazyTensor> roots = record();
  eval(roots);
  for (std::size_t k = 0; k < roots.size(); ++k) {
    const std::vector<double> got = Tensor(roots[k]).to_f64();
    ASSERT_EQ(got.size(), wanted[k].size()) << what;
    for (std::size_t i = 0; i < got.size(); ++i)
      ASSERT_NEAR(got[i], wanted[k][i], bound * (1 + std::abs(wanted[k][i]))) << what << ", root " << k;
  }
}

TEST(ColumnReductions, OfOneTensorOverEveryPairOfAxes) {
  for (const Shape& shape : {Shape{4, 17, 3}, Shape{3, 4, 5}, Shape{2, 3, 4, 5}, Shape{3, 1, 4, 6}}) {
    const LazyTensor x = numbers(shape, 1);
    const std::vector<Axes> axes = all_axes(shape.rank());
    for (std::size_t a = 0; a < axes.size(); ++a) {
      for (std::size_t b = 0; b < axes.size(); ++b) {
        const auto record = [&]() -> std::vector<LazyTensor> {
          const LazyTensor y = exp(x * 0.5);
          return {sum(y, axes[a]), max(y, axes[b])};
        };
        check(record, 1e-5, shape.str() + ", axes " + std::to_string(a) + " and " + std::to_string(b));
        if (HasFatalFailure()) return;
      }
    }
  }
}

TEST(ColumnReductions, InPartsAndInSeveralLayersOfAxes) {
  const LazyTensor x = numbers({8, 512, 64}, 2);
  check(
      [&]() -> std::vector<LazyTensor> {
        return {sum(x, {1}), mean(x, {0, 1}), sum(x, {0}), max(x), sum(x, {2})};
      },
      1e-4, "large");
}

/// Long sums are sums of sums: of one chain of numbers that are alike each rounding goes the same way.
TEST(ColumnReductions, OfLongColumnsAndRowsAreExactInTheirDigits) {
  for (const Shape& shape : {Shape{200003, 3}, Shape{100003, 2, 3}, Shape{3, 4194319}, Shape{9, 2097169}}) {
    const Tensor x = (rand(shape, {.key = Key(6)}) * 1e-3f + 1.0f).eval();
    const bool rows = shape[0] < 10;
    const std::int64_t kept = rows ? shape[0] : shape.numel() / shape[0], length = shape.numel() / kept;
    const float* values = x.data<float>();
    std::vector<double> sums(static_cast<std::size_t>(kept)), squares(sums);
    const auto each = [&](const auto& f) {
      for (std::int64_t k = 0; k < kept; ++k)
        for (std::int64_t i = 0; i < length; ++i)
          f(static_cast<std::size_t>(k), values[rows ? k * length + i : i * kept + k]);
    };
    each([&](std::size_t k, double v) { sums[k] += v; });
    each([&](std::size_t k, double v) { squares[k] += std::pow(v - sums[k] / static_cast<double>(length), 2); });
    const int axis = rows ? 1 : 0;
    const std::vector<double> sum = metal_candle::sum(x, {axis}).eval().to_f64(),
                              mean = metal_candle::mean(x, {axis}).eval().to_f64();
    const std::vector<double> var = metal_candle::var(x, {axis}).eval().to_f64();
    for (std::size_t k = 0; k < sums.size(); ++k) {
      EXPECT_NEAR(sum[k] / sums[k], 1, 5e-6) << shape.str() << ' ' << k;
      EXPECT_NEAR(mean[k] * static_cast<double>(length) / sums[k], 1, 5e-6) << shape.str() << ' ' << k;
      EXPECT_NEAR(var[k] * static_cast<double>(length - 1) / squares[k], 1, 1e-3) << shape.str() << ' ' << k;
    }
  }
}

/// A bias for each sample and one for all.
TEST(ColumnReductions, OfGradientsOfTwoBiases) {
  const LazyTensor x = numbers({3, 7, 5}, 3), w = numbers({5}, 4), b = numbers({3, 1, 5}, 5);
  check([&] { return grad(sum(square(gelu(x * w + b))), {w, b}); }, 1e-5, "two biases");
}

}  // namespace
}  // namespace metal_candle::test
