// A product with an epilogue whose plain values somebody else wants too: a root, the backward pass, another kernel.
#include <gtest/gtest.h>

#include <cmath>

#include "metal_candle/metal_candle.hpp"

namespace metal_candle {
namespace {

void expect_as_with_passes_off(const std::function<std::vector<LazyTensor>()>& record, double bound) {
  std::vector<std::vector<double>> want;
  {
    const PassesOff off;
    const std::vector<LazyTensor> roots = record();
    eval(roots);
    for (const LazyTensor& t : roots) want.push_back(Tensor(t).to_f64());
  }
  const std::vector<LazyTensor> roots = record();
  eval(roots);
  for (std::size_t r = 0; r < roots.size(); ++r) {
    const std::vector<double> got = Tensor(roots[r]).to_f64();
    for (std::size_t i = 0; i < got.size(); ++i)
      ASSERT_NEAR(got[i], want[r][i], bound * (1 + std::abs(want[r][i]))) << "root " << r << ", element " << i;
  }
}

struct Case {
  DType dtype;
  std::int64_t rows, in, out;
  double bound;
};
class StoredProduct : public testing::TestWithParam<Case> {};

TEST_P(StoredProduct, ReachesMemoryBesideItsEpilogue) {
  const auto [dtype, m, k, n, bound] = GetParam();
  const Tensor x = randn({m, k}, {.key = Key(1), .dtype = dtype}).eval();
  const Tensor w = randn({k, n}, {.key = Key(2), .dtype = dtype}).eval();
  const Tensor u = randn({m, n}, {.key = Key(3), .dtype = dtype}).eval();
  expect_as_with_passes_off(
      [&] {
        const LazyTensor y = matmul(x, w);
        return std::vector<LazyTensor>{y, silu(y) * u};
      },
      bound);
  expect_as_with_passes_off(
      [&] {
        const LazyTensor y = matmul(x, w);
        return std::vector<LazyTensor>{y + u, sum(square(y), {0}), reshape(y, {n, m})};
      },
      bound);
}

INSTANTIATE_TEST_SUITE_P(Shapes, StoredProduct,
                         testing::Values(Case{DType::f32, 2, 16, 16, 1e-4}, Case{DType::f32, 64, 16, 24, 1e-4},
                                         Case{DType::f32, 130, 70, 100, 1e-4}, Case{DType::f32, 1, 64, 300, 1e-4},
                                         Case{DType::bf16, 64, 32, 48, 0.1}, Case{DType::f16, 33, 32, 48, 0.02},
                                         Case{DType::f64, 33, 32, 48, 1e-10}));

TEST(Epilogue, GatedLayersHaveTheirGradients) {
  const Tensor x = randn({64, 16}, {.key = Key(1)}).eval(), g = randn({64, 16}, {.key = Key(2)}).eval();
  Tensor gate = randn({16, 24}, {.key = Key(3)}).eval(), up = randn({16, 24}, {.key = Key(4)}).eval();
  Tensor down = randn({24, 16}, {.key = Key(5)}).eval();
  gate.freeze();
  up.freeze();
  down.freeze();
  const Tensor a = randn({24, 4}, {.key = Key(6)}).eval(), b = randn({4, 16}, {.key = Key(7)}).eval();
  expect_as_with_passes_off(
      [&] {
        const LazyTensor z = silu(matmul(x, gate)) * matmul(x, up);
        const LazyTensor y = rms_norm(matmul(z, down) + lora_fused(z, a, b, 2.0));
        return vjp({y}, {g}, {x, a, b});
      },
      1e-4);
}

}  // namespace
}  // namespace metal_candle
