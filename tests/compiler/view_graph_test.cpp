// Views of whatever there is: indices, constants, expanded and strided leaves, empty ones; reshaped, cut, transposed, then
// computed with. The plain evaluator says what they are, and every mode must agree with it; so must gradients.
#include <gtest/gtest.h>

#include <cmath>
#include <random>

#include "metal_candle/metal_candle.hpp"
#include "tests/support/modes.h"
#include "tests/support/reference.h"

namespace metal_candle::test {
namespace {

using Values = std::vector<double>;

void expect_near(const Values& got, const Values& want, double bound, const std::string& what) {
  ASSERT_EQ(got.size(), want.size()) << what;
  for (std::size_t i = 0; i < got.size(); ++i)
    ASSERT_NEAR(got[i], want[i], bound * (1 + std::abs(want[i]))) << what << ", element " << i;
}

/// Fills the memory that plans share with numbers, so that what nobody wrote is seen.
void leave_numbers() { sort(Tensor::full({4096}, 7.0F) + 1.0F).values.eval(); }

void expect_in_all_modes(LazyTensor (*build)(), const Values& wanted, const char* what) {
  for (const Mode mode : kModes) {
    leave_numbers();
    const ModeGuard guard(mode);
    EXPECT_EQ(build().eval().to_f64(), wanted) << what << ", " << mode_name(mode);
  }
}
#define EXPECT_VALUES(expression, ...) \
  expect_in_all_modes([]() -> LazyTensor { return expression; }, Values{__VA_ARGS__}, #expression)

constexpr DType f32 = DType::f32;
LazyTensor two_ids() { return Tensor::from<std::int32_t>({2, 0}, {2}); }
LazyTensor up_to_six() { return Tensor::from<float>({1, 2, 3, 4, 5, 6}, {3, 2}); }

TEST(ViewGraphs, WhatIsGatheredFromIsWritten) {
  EXPECT_VALUES(take(arange(3, f32), two_ids()), 2, 0);
  EXPECT_VALUES(take(ones({3}), two_ids()), 1, 1);
  EXPECT_VALUES(take(full({3}, 4.0F) * 2 + 1, two_ids()), 9, 9);
  EXPECT_VALUES(embedding(full({3, 2}, 0.25F), two_ids()), 0.25, 0.25, 0.25, 0.25);
  EXPECT_VALUES(take_along_axis(arange(3, f32) * 0.5F, two_ids(), 0), 1, 0);
  EXPECT_VALUES(take(slice(arange(6, f32), 0, 1, 6, 2), two_ids()), 5, 1);
  EXPECT_VALUES(take(transpose(iota({2, 3}, 1, f32)), two_ids()), 2, 2, 0, 0);
}

LazyTensor up_to_twelve() {
  return reshape(Tensor::from<float>({1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12}, {12}), {2, 2, 3});
}

TEST(ViewGraphs, RowsOfStridedTables) {
  EXPECT_VALUES(take(transpose(up_to_twelve(), 1, 2), Tensor::from<std::int32_t>({1, 0}, {2})), 7, 10, 8, 11, 9, 12, 1,
                4, 2, 5, 3, 6);
  EXPECT_VALUES(sum(take(transpose(up_to_twelve(), 0, 2), two_ids()), {1, 2}), 30, 22);
  EXPECT_VALUES(sum(take_along_axis(Tensor::from<float>({1, 2, 3, 4}, {1, 2, 2}),
                                    Tensor::from<std::int32_t>({1, 1, 0, 1}, {1, 2, 2}), 1) *
                        Tensor::from<float>({1, 10, 100, 1000}, {2, 2}),
                    {1, 2}),
                4143);
}

TEST(ViewGraphs, IndicesAreCountedThroughViews) {
  EXPECT_VALUES(slice(arange(8, f32), 0, 2, 6) * 2, 4, 6, 8, 10);
  EXPECT_VALUES(slice(arange(8, f32), 0, 1, 8, 3) + 1, 2, 5, 8);
  EXPECT_VALUES(flatten(iota({2, 3}, 1, f32)) + 1, 1, 2, 3, 1, 2, 3);
  EXPECT_VALUES(flatten(iota({2, 3}, 0, f32)) + 1, 1, 1, 1, 2, 2, 2);
  EXPECT_VALUES(slice(flatten(iota({2, 3}, 1, f32)), 0, 1, 6, 2) * 2, 2, 0, 4);
  EXPECT_VALUES(sum(reshape(iota({3, 2}, 1, f32) + 1, {2, 3}), {1}), 4, 5);
  EXPECT_VALUES(matmul(expand(slice(arange(4, f32), 0, 2, 4), {2, 2}), Tensor::ones({2, 1})), 5, 5);
}

/// Rows of a reduction may end within an axis of what it reads.
TEST(ViewGraphs, ReductionsOfWhatWasReshaped) {
  EXPECT_VALUES(sum(reshape(up_to_six() * 2, {2, 3}), {1}), 12, 30);
  EXPECT_VALUES(max(reshape(up_to_six() * 2, {2, 3}), {1}), 6, 12);
  EXPECT_VALUES(sum(reshape(up_to_six() * 2, {2, 3}), {0}), 10, 14, 18);
  EXPECT_VALUES(sum(reshape(up_to_six() + Tensor::from<float>({10, 20}, {2}), {2, 3}), {1}), 46, 65);
}

// ---- random graphs --------------------------------------------------------------------------------------------------

class ViewGraph {
 public:
  ViewGraph(std::uint64_t seed, DType dtype) : rng_(seed), dtype_(dtype) {}

  /// Some values, and gradients by two leaves.
  std::vector<LazyTensor> run() {
    for (int i = 0; i < 6; ++i) pool_.push_back(source());
    const auto steps = pick(3, 14);
    for (std::int64_t i = 0; i < steps; ++i) {
      const LazyTensor made = step();
      if (made.rank() <= 5 && made.numel() <= 600) pool_.push_back(made);
    }
    std::vector<LazyTensor> roots{pool_.back(), any(), any()};
    const LazyTensor loss =
        sum(tanh(roots[0])) + mean(concat({flatten(roots[1]), leaf({1})}, 0)) + sum(roots[2] * 0.25);
    roots.push_back(loss);
    for (const LazyTensor& g : grad(loss, leaves_)) roots.push_back(g);
    return roots;
  }

 private:
  std::int64_t pick(std::int64_t low, std::int64_t high) {
    return std::uniform_int_distribution<std::int64_t>(low, high)(rng_);
  }
  const LazyTensor& any() {
    return pool_[static_cast<std::size_t>(pick(0, static_cast<std::int64_t>(pool_.size()) - 1))];
  }
  Shape shape() {
    Shape s;
    for (auto rank = pick(1, 3); rank > 0; --rank) s.push_back(pick(0, 25) == 0 ? 0 : pick(1, 6));
    return s;
  }

  LazyTensor leaf(const Shape& of) {
    Values values(static_cast<std::size_t>(of.numel()));
    for (double& v : values) v = static_cast<double>(pick(-4, 4)) * 0.25;
    Tensor t = cast(Tensor::from(values, of), dtype_).eval();
    if (pick(0, 3) == 0) t.freeze();
    leaves_.emplace_back(t);
    return leaves_.back();
  }

  LazyTensor source() {
    const Shape s = shape();
    switch (pick(0, 5)) {
      case 0: return iota(s, static_cast<int>(pick(0, s.rank() - 1)), dtype_);
      case 1: return full(s, 0.5, dtype_) * 3;
      case 2: return iota(s, static_cast<int>(pick(0, s.rank() - 1)), dtype_) * 0.25 - 1;
      case 3: return expanded(leaf(s));
      default: return leaf(s);
    }
  }
  LazyTensor expanded(const LazyTensor& x) {
    Shape wide{pick(1, 4)};
    for (const auto e : x.shape()) wide.push_back(e == 1 ? pick(1, 4) : e);
    return expand(x, wide);
  }

  LazyTensor step() {
    switch (pick(0, 13)) {
      case 0:
      case 1:
      case 2:
      case 3: return view(any());
      case 4: return tanh(any()) + 0.5;
      case 5: return binary();
      case 6:
      case 7: return reduce(any());
      case 8:
      case 9: return product(any());
      case 10: return gathered(any());
      case 11: return concat({any_of_rank(), leaf({2})}, 0);
      case 12: return softmax(any(), -1);
      default: return moved(any());
    }
  }
  LazyTensor any_of_rank() { return flatten(any()); }

  LazyTensor view(const LazyTensor& x) {
    const int axis = static_cast<int>(pick(0, x.rank() - 1));
    switch (pick(0, 5)) {
      case 0: return transpose(x, axis, static_cast<int>(pick(0, x.rank() - 1)));
      case 1: return flatten(x);
      case 2: {
        const std::int64_t end = x.dim(axis);
        return slice(x, axis, end > 1 ? pick(0, end - 1) : 0, end, pick(1, 3));
      }
      case 3: return expanded(x);
      case 4: return unsqueeze(x, axis);
      default:
        for (const std::int64_t f : {2, 3, 5})
          if (x.numel() % f == 0 && pick(0, 1) == 0) return reshape(x, {f, x.numel() / f});
        return flatten(x);
    }
  }

  LazyTensor binary() {
    const LazyTensor x = any();
    for (int tries = 0; tries < 6; ++tries) {
      const LazyTensor y = any();
      bool fits = true;
      for (int i = 1; i <= std::min(x.rank(), y.rank()); ++i)
        fits &= x.dim(-i) == y.dim(-i) || x.dim(-i) == 1 || y.dim(-i) == 1;
      if (fits) return pick(0, 1) == 0 ? x + y * 0.5 : tanh(x * y);
    }
    return x * 0.5;
  }

  LazyTensor reduce(const LazyTensor& x) {
    const int axis = static_cast<int>(pick(0, x.rank() - 1));
    const bool keep = x.rank() == 1 || pick(0, 1) == 0;
    if (pick(0, 2) == 0 && x.dim(axis) > 0) return mean(x, {axis}, keep);
    return sum(x, {axis}, keep) * 0.5;
  }

  LazyTensor product(const LazyTensor& x) {
    if (x.rank() < 2) return matmul(x, leaf({x.dim(-1), pick(1, 5)})) * 0.3;
    switch (pick(0, 3)) {
      case 0: return matmul(x, leaf({x.dim(-1), pick(1, 5)})) * 0.3 + leaf({1});
      case 1: return matmul(x, expand(leaf({x.dim(-1), 1}), {x.dim(-1), pick(1, 5)})) * 0.3;
      case 2: return matmul(x, expand(leaf({1, 3}), {x.dim(-1), 3})) * 0.3 + iota({3}, 0, dtype_);
      default: {
        const std::int64_t n = pick(0, 4), rank = pick(0, 2), k = x.dim(-1);
        return matmul(x, leaf({k, n})) * 0.3 + lora_fused(x, leaf({k, rank}), leaf({rank, n}), 0.5);
      }
    }
  }

  LazyTensor gathered(const LazyTensor& x) {
    if (x.dim(0) == 0) return x;
    std::vector<std::int32_t> ids(static_cast<std::size_t>(pick(1, 4)));
    for (auto& id : ids) id = static_cast<std::int32_t>(pick(0, x.dim(0) - 1));
    const Tensor at = Tensor::from(ids, {static_cast<std::int64_t>(ids.size())});
    return x.rank() == 1 && pick(0, 1) == 0 ? take_along_axis(x, at, 0) : take(x, at);
  }

  LazyTensor moved(const LazyTensor& x) {
    const LazyTensor place = iota(x.shape(), static_cast<int>(pick(0, x.rank() - 1)), DType::i32);
    return where(less(place, static_cast<int>(pick(0, 4))), x, x * 0.5 - 1);
  }

  std::mt19937_64 rng_;
  DType dtype_;
  std::vector<LazyTensor> pool_, leaves_;
};

void check(std::uint64_t seed, DType dtype, double bound) {
  std::vector<Values> wanted;
  for (const LazyTensor& root : ViewGraph(seed, dtype).run()) wanted.push_back(reference(root));
  for (const Mode mode : kModes) {
    leave_numbers();
    const ModeGuard guard(mode);
    const std::vector<LazyTensor> roots = ViewGraph(seed, dtype).run();
    eval(roots);
    for (std::size_t i = 0; i < roots.size(); ++i)
      expect_near(Tensor(roots[i]).to_f64(), wanted[i], bound,
                  "seed " + std::to_string(seed) + " " + mode_name(mode) + ", root " + std::to_string(i));
    if (testing::Test::HasFatalFailure()) return;
  }
}

TEST(ViewGraphs, RandomOnesAndTheirGradientsAreWhatThePlainEvaluatorSays) {
  for (std::uint64_t seed = 0; seed < 300; ++seed) {
    check(seed, DType::f64, 1e-9);
    check(seed, DType::f32, 2e-4);
    if (HasFatalFailure()) return;
  }
}

// ---- gradients ------------------------------------------------------------------------------------------------------

/// Sums and means have expanded gradients, which products then read. Compared with differences of the function itself.
void check_differences(std::int64_t outputs, bool frozen, LazyTensor (*reduced)(const LazyTensor&)) {
  const auto numbers = [](const Shape& s, std::uint64_t key) {
    return cast(randn(s, {.key = Key(key)}), DType::f64).eval();
  };
  const LazyTensor x = numbers({6, 3}, 1), w1 = numbers({3, 4}, 2);
  Tensor w2 = numbers({4, outputs}, 3);
  if (frozen) w2.freeze();
  const auto f = [&](const LazyTensor& w) { return reduced(matmul(tanh(matmul(x, w)), w2)); };
  const Values g = grad(f(w1), {w1})[0].eval().to_f64();
  const Values at = w1.eval().to_f64();
  constexpr double h = 1e-5;
  for (std::size_t i = 0; i < at.size(); ++i) {
    const auto moved = [&](double by) {
      Values v = at;
      v[i] += by;
      return f(Tensor::from(v, {3, 4})).eval().item<double>();
    };
    ASSERT_NEAR(g[i], (moved(h) - moved(-h)) / (2 * h), 1e-7) << outputs << " outputs, element " << i;
  }
}

TEST(ViewGraphs, GradientsOfSumsAndMeansOfProducts) {
  for (const Mode mode : kModes) {
    const ModeGuard guard(mode);
    for (const std::int64_t outputs : {1, 2, 8, 40})
      for (const bool frozen : {false, true}) {
        check_differences(outputs, frozen, [](const LazyTensor& y) { return mean(y); });
        check_differences(outputs, frozen, [](const LazyTensor& y) { return sum(y) * 0.5; });
        check_differences(outputs, frozen, [](const LazyTensor& y) { return sum(square(sum(y, {0}))); });
        check_differences(outputs, frozen, [](const LazyTensor& y) { return sum(square(mean(y, {1}))); });
      }
  }
}

// ---- nothing at all -------------------------------------------------------------------------------------------------

TEST(ViewGraphs, AdaptersOfEmptyExtents) {
  for (int empty = 0; empty < 4; ++empty)
    for (const Mode mode : kModes) {
      const ModeGuard guard(mode);
      const std::int64_t m = empty == 0 ? 0 : 2, k = empty == 1 ? 0 : 3, n = empty == 2 ? 0 : 4, r = empty == 3 ? 0 : 1;
      const LazyTensor x = Tensor::ones({m, k}), w = Tensor::ones({k, n}), a = Tensor::ones({k, r}),
                       b = Tensor::ones({r, n});
      const LazyTensor y = matmul(x, w) + lora_fused(x, a, b, 2.0);
      const auto kd = static_cast<double>(k), rd = static_cast<double>(r);
      EXPECT_EQ(y.eval().to_f64(), Values(static_cast<std::size_t>(m * n), kd + 2 * kd * rd));
      const auto g = grad(sum(matmul(x, w) + matmul(matmul(x, a), b) * 2.0), {x, a});
      EXPECT_EQ(g[0].eval().to_f64(), Values(static_cast<std::size_t>(m * k), static_cast<double>(n) * (1 + 2 * rd)));
      EXPECT_EQ(g[1].eval().to_f64(), Values(static_cast<std::size_t>(k * r), 2 * static_cast<double>(m * n)));
    }
}

TEST(ViewGraphs, CrossEntropyOfNoComponents) {
  for (const Mode mode : kModes) {
    leave_numbers();
    const ModeGuard guard(mode);
    const LazyTensor loss =
        linear_cross_entropy(Tensor::zeros({2, 0}), Tensor::zeros({0, 7}), Tensor::zeros({2}, DType::i32));
    EXPECT_NEAR(loss.eval().item<float>(), std::log(7.0), 1e-6) << mode_name(mode);
  }
}

}  // namespace
}  // namespace metal_candle::test
