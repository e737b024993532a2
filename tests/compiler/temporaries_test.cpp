// How much memory the temporaries of a backward pass need: what is computed again is computed late, and what frees
// memory comes as soon as it can.
#include <gtest/gtest.h>

#include <algorithm>
#include <string>

#include "metal_candle/metal_candle.hpp"

namespace metal_candle {
namespace {

constexpr int kLayers = 16;
constexpr std::int64_t kRows = 64, kWidth = 64, kInner = 4 * kWidth;

std::size_t arena_of(const std::vector<LazyTensor>& roots) {
  const std::size_t bytes = temporary_bytes(roots);
  EXPECT_NE(explain(roots).find("arena " + std::to_string(bytes) + " bytes"), std::string::npos);
  return bytes;
}

/// Residual layers of two products, and the gradient of each weight.
struct Net {
  std::vector<LazyTensor> weights;
  Tensor x = Tensor::ones({kRows, kWidth});

  Net() {
    for (int i = 0; i < kLayers; ++i) {
      weights.emplace_back(Tensor::full({kWidth, kInner}, 0.01 * (i + 1)));
      weights.emplace_back(Tensor::full({kInner, kWidth}, 0.02 * (i + 1)));
    }
  }
  std::vector<LazyTensor> gradients(bool again) const {
    LazyTensor h = x;
    for (std::size_t i = 0; i < weights.size(); i += 2) {
      const auto layer = [this, i](const std::vector<LazyTensor>& in) {
        return in[0] + matmul(tanh(matmul(in[0], weights[i])), weights[i + 1]);
      };
      h = again ? checkpoint(layer, {h}) : layer({h});
    }
    return grad(mean(square(h)), weights);
  }
};

TEST(Temporaries, ACheckpointKeepsItsInputsAndNoMore) {
  const Net net;
  const std::size_t layer = kRows * (kWidth + 2 * kInner) * sizeof(float);  // x, tanh's input or value, its gradient
  const std::size_t inputs = kLayers * kRows * kWidth * sizeof(float);
  EXPECT_LT(arena_of(net.gradients(true)), inputs + 2 * layer);
  EXPECT_GT(arena_of(net.gradients(false)), kLayers * kRows * kInner * sizeof(float));
}

TEST(Temporaries, ACheckpointChangesNoBit) {
  const Net net;
  const auto plain = net.gradients(false), again = net.gradients(true);
  eval(plain);
  eval(again);
  for (std::size_t i = 0; i < plain.size(); ++i)
    EXPECT_EQ(Tensor(plain[i]).to_vector<float>(), Tensor(again[i]).to_vector<float>()) << i;
}

TEST(Temporaries, TheOrderOfTheWeightsPlaysNoPart) {
  // The first weight's gradient, asked for first, needs the whole backward pass; the others must not wait for it.
  const Net net;
  auto first_to_last = net.gradients(false), last_to_first = net.gradients(false);
  std::reverse(last_to_first.begin(), last_to_first.end());
  const auto a = static_cast<double>(arena_of(first_to_last)), b = static_cast<double>(arena_of(last_to_first));
  EXPECT_LT(std::max(a, b) / std::min(a, b), 1.1) << a << " and " << b;
}

}  // namespace
}  // namespace metal_candle
