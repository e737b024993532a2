// Products of integers through the whole engine, against plain sums in 64 bits cut to the result's type: types in all
// pairs, batches, views, frozen weights; and what makes one step of casts and of what follows a product.
#include <gtest/gtest.h>

#include <random>

#include "metal_candle/metal_candle.hpp"
#include "tests/support/modes.h"

namespace metal_candle::test {
namespace {

using Whole = std::vector<std::int64_t>;

Whole values_of(const LazyTensor& x) { return cast(x, DType::i64).eval().to_vector<std::int64_t>(); }

Tensor random(const Shape& shape, DType dtype, std::uint64_t seed) {
  std::mt19937_64 rng(seed);
  Whole values(static_cast<std::size_t>(shape.numel()));
  const bool small = size_of(dtype) == 1;
  for (std::int64_t& v : values)
    v = dtype == DType::boolean ? static_cast<std::int64_t>(rng() & 1)
        : small                 ? static_cast<std::int64_t>(rng() & 255) - (dtype == DType::i8 ? 128 : 0)
                                : static_cast<std::int64_t>(rng()) >> (dtype == DType::i32 ? 32 : 0);
  return cast(Tensor::from(values, shape), dtype).eval();
}

/// Sums modulo 2^64 of dense values, cut to `dtype`. Extents are those of a's and b's last axes.
Whole plain(const LazyTensor& a, const LazyTensor& b, DType dtype) {
  const LazyTensor y = matmul(a, b);  // for its extents alone
  Shape batch = y.shape();
  const std::int64_t m = a.dim(-2), k = a.dim(-1), n = b.dim(-1);
  Shape a_shape = batch, b_shape = batch;
  a_shape[batch.rank() - 1] = k, b_shape[batch.rank() - 2] = k;
  const Whole av = values_of(expand(a, a_shape)), bv = values_of(expand(b, b_shape));
  Whole out;
  for (std::int64_t e = 0; e < (m * n == 0 ? 0 : batch.numel() / (m * n)); ++e)
    for (std::int64_t i = 0; i < m; ++i)
      for (std::int64_t j = 0; j < n; ++j) {
        std::uint64_t sum = 0;
        for (std::int64_t l = 0; l < k; ++l)
          sum += static_cast<std::uint64_t>(av[static_cast<std::size_t>((e * m + i) * k + l)]) *
                 static_cast<std::uint64_t>(bv[static_cast<std::size_t>((e * k + l) * n + j)]);
        out.push_back(dtype == DType::i64 ? static_cast<std::int64_t>(sum) : static_cast<std::int32_t>(sum));
      }
  return out;
}

void expect_product(const LazyTensor& a, const LazyTensor& b, const std::string& what) {
  const LazyTensor y = matmul(a, b);
  const Whole wanted = plain(a, b, y.dtype());
  for (const Mode mode : kModes) {
    const ModeGuard guard(mode);
    EXPECT_EQ(values_of(matmul(a, b)), wanted) << what << ", " << mode_name(mode);
  }
}

constexpr DType kTypes[] = {DType::boolean, DType::i8, DType::u8, DType::i32, DType::i64};

TEST(IntegerProducts, TypesInAllPairs) {
  for (const DType ta : kTypes)
    for (const DType tb : kTypes)
      for (const std::int64_t k : {0, 1, 6, 37})
        expect_product(random({5, k}, ta, 1), random({k, 19}, tb, 2),
                       std::string(name(ta)) + " " + std::string(name(tb)) + " k " + std::to_string(k));
}

TEST(IntegerProducts, BatchesAndViews) {
  for (const DType t : {DType::i8, DType::u8, DType::i32}) {
    const LazyTensor a = random({3, 1, 7, 12}, t, 1), b = random({4, 12, 9}, t, 2), wide = random({14, 40}, t, 3);
    expect_product(a, b, "batches that broadcast");
    expect_product(transpose(random({12, 7}, t, 4)), b, "a transposed");
    expect_product(a, transpose(random({9, 12}, t, 5)), "b transposed");
    expect_product(slice(wide, 1, 3, 20), slice(transpose(wide), 0, 5, 22), "slices at odd places");
    expect_product(slice(wide, 1, 0, 39, 2), slice(transpose(wide), 0, 0, 39, 2), "every second");
    expect_product(expand(random({1, 12}, t, 6), {7, 12}), expand(random({12, 1}, t, 7), {12, 5}), "expanded");
    expect_product(random({2, 0, 3}, t, 8), random({3, 4}, t, 9), "no rows");
    expect_product(random({0, 2, 3}, t, 8), random({3, 4}, t, 9), "no batch");
  }
}

/// A frozen weight is packed; few and many rows read it.
TEST(IntegerProducts, FrozenWeights) {
  for (const DType ta : {DType::i8, DType::u8})
    for (const DType tb : {DType::i8, DType::u8}) {
      Tensor w = random({131, 90}, tb, 1);
      w.freeze();
      for (const std::int64_t m : {1, 13, 70, 300}) expect_product(random({m, 131}, ta, 2), w, "frozen");
    }
}

TEST(IntegerProducts, SumsWrapAndDoNotSaturate) {
  const std::int64_t k = 140000;
  const LazyTensor low = full({1, k}, -128, DType::i8), high = full({k, 1}, 255, DType::u8);
  expect_product(low, transpose(low), "-128 by -128");
  expect_product(low, high, "-128 by 255");
  expect_product(transpose(high), high, "255 by 255");
}

std::size_t count(const std::string& text, const std::string& part) {
  std::size_t n = 0;
  for (std::size_t at = text.find(part); at != std::string::npos; at = text.find(part, at + 1)) ++n;
  return n;
}

/// The plan of what was recorded, which is evaluated and compared with what eager mode makes of it.
std::string plan_of(const std::function<LazyTensor()>& build) {
  Whole eager;
  {
    const EagerMode guard;
    eager = values_of(build());
  }
  const LazyTensor y = build();
  EXPECT_EQ(values_of(y), eager);
  return explain({build()});
}

TEST(IntegerProducts, CastsOfBytesAreNoStepsOfTheirOwn) {
  const Tensor a = random({2, 6, 20}, DType::i8, 1), b = random({20, 8}, DType::u8, 2);
  const auto wide = [](const LazyTensor& x) { return cast(x, DType::i32); };
  const std::string plain_text = plan_of([&] { return matmul(wide(a), wide(b)); });
  EXPECT_EQ(count(plain_text, "matmul i8*u8->i32 [2·6x8x20]"), 1u) << plain_text;
  EXPECT_NE(plain_text.find("1 steps"), std::string::npos) << plain_text;
  // Through views, and where a cast is wanted elsewhere too.
  const std::string views = plan_of([&] {
    const LazyTensor x = reshape(wide(a), {12, 20});
    return matmul(slice(x, 0, 2, 9), transpose(slice(x, 0, 0, 5)));
  });
  EXPECT_EQ(count(views, "matmul i8*i8->i32 [7x5x20]"), 1u) << views;
  EXPECT_NE(views.find("1 steps"), std::string::npos) << views;
  const std::string both = plan_of([&] {
    const LazyTensor x = reshape(wide(a), {12, 20});
    return matmul(x, wide(b)) + sum(x, {1}, true);
  });
  EXPECT_EQ(count(both, "matmul i8*u8->i32"), 1u) << both;
  // Other casts stay: what they hold is no byte.
  const Tensor large = random({20, 8}, DType::i64, 3);
  const std::string other = plan_of([&] { return matmul(wide(a), wide(large)); });
  EXPECT_EQ(count(other, "matmul i32 ["), 1u) << other;
}

TEST(IntegerProducts, WhatFollowsIsAnEpilogue) {
  const Tensor a = random({33, 40}, DType::u8, 1), b = random({40, 50}, DType::i8, 2), c = random({50}, DType::i32, 3),
               offsets = (cast(c, DType::f32) * 0x1p-20f).eval();
  Tensor w = b;
  w.freeze();
  // What quantised layers do: sums, a correction a column, a scale, then 8 bits again.
  const auto scaled = [&] {
    const LazyTensor y = (cast(matmul(a, w), DType::f32) + offsets) * 0x1p-9f;
    return cast(clamp(round(y), -128, 127), DType::i8);
  };
  const std::string text = plan_of(scaled);
  EXPECT_NE(text.find("1 steps"), std::string::npos) << text;
  const std::string wrapped = plan_of([&] { return cast(matmul(a, w) * 3 + c, DType::u8); });
  EXPECT_NE(wrapped.find("1 steps"), std::string::npos) << wrapped;
  const std::string summed = plan_of([&] { return sum(matmul(a, w) + c, {1}); });
  EXPECT_EQ(count(summed, "matmul u8*i8->i32"), 1u) << summed;
}

}  // namespace
}  // namespace metal_candle::test
