// Methods and operators of LazyTensor say what the functions of the same names say.
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <type_traits>

#include "metal_candle/metal_candle.hpp"
#include "tests/support/errors.h"

namespace metal_candle {
namespace {

using Values = std::vector<double>;
Values values(const LazyTensor& t) { return t.eval().to_f64(); }

const Tensor kX = Tensor::from<float>({3, -1, 2, 0.5f, 4, -2}, {2, 3});
const Tensor kZ = Tensor::from<float>({1, -1, 5, 0.25f, 8, -3}, {2, 3});

// `if (x < y)` would be true of every tensor.
static_assert(!std::is_constructible_v<bool, LazyTensor> && !std::is_constructible_v<bool, Tensor>);

TEST(Methods, NumbersAreOperands) {
  EXPECT_EQ(values(kX.maximum(1.0)), (Values{3, 1, 2, 1, 4, 1}));
  EXPECT_EQ(values(kX.less(2)), (Values{0, 1, 0, 1, 0, 1}));
  EXPECT_EQ(values(kX.sub(1)), values(kX - 1));
  EXPECT_EQ(values(kX.pow(2)), (Values{9, 1, 4, 0.25, 16, 4}));
  EXPECT_EQ(values(kX.pow(2.0)), (Values{9, 1, 4, 0.25, 16, 4}));
  EXPECT_EQ(values(kX.powi(3)), (Values{27, -1, 8, 0.125, 64, -8}));
}

TEST(Methods, NegativePowersOfIntegersAreFractions) {
  const Values numbers[] = {
      {-123, 7, -128, 1}, {255, 7, 16, 1}, {65535, -65536, 2147483647, -3}, {65535, -1048576, 5, 2}};
  const DType types[] = {DType::i8, DType::u8, DType::i32, DType::i64};
  for (std::size_t t = 0; t < std::size(types); ++t) {
    const LazyTensor x = cast(Tensor::from<double>(numbers[t], {4}), types[t]);
    for (const int exponent : {-1, -2, -3, -4, -5}) {
      const LazyTensor y = x.powi(exponent);
      EXPECT_EQ(y.dtype(), DType::f32);
      const Values got = values(y);
      for (std::size_t i = 0; i < got.size(); ++i) {
        const double wanted = std::pow(numbers[t][i], exponent);
        EXPECT_NEAR(got[i], wanted, 1e-6 * std::abs(wanted) + 1e-38)
            << name(types[t]) << ' ' << numbers[t][i] << '^' << exponent;
      }
    }
  }
}

TEST(Methods, Comparisons) {
  EXPECT_EQ(values(kX < kZ), (Values{0, 0, 1, 0, 1, 0}));
  EXPECT_EQ(values(kX <= kZ), (Values{0, 1, 1, 0, 1, 0}));
  EXPECT_EQ(values(kX > kZ), (Values{1, 0, 0, 1, 0, 1}));
  EXPECT_EQ(values(kX >= kZ), (Values{1, 1, 0, 1, 0, 1}));
  EXPECT_EQ(values(kX > 2), (Values{1, 0, 0, 0, 1, 0}));
  EXPECT_EQ(values(2 >= kX), (Values{0, 1, 1, 1, 0, 1}));
}

TEST(Methods, CompoundAssignmentReplacesTheHandleOnly) {
  LazyTensor y = kX;
  const LazyTensor before = y;
  y += kZ;
  y *= 2;
  y -= 1.0;
  y /= 2;
  EXPECT_EQ(values(y), (Values{3.5, -2.5, 6.5, 0.25, 11.5, -5.5}));
  EXPECT_EQ(values(before), values(kX));
}

TEST(Methods, Reductions) {
  EXPECT_EQ(values(kX.sum()), (Values{6.5}));
  EXPECT_EQ(values(kX.sum(0)), (Values{3.5, 3, 0}));
  EXPECT_EQ(values(kX.sum({0, 1})), (Values{6.5}));
  EXPECT_EQ(values(kX.sum({-1})), (Values{4, 2.5}));
  EXPECT_EQ(kX.sum({0, 1}, true).shape(), Shape({1, 1}));
  EXPECT_EQ(values(sum(kX, 0)), (Values{3.5, 3, 0}));
  EXPECT_EQ(values(kX.mean(0)), (Values{1.75, 1.5, 0}));
  EXPECT_EQ(values(kX.max()), (Values{4}));
  EXPECT_EQ(values(kX.min(1)), (Values{-1, -2}));
  EXPECT_EQ(values(kX.prod(1)), (Values{-6, -4}));
  EXPECT_EQ(values(kX.var(0)), (Values{3.125, 12.5, 8}));
  EXPECT_EQ(values(kX.var(0, false, 0)), (Values{1.5625, 6.25, 4}));
  EXPECT_NEAR(values(kX.logsumexp())[0],
              std::log(std::exp(3) + std::exp(-1) + std::exp(2) + std::exp(0.5) + std::exp(4) + std::exp(-2)), 1e-6);
  EXPECT_EQ(values(kX.argmax(1)), (Values{0, 1}));
  EXPECT_EQ(values(kX.argmax()), (Values{4}));
  EXPECT_EQ(values(kX.argmin()), (Values{5}));
  EXPECT_EQ(values(kX.argmin(0)), (Values{1, 0, 1}));
  EXPECT_EQ(values(kX.cumsum(1)), (Values{3, 2, 4, 0.5, 4.5, 2.5}));
}

TEST(Methods, MovingAndNorms) {
  EXPECT_EQ(kX.reshape({-1}).shape(), Shape({6}));
  EXPECT_EQ(kX.reshape({3, -1}).shape(), Shape({3, 2}));
  EXPECT_EQ(kX.flatten().shape(), Shape({6}));
  EXPECT_EQ(values(kX.permute({1, 0})), (Values{3, 0.5, -1, 4, 2, -2}));
  EXPECT_EQ(values(kX.sort().values), (Values{-1, 2, 3, -2, 0.5, 4}));
  EXPECT_EQ(values(kX.topk(1).indices), (Values{0, 1}));
  EXPECT_EQ(values(kX.take(Tensor::from<std::int32_t>({1}, {1}))), (Values{0.5, 4, -2}));
  EXPECT_EQ(values(kX.layer_norm()), values(layer_norm(kX)));
  EXPECT_EQ(values(kX.rms_norm(kZ.slice(0, 0, 1).reshape({3}))), values(rms_norm(kX, kZ.slice(0, 0, 1).reshape({3}))));
  EXPECT_EQ(values(kX.softmax()), values(softmax(kX, 1)));
}

TEST(Methods, Aranges) {
  EXPECT_EQ(values(arange(2, 7)), (Values{2, 3, 4, 5, 6}));
  EXPECT_EQ(values(arange(2, 8, 3)), (Values{2, 5}));
  EXPECT_EQ(values(arange(2, 9, 3, DType::f32)), (Values{2, 5, 8}));
  EXPECT_EQ(values(arange(5, -1, -2)), (Values{5, 3, 1}));
  EXPECT_EQ(slice(arange(0, 1000, 3, DType::bf16), 0, 257, 258).eval().item<float>(), 772);  // 771, rounded once
  EXPECT_EQ(arange(3, 3).shape(), Shape({0}));
  EXPECT_EQ(arange(3, 0).shape(), Shape({0}));
  constexpr auto kMost = std::numeric_limits<std::int64_t>::max();
  EXPECT_EQ(values(arange(kMost - 1, kMost, kMost)), (Values{static_cast<double>(kMost - 1)}));
  test::expect_in(test::error_of([] { arange(0, 3, 0); }, ErrorKind::argument), {"arange", "step"});
}

TEST(Methods, ArangesOfTensorsAreTheRecordedOnes) {
  constexpr auto kMost = std::numeric_limits<std::int64_t>::max(), kLeast = std::numeric_limits<std::int64_t>::min();
  constexpr std::int64_t kBeyondDoubles = (std::int64_t{1} << 53) + 1;
  for (const auto& [begin, end, step] :
       std::vector<std::array<std::int64_t, 3>>{{kBeyondDoubles, kBeyondDoubles + 3, 1},
                                                {kMost - 2, kMost, 1},
                                                {kLeast, kMost, kMost},
                                                {kMost, kLeast, kLeast},
                                                {7, -2, -3},
                                                {2, 2, 1}})
    EXPECT_EQ(Tensor::arange(begin, end, step).to_vector<std::int64_t>(),
              arange(begin, end, step).eval().to_vector<std::int64_t>())
        << begin << " " << end << " " << step;
  EXPECT_EQ(Tensor::arange(kBeyondDoubles, kBeyondDoubles + 3).to_vector<std::int64_t>(),
            (std::vector<std::int64_t>{kBeyondDoubles, kBeyondDoubles + 1, kBeyondDoubles + 2}));
  EXPECT_EQ(Tensor::arange(1, 2.5, 0.5, DType::f64).to_f64(), (Values{1, 1.5, 2}));
  EXPECT_EQ(Tensor::arange(0, 2.5).to_f64(), (Values{0, 1, 2}));
}

TEST(Methods, RandomTensorsAreTheRecordedOnes) {
  EXPECT_EQ(Tensor::rand({4, 5}, {.key = Key(7)}).to_f64(), values(rand({4, 5}, {.key = Key(7)})));
  EXPECT_EQ(Tensor::randn({9}, {.key = Key(7), .dtype = DType::f64}).to_f64(),
            values(randn({9}, {.key = Key(7), .dtype = DType::f64})));
}

TEST(Methods, EmptyHandlesSaySo) {
  const auto empty = [](auto&& f) {
    Tensor none;
    test::expect_in(test::error_of([&] { f(none); }, ErrorKind::argument), {"an empty tensor handle"});
  };
  empty([](const Tensor& t) { t.strides(); });
  empty([](const Tensor& t) { t.is_contiguous(); });
  empty([](const Tensor& t) { t.wait(); });
  empty([](const Tensor& t) { t.is_ready(); });
  empty([](const Tensor& t) { t.raw_data(); });
  empty([](Tensor& t) { t.freeze(); });
  empty([](const Tensor& t) { t.is_frozen(); });
  empty([](const Tensor& t) { t.copy(); });
}

TEST(Methods, RangesAndScopesAtTheirEdges) {
  constexpr auto kLeast = std::numeric_limits<std::int64_t>::min(), kMost = std::numeric_limits<std::int64_t>::max();
  test::expect_in(test::error_of([] { arange(kLeast, kMost, 1); }, ErrorKind::argument), {"too many"});
  const Scope outer("x"), nothing("");
  EXPECT_EQ(*Scope::current(), "x");
}

TEST(Methods, RandomNumbersInF64HaveTheirDigits) {
  const Values single = values(rand({64}, {.key = Key(7)})),
               wide = values(rand({64}, {.key = Key(7), .dtype = DType::f64}));
  for (std::size_t i = 0; i < wide.size(); ++i) {
    EXPECT_EQ(std::floor(std::ldexp(wide[i], 24)), std::ldexp(single[i], 24));
    EXPECT_NE(std::floor(std::ldexp(wide[i], 40)), std::ldexp(wide[i], 40));
  }
  for (const double x : values(randn({64}, {.key = Key(7), .dtype = DType::f64})))
    EXPECT_NE(static_cast<double>(static_cast<float>(x)), x);
}

}  // namespace
}  // namespace metal_candle
