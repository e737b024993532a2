// Plans as text: what graphs compile to. A fusion that stops happening fails here.
//
// Each graph below has a file tests/plans/<name>.txt with its plan. To accept a change on purpose, run this test with
// METAL_CANDLE_UPDATE_PLANS=1 and read the difference before committing it.
#include <gtest/gtest.h>

#include <cstdlib>
#include <fstream>
#include <functional>
#include <map>
#include <sstream>

#include "metal_candle/metal_candle.hpp"

namespace metal_candle {
namespace {

Tensor ones(const Shape& shape, DType dtype = DType::f32) { return Tensor::ones(shape, dtype); }

std::vector<LazyTensor> with_gradient(const LazyTensor& y, const std::vector<LazyTensor>& of) {
  std::vector<LazyTensor> out{y};
  for (const LazyTensor& g : vjp({y}, {Tensor::ones(y.shape(), y.dtype())}, of)) out.push_back(g);
  return out;
}

const std::map<std::string, std::function<std::vector<LazyTensor>()>>& graphs() {
  static const std::map<std::string, std::function<std::vector<LazyTensor>()>> all{
      {"softmax",
       [] {
         return std::vector<LazyTensor>{softmax(ones({64, 256}))};
       }},
      {"softmax_from_primitives",
       [] {
         const Tensor x = ones({64, 256});
         const LazyTensor e = exp(x - max(x, {-1}, true));
         return std::vector<LazyTensor>{e / sum(e, {-1}, true)};
       }},
      {"rms_norm_from_primitives",
       [] {
         const Tensor x = ones({64, 256}), w = ones({256});
         return std::vector<LazyTensor>{x * rsqrt(mean(square(x), {-1}, true) + 1e-5) * w};
       }},
      {"rms_norm_backward",
       [] {
         const Tensor x = ones({64, 256}), w = ones({256});
         return with_gradient(rms_norm(x, w), {x, w});
       }},
      {"matmul_bias_gelu_residual",
       [] {
         const Tensor x = ones({32, 64}), w = ones({64, 128}), b = ones({128}), r = ones({32, 128});
         return std::vector<LazyTensor>{gelu(matmul(x, w) * 0.5 + b) + r};
       }},
      {"lora_linear_backward",
       [] {
         const Tensor x = ones({32, 64}), a = ones({64, 4}), b = ones({4, 128});
         Tensor w = ones({64, 128});
         w.freeze();
         return with_gradient(matmul(x, w) + lora_fused(x, a, b, 2.0), {x, a, b});
       }},
      {"lora_linear_by_hand_backward",  // the same steps
       [] {
         const Tensor x = ones({32, 64}), a = ones({64, 4}), b = ones({4, 128});
         Tensor w = ones({64, 128});
         w.freeze();
         return with_gradient(matmul(x, w) + matmul(matmul(x, a) * 2.0, b), {x, a, b});
       }},
      {"cross_entropy_backward",
       [] {
         const Tensor x = ones({16, 1000});
         const LazyTensor loss = cross_entropy(x, Tensor::full({16}, 3, DType::i32));
         return std::vector<LazyTensor>{loss, grad(loss, std::vector<LazyTensor>{x})[0]};
       }},
      {"two_reductions_in_one",
       [] {
         const Tensor x = ones({64, 256});
         return std::vector<LazyTensor>{max(x, {-1}) * sum(square(x), {-1})};
       }},
      {"two_outputs",
       [] {
         const Tensor x = ones({64, 256});
         const LazyTensor y = tanh(x) * 0.5;
         return std::vector<LazyTensor>{y + 1.0, square(y)};
       }},
      {"reduction_feeding_a_gather",
       [] {
         const Tensor x = ones({64, 256}), table = ones({256, 32});
         return std::vector<LazyTensor>{take(table, argmax(x, -1)) * 2.0};
       }},
      {"two_branches",
       [] {
         const Tensor x = ones({8, 16}), y = ones({8, 16});
         return std::vector<LazyTensor>{softmax(x), softmax(y)};
       }},
  };
  return all;
}

std::string plan_of(const std::vector<LazyTensor>& roots) {
  const std::string text = explain(roots);
  return text.substr(0, text.find("passes (us)"));  // times differ from run to run
}

TEST(Plans, AreAsWrittenDown) {
  for (const auto& [name, make] : graphs()) {
    const std::string path = std::string(METAL_CANDLE_TESTS_DIR) + "/plans/" + name + ".txt";
    const std::string got = plan_of(make());
    if (std::getenv("METAL_CANDLE_UPDATE_PLANS")) std::ofstream(path) << got;
    std::ifstream file(path);
    ASSERT_TRUE(file) << path;
    std::ostringstream want;
    want << file.rdbuf();
    EXPECT_EQ(got, want.str()) << name;
  }
}

int steps(const std::vector<LazyTensor>& roots) {
  const std::string text = explain(roots);
  return std::atoi(text.c_str() + text.find(": ") + 2);
}

TEST(Plans, RowProgramsThatNobodyNamedAreOneKernel) {
  for (const char* name : {"softmax", "softmax_from_primitives", "rms_norm_from_primitives", "two_reductions_in_one",
                           "two_outputs", "reduction_feeding_a_gather"})
    EXPECT_EQ(steps(graphs().at(name)()), 1) << name;
}

TEST(Plans, NormsOfFewRowsStayWholeInGraphsOfSeveralWindows) {
  Tensor w = ones({64, 64});
  w.freeze();
  const Tensor x = ones({64, 64}), g = ones({64});
  LazyTensor y = x;
  for (int i = 0; i < 600; ++i) y = y + matmul(rms_norm(y, g), w);
  const std::string text = explain(vjp({y}, {x}, {x}));
  for (const char* own : {" mean [", " mul+mean ["}) EXPECT_EQ(text.find(own), std::string::npos) << own;
}

/// A long row is reduced in parts; what it is computed of is read where it lies.
TEST(Plans, LongRowsAreReadWhereTheyLie) {
  const Tensor x = ones({1 << 18}), two = ones({2 << 18});
  for (const LazyTensor& y :
       {sum(x * 2.0), mean(square(cast(x, DType::bf16) - 1.0)), max(x - slice(two, 0, 1, 2 << 18, 2))}) {
    EXPECT_EQ(steps({y}), 2);
    EXPECT_EQ(explain({y}).find("copy"), std::string::npos) << explain({y});
  }
}

TEST(Plans, TheSamePlanWhoeverRecorded) {
  const Tensor x = ones({4, 8});
  const ComputationGraph a = ComputationGraph::capture({softmax(x * 2.0) + 1.0});
  const ComputationGraph b = ComputationGraph::capture({softmax(x * 3.0) + 5.0});
  const ComputationGraph c = ComputationGraph::capture({softmax(x * 3.0) - 5.0});
  EXPECT_EQ(a.hash(), b.hash());  // slots
  EXPECT_NE(a.hash(), c.hash());
}

}  // namespace
}  // namespace metal_candle
