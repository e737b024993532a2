// The installed library from outside: record, evaluate, check a value.
#include <metal_candle/metal_candle.hpp>

#include <cmath>
#include <cstdio>

namespace mc = metal_candle;

int main() {
  const mc::LazyTensor x = mc::Tensor::from<float>({1, 2, 3, 4}, {2, 2});
  const mc::Tensor y = mc::softmax(mc::matmul(x, x) * 0.5f, -1).eval();
  const auto values = y.to_vector<float>();
  // x·x = [[7, 10], [15, 22]], so the second row is softmax(7.5, 11).
  const float expected = 1.0f / (1.0f + std::exp(-3.5f));
  if (std::abs(values[3] - expected) > 1e-6f) {
    std::fprintf(stderr, "got %.8f, expected %.8f\n", values[3], expected);
    return 1;
  }
  return 0;
}
