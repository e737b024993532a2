// Integers and casts between fused ops: 8-bit arithmetic wraps after every op, whatever the registers hold. Graphs of
// whole numbers are exact in every mode, so planned, passes off and op by op must give equal bytes.
#include <gtest/gtest.h>

#include <random>

#include "metal_candle/metal_candle.hpp"
#include "tests/support/modes.h"

namespace metal_candle::test {
namespace {

using Values = std::vector<double>;

LazyTensor of(const Values& values, DType dtype) {
  return cast(Tensor::from(values, {static_cast<std::int64_t>(values.size())}), dtype).eval();
}

void expect_in_all_modes(LazyTensor (*build)(), const Values& wanted, const char* what) {
  for (const Mode mode : kModes) {
    const ModeGuard guard(mode);
    EXPECT_EQ(build().eval().to_f64(), wanted) << what << ", " << mode_name(mode);
  }
}
#define EXPECT_VALUES(expression, ...) \
  expect_in_all_modes([]() -> LazyTensor { return expression; }, Values{__VA_ARGS__}, #expression)

LazyTensor bytes() { return of({0, 5, 200}, DType::u8); }
LazyTensor signed_bytes() { return of({100, -128, 1}, DType::i8); }

TEST(IntegerGraphs, UnsignedBytesWrapBetweenOps) {
  EXPECT_VALUES(-bytes(), 0, 251, 56);
  EXPECT_VALUES(abs(-bytes()), 0, 251, 56);
  EXPECT_VALUES(greater(bytes() + bytes(), bytes()), 0, 1, 0);
  EXPECT_VALUES(cast(bytes() - 6, DType::f32), 250, 255, 194);
  EXPECT_VALUES(maximum(bytes() - 6, 0), 250, 255, 194);
  EXPECT_VALUES(sum(bytes() + bytes()), 154);
  EXPECT_VALUES(sum(bytes()), 205);
  EXPECT_VALUES(max(square(bytes())), 64);
  EXPECT_VALUES(argmax(bytes() + bytes(), 0), 2);
  EXPECT_VALUES(cumsum(bytes() * 3, 0), 0, 15, 103);
  EXPECT_VALUES(cast(cumsum(bytes() * 3, 0), DType::i32), 0, 15, 103);
}

TEST(IntegerGraphs, SignedBytesWrapBetweenOps) {
  EXPECT_VALUES(cast(signed_bytes() + signed_bytes(), DType::i32), -56, 0, 2);
  EXPECT_VALUES(relu(signed_bytes() + signed_bytes()), 0, 0, 2);
  EXPECT_VALUES(cast(abs(signed_bytes()), DType::f32), 100, -128, 1);
  EXPECT_VALUES(cast(-signed_bytes(), DType::i32), -100, -128, -1);
  EXPECT_VALUES(cast(cast(signed_bytes(), DType::u8), DType::f32), 100, 128, 1);
  EXPECT_VALUES(sum(square(signed_bytes())), 17);
}

/// An index is counted in registers, and is what its type holds.
TEST(IntegerGraphs, IndicesAreWhatTheirTypeHolds) {
  EXPECT_VALUES(max(iota({300}, 0, DType::i8)), 127);
  EXPECT_VALUES(min(iota({300}, 0, DType::i8)), -128);
  EXPECT_VALUES(slice(cast(iota({300}, 0, DType::u8), DType::i32), 0, 254, 258), 254, 255, 0, 1);
  EXPECT_VALUES(slice(cast(iota({300}, 0, DType::i8), DType::f32), 0, 126, 130), 126, 127, -128, -127);
  EXPECT_VALUES(sum(cast(less(iota({300}, 0, DType::i8), 0), DType::i32)), 128);
  EXPECT_VALUES(sum(cast(greater(iota({300}, 0, DType::u8), of({200}, DType::u8)), DType::i32)), 55);
  EXPECT_VALUES(slice(cast(iota({4100}, 0, DType::f16), DType::f32), 0, 2047, 2052), 2047, 2048, 2048, 2050, 2052);
  EXPECT_VALUES(slice(cast(iota({4100}, 0, DType::bf16), DType::f32), 0, 255, 260), 255, 256, 256, 258, 260);
}

TEST(IntegerGraphs, CastsBetweenFusedOpsChangeValues) {
  EXPECT_VALUES(cast(cast(of({1.00390625, 70000}, DType::f32) + 0, DType::bf16), DType::f32) * 1, 1, 70144);
  EXPECT_VALUES(cast(cast(of({2049, 1.5}, DType::f32) + 0, DType::f16), DType::f32) * 1, 2048, 1.5);
  EXPECT_VALUES(cast(cast(of({0, 2, -3}, DType::i32) + 0, DType::boolean), DType::i32) + 5, 5, 6, 6);
  EXPECT_VALUES(cast(cast(of({0.25, 0, -3}, DType::f32) + 0, DType::boolean), DType::f32) + 5, 6, 5, 6);
  EXPECT_VALUES(cast(cast(of({300, -1}, DType::i32) * 1, DType::u8), DType::i32) + 1, 45, 256);
  EXPECT_VALUES(cast(cast(of({2.75, -1.5}, DType::f64) * 1, DType::i8), DType::f64), 2, -1);
}

/// Whole numbers of every integer type, bools, and floats only where they are exact.
class IntegerGraph {
 public:
  explicit IntegerGraph(std::uint64_t seed) : rng_(seed) {}

  std::vector<LazyTensor> run(int ops) {
    for (const DType t : kTypes)
      for (int i = 0; i < 2; ++i) pool_.push_back(leaf(t));
    for (int i = 0; i < ops; ++i) pool_.push_back(step());
    std::vector<LazyTensor> roots;
    for (int i = 0; i < 4; ++i) roots.push_back(any());
    roots.push_back(pool_.back());
    roots.push_back(cast(pool_.back(), DType::f64));
    return roots;
  }

 private:
  static constexpr DType kTypes[] = {DType::i8, DType::u8, DType::i32, DType::i64};

  std::int64_t pick(std::int64_t low, std::int64_t high) {
    return std::uniform_int_distribution<std::int64_t>(low, high)(rng_);
  }
  LazyTensor any() { return pool_[static_cast<std::size_t>(pick(0, static_cast<std::int64_t>(pool_.size()) - 1))]; }
  DType type() { return kTypes[pick(0, 3)]; }

  LazyTensor leaf(DType t) {
    Values values(24);
    for (double& v : values) v = static_cast<double>(pick(-200, 300));
    return cast(Tensor::from(values, {3, 8}), t).eval();
  }

  LazyTensor step() {
    switch (pick(0, 8)) {
      case 0:
      case 1: return unary(any());
      case 2:
      case 3: return binary(any());
      case 4: return with_number(any());
      case 5: return cast(any(), type());
      case 6: return through(any());
      case 7: return product(any());
      default: return reduced(any());
    }
  }
  /// [3, 8] · [8, 3] · [3, 8], of bytes and of sums.
  LazyTensor product(const LazyTensor& x) {
    const LazyTensor z = pick(0, 1) ? any() : cast(cast(any(), pick(0, 1) ? DType::i8 : DType::u8), DType::i32);
    return matmul(matmul(x, transpose(z)), any());
  }
  LazyTensor unary(const LazyTensor& x) {
    switch (pick(0, 4)) {
      case 0: return -x;
      case 1: return abs(x);
      case 2: return square(x);
      case 3: return relu(x);
      default: return sign(x);
    }
  }
  LazyTensor binary(const LazyTensor& x) {
    const LazyTensor z = cast(any(), x.dtype());
    switch (pick(0, 6)) {
      case 0: return x + z;
      case 1: return x - z;
      case 2: return x * z;
      case 3: return maximum(x, z);
      case 4: return minimum(x, z);
      case 5: return cast(less(x, z), x.dtype()) + x;
      default: return where(logical_and(greater(x, z), not_equal(x, 3)), x, z);
    }
  }
  LazyTensor with_number(const LazyTensor& x) {
    const DType t = x.dtype();
    const std::int64_t n = t == DType::u8 ? pick(0, 255) : t == DType::i8 ? pick(-128, 127) : pick(-300, 300);
    switch (pick(0, 4)) {
      case 0: return x + n;
      case 1: return n - x;
      case 2: return x * n;
      case 3: return maximum(x, n);
      default: return where(less(x, 40), x, n);
    }
  }
  /// Types that hold whole numbers of 8 bits, and bools.
  LazyTensor through(const LazyTensor& x) {
    const DType narrow = pick(0, 1) ? DType::i8 : DType::u8;
    switch (pick(0, 4)) {
      case 0: return cast(cast(x, DType::boolean), type());
      case 1: return cast(cast(cast(x, narrow), DType::bf16), type());
      case 2: return cast(cast(cast(x, narrow), DType::f16), type());
      case 3: return cast(cast(cast(x, narrow), DType::f32) * 0.5, type());
      default: return cast(logical_not(equal(x, 0)), type());
    }
  }
  LazyTensor reduced(const LazyTensor& x) {
    const int axis = static_cast<int>(pick(0, 1));
    switch (pick(0, 5)) {
      case 0: return sum(x, {axis}, true) + cast(any(), x.dtype());
      case 1: return x - max(x, {axis}, true);
      case 2: return x * min(x, {axis}, true);
      case 3: return x + cast(argmax(x, axis, true), x.dtype());
      case 4: return x + cast(prod(x, {axis}, true), x.dtype());
      default: return cumsum(x, axis);
    }
  }

  std::mt19937_64 rng_;
  std::vector<LazyTensor> pool_;
};

std::vector<Values> values(std::uint64_t seed, Mode mode, int ops) {
  const ModeGuard guard(mode);
  const std::vector<LazyTensor> roots = IntegerGraph(seed).run(ops);
  eval(roots);
  std::vector<Values> out;
  for (const LazyTensor& r : roots) out.push_back(Tensor(r).to_f64());
  return out;
}

TEST(IntegerGraphs, AllModesGiveTheSameNumbers) {
  for (std::uint64_t seed = 0; seed < 150; ++seed) {
    const int ops = 3 + static_cast<int>(seed * 37 % 90);
    const auto wanted = values(seed, Mode::passes_off, ops);
    ASSERT_EQ(values(seed, Mode::eager, ops), wanted) << "eager, seed " << seed;
    ASSERT_EQ(values(seed, Mode::planned, ops), wanted) << "planned, seed " << seed;
  }
}

}  // namespace
}  // namespace metal_candle::test
