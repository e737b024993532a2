// Random graphs: DAGs of up to 200 ops, evaluated planned, with every pass off, op by op, and in f64. All must agree.
//
// Ops that jump (comparisons, rounding) are fed integers only, which every mode computes exactly; what grows is squashed,
// so that f32 has no excuse.
#include <gtest/gtest.h>

#include <cmath>
#include <random>

#include "metal_candle/metal_candle.hpp"
#include "tests/support/modes.h"

namespace metal_candle::test {
namespace {

class RandomGraph {
 public:
  RandomGraph(std::uint64_t seed, DType dtype) : rng_(seed), dtype_(dtype) {}

  std::vector<LazyTensor> run(int ops) {
    for (int i = 0; i < 4; ++i) pool_.push_back(leaf({pick(1, 4), pick(1, 5), 8}));
    pool_.push_back(leaf({8}));
    pool_.push_back(leaf({12, 8}));
    for (int i = 0; i < ops; ++i) pool_.push_back(step());
    std::vector<LazyTensor> roots;
    for (int i = 0; i < 3; ++i) roots.push_back(any());
    roots.push_back(pool_.back());
    roots.push_back(sum(pool_.back()));
    return roots;
  }

 private:
  std::int64_t pick(std::int64_t low, std::int64_t high) {
    return std::uniform_int_distribution<std::int64_t>(low, high)(rng_);
  }
  const LazyTensor& any() {
    return pool_[static_cast<std::size_t>(pick(0, static_cast<std::int64_t>(pool_.size()) - 1))];
  }

  LazyTensor leaf(const Shape& shape) {
    std::vector<double> values(static_cast<std::size_t>(shape.numel()));
    for (double& v : values) v = static_cast<double>(static_cast<float>(std::normal_distribution<double>()(rng_)));
    return cast(Tensor::from(values, shape), dtype_).eval();
  }

  static bool broadcasts(const Shape& a, const Shape& b) {
    for (int i = 1; i <= std::min(a.rank(), b.rank()); ++i)
      if (a.dim(-i) != b.dim(-i) && a.dim(-i) != 1 && b.dim(-i) != 1) return false;
    return true;
  }

  LazyTensor step() {
    switch (pick(0, 9)) {
      case 0: return unary(any());
      case 1: return unary(any());
      case 2:
      case 3: return binary();
      case 4: return reduce(any());
      case 5: return row(any());
      case 6: return view(any());
      case 7: return product();
      case 8: return exact(any());
      default: return moved(any());
    }
  }

  LazyTensor unary(const LazyTensor& x) {
    switch (pick(0, 9)) {
      case 0: return tanh(x);
      case 1: return sigmoid(x);
      case 2: return sin(x);
      case 3: return gelu(x) * 0.5;
      case 4: return silu(x) - 0.25;
      case 5: return exp(-square(x));
      case 6: return softplus(x) * 0.5;
      case 7: return relu(x);
      case 8: return sqrt(square(x) + 0.5);
      default: return abs(x) * 0.7 - 0.3;
    }
  }

  LazyTensor binary() {
    const LazyTensor a = any();
    for (int tries = 0; tries < 8; ++tries) {
      const LazyTensor b = any();
      if (!broadcasts(a.shape(), b.shape())) continue;
      switch (pick(0, 4)) {
        case 0: return tanh(a + b);
        case 1: return tanh(a * b);
        case 2: return tanh(a - b) * 0.9;
        case 3: return maximum(a, b);
        default: return a / (square(b) + 1);
      }
    }
    return a * 0.5;
  }

  LazyTensor reduce(const LazyTensor& x) {
    if (x.rank() == 0) return x + 1;
    const int axis = static_cast<int>(pick(0, x.rank() - 1));
    const bool keep = x.rank() < 2 || pick(0, 2) > 0;
    switch (pick(0, 4)) {
      case 0: return tanh(sum(x, {axis}, keep));
      case 1: return mean(x, {axis}, keep);
      case 2: return max(x, {axis}, keep);
      case 3: return logsumexp(x, {axis}, keep) * 0.5;
      default: return x.rank() > 1 ? mean(x, {0, x.rank() - 1}, true) : mean(x, {}, true);
    }
  }

  LazyTensor row(const LazyTensor& x) {
    if (x.rank() == 0) return x;
    switch (pick(0, 3)) {
      case 0: return softmax(x, static_cast<int>(pick(-x.rank(), -1)));
      case 1: return rms_norm(x, 1e-2) * 0.5;
      case 2: return layer_norm(x, {}, {}, 1e-1) * 0.5;
      default: {
        const LazyTensor e = exp(x - max(x, {-1}, true));
        return e / sum(e, {-1}, true);
      }
    }
  }

  LazyTensor view(const LazyTensor& x) {
    if (x.rank() == 0) return reshape(x, {1, 1});
    switch (pick(0, 4)) {
      case 0: return x.rank() >= 2 ? transpose(x) : unsqueeze(x, 0);
      case 1: return reshape(x, {-1});
      case 2: {
        const int axis = static_cast<int>(pick(0, x.rank() - 1));
        return slice(x, axis, x.dim(axis) > 1 ? pick(0, 1) : 0, x.dim(axis), x.dim(axis) > 2 ? pick(1, 2) : 1);
      }
      case 3: return x.rank() < 4 ? unsqueeze(x, static_cast<int>(pick(0, x.rank()))) : x;
      default: {
        const std::int64_t n = x.numel();
        return n % 8 == 0 ? reshape(x, {-1, 8}) : reshape(x, {1, -1});
      }
    }
  }

  LazyTensor product() {
    const LazyTensor x = any();
    if (x.rank() < 1 || x.rank() > 3 || x.numel() > 4096) return tanh(x);
    const LazyTensor w = leaf({x.dim(-1), pick(1, 9)});
    const double scale = 1.0 / std::sqrt(static_cast<double>(x.dim(-1)));
    switch (pick(0, 2)) {
      case 0: return tanh(matmul(x, w) * scale + leaf({w.dim(1)}));
      case 1: return matmul(x, transpose(leaf({pick(1, 9), x.dim(-1)}))) * scale;
      default: return (matmul(x, w) + lora_fused(x, leaf({x.dim(-1), 2}), leaf({2, w.dim(1)}), 0.5)) * scale * 0.5;
    }
  }

  // Integers from -4 to 4, exact everywhere; then ops that jump.
  LazyTensor exact(const LazyTensor& like) {
    std::vector<double> values(static_cast<std::size_t>(like.numel()));
    for (double& v : values) v = static_cast<double>(pick(-4, 4));
    const LazyTensor i = cast(Tensor::from(values, like.shape()), dtype_);
    switch (pick(0, 3)) {
      case 0: return where(greater(i, 0), like, like * 0.5);
      case 1: return sign(i) * like;
      case 2: return floor(i * 0.5) * 0.25;
      default: return like.rank() > 0 ? take_along_axis(like, argmax(i, -1, true), -1) : like;
    }
  }

  LazyTensor moved(const LazyTensor& x) {
    if (x.rank() == 0 || x.numel() > 4096) return x;
    switch (pick(0, 2)) {
      case 0: return concat({x, x * 0.5}, static_cast<int>(pick(0, x.rank() - 1)));
      case 1: return x.rank() <= 3 ? cumsum(x, x.rank() - 1) * 0.1 : x;
      default: return sort(cast(floor(x * 0.0), dtype_) + 1.0).values * x;
    }
  }

  std::mt19937_64 rng_;
  DType dtype_;
  std::vector<LazyTensor> pool_;
};

std::vector<std::vector<double>> values(std::uint64_t seed, DType dtype, Mode mode, int ops) {
  const ModeGuard guard(mode);
  const std::vector<LazyTensor> roots = RandomGraph(seed, dtype).run(ops);
  eval(roots);
  std::vector<std::vector<double>> out;
  for (const LazyTensor& r : roots) out.push_back(Tensor(r).to_f64());
  return out;
}

void compare(const std::vector<std::vector<double>>& got, const std::vector<std::vector<double>>& want, double bound,
             const std::string& what) {
  ASSERT_EQ(got.size(), want.size());
  for (std::size_t r = 0; r < got.size(); ++r) {
    ASSERT_EQ(got[r].size(), want[r].size()) << what;
    for (std::size_t i = 0; i < got[r].size(); ++i)
      ASSERT_LE(std::abs(got[r][i] - want[r][i]), bound * (1 + std::abs(want[r][i])))
          << what << ", root " << r << ", element " << i;
  }
}

TEST(RandomGraphs, AllModesAgree) {
  for (std::uint64_t seed = 0; seed < 60; ++seed) {
    const int ops = 5 + static_cast<int>(seed * 37 % 196);
    const std::string what = "seed " + std::to_string(seed);
    const auto exact = values(seed, DType::f64, Mode::passes_off, ops);
    compare(values(seed, DType::f64, Mode::planned, ops), exact, 1e-10, what + " f64 planned");
    compare(values(seed, DType::f32, Mode::planned, ops), exact, 2e-4, what + " f32 planned");
    compare(values(seed, DType::f32, Mode::passes_off, ops), exact, 2e-4, what + " f32 passes off");
    compare(values(seed, DType::f32, Mode::eager, ops), exact, 2e-4, what + " f32 eager");
    if (HasFatalFailure()) return;
  }
}

TEST(RandomGraphs, ASecondEvaluationGivesTheSameBytes) {
  for (std::uint64_t seed = 100; seed < 110; ++seed)
    compare(values(seed, DType::f32, Mode::planned, 120), values(seed, DType::f32, Mode::planned, 120), 0,
            "seed " + std::to_string(seed));
}

TEST(RandomGraphs, ThreadsDoNotChangeBytes) {
  for (std::uint64_t seed = 200; seed < 205; ++seed) {
    const auto two = values(seed, DType::f32, Mode::planned, 150);
    set_threads(1);
    compare(values(seed, DType::f32, Mode::planned, 150), two, 0, "seed " + std::to_string(seed));
    set_threads(0);
  }
}

}  // namespace
}  // namespace metal_candle::test
