// AdamW, clipping and schedules against PyTorch and transformers (fixtures/make_training_fixtures.py).
#include "metal_candle/optimizer.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <fstream>
#include <limits>
#include <sstream>

#include "metal_candle/metal_candle.hpp"
#include "tests/runtime/probe.h"

namespace metal_candle {
namespace {

std::vector<std::vector<std::string>> fixture(const std::string& kind) {
  std::ifstream file(std::string(METAL_CANDLE_TESTS_DIR) + "/fixtures/training/optimizer.txt");
  EXPECT_TRUE(file.is_open());
  std::vector<std::vector<std::string>> lines;
  for (std::string line; std::getline(file, line);) {
    std::istringstream words(line);
    std::vector<std::string> split{std::istream_iterator<std::string>(words), {}};
    if (split.at(0) == kind) lines.push_back(split);
  }
  return lines;
}

Tensor parameter(int n, int k) {
  std::vector<double> v;
  for (int i = 0; i < n; ++i) v.push_back(std::sin(i + 1 + 10 * k));
  return Tensor::from(v, {n});
}
Tensor gradient(int n, int k, int step) {
  std::vector<double> v;
  for (int i = 0; i < n; ++i) v.push_back((1 + step % 3) * std::cos(0.7 * i + step + k));
  return Tensor::from(v, {n});
}

struct Problem {
  ParamTree p{{"a", parameter(6, 0)}, {"b", parameter(9, 1)}};
  AdamWState state;
  DType dtype;

  explicit Problem(DType type) : dtype(type) {
    for (auto& [path, t] : p) t = cast(t, type).eval();
    state = adamw_state(p);
  }
  ParamTree gradients(int step) const {
    return {{"a", cast(gradient(6, 0, step), dtype)}, {"b", cast(gradient(9, 1, step), dtype)}};
  }
  double step(int s, const LazyTensor& apply = {}) {
    const Clipped c = clip_by_global_norm(gradients(s), 2.5);
    const AdamWStep next = adamw(
        p, c.gradients, state,
        {.learning_rate = 0.1 / (1 + s), .beta1 = 0.8, .beta2 = 0.95, .epsilon = 1e-6, .weight_decay = 0.3}, apply);
    const AsyncRun run = eval_async({.roots = next.roots({c.norm}), .donate = state.tensors_with(p)});
    p = next.parameters;
    state = next.state;
    return run.get<float>(c.norm);
  }
};

void compare_with_pytorch(DType dtype, double bound) {
  Problem problem(dtype);
  const auto norms = fixture("norm"), parameters = fixture("parameter");
  ASSERT_EQ(norms.size(), 12u);
  for (std::size_t s = 0; s < norms.size(); ++s) {
    EXPECT_NEAR(problem.step(static_cast<int>(s)), std::stod(norms[s].at(2)), 1e-5);
    for (std::size_t k = 0; k < 2; ++k) {
      const auto& line = parameters.at(2 * s + k);
      const std::vector<double> got = Tensor(problem.p[k == 0 ? "a" : "b"]).to_f64();
      ASSERT_EQ(got.size(), line.size() - 3);
      for (std::size_t i = 0; i < got.size(); ++i) EXPECT_NEAR(got[i], std::stod(line[i + 3]), bound) << "step " << s;
    }
  }
}

TEST(AdamW, IsPyTorchsInF32) { compare_with_pytorch(DType::f32, 2e-6); }
TEST(AdamW, IsPyTorchsInF64) { compare_with_pytorch(DType::f64, 1e-6); }  // the norm and its factor are f32

TEST(AdamW, StepsReplayOnePlan) {
  Problem problem(DType::f32);
  problem.step(0);
  problem.step(1);
  const test::Counted counted;
  for (int s = 2; s < 6; ++s) problem.step(s);
  EXPECT_EQ(counted.compiled(), 0u);
  EXPECT_EQ(counted.replays(), 4u);
}

TEST(AdamW, AStepThatIsNotAppliedLeavesEveryBit) {
  Problem problem(DType::f32);
  problem.step(0);
  std::vector<std::vector<float>> before;
  for (const LazyTensor& t : problem.state.tensors_with(problem.p)) before.push_back(Tensor(t).to_vector<float>());
  const Tensor bad = Tensor::scalar(std::numeric_limits<float>::quiet_NaN());
  problem.step(1, equal(bad, bad));
  std::size_t i = 0;
  for (const LazyTensor& t : problem.state.tensors_with(problem.p))
    EXPECT_EQ(Tensor(t).to_vector<float>(), before[i++]);
}

TEST(AdamW, HalfParametersHaveMomentsInF32) {
  ParamTree p{{"w", Tensor::ones({4}, DType::bf16)}};
  const AdamWState state = adamw_state(p);
  EXPECT_EQ(state.first["w"].dtype(), DType::f32);
  const AdamWStep next =
      adamw(p, {{"w", Tensor::ones({4}, DType::bf16)}}, state, {.learning_rate = 0.5, .weight_decay = 0});
  eval(next.roots());
  EXPECT_EQ(next.parameters["w"].dtype(), DType::bf16);
  EXPECT_NEAR(Tensor(next.parameters["w"]).to_f64()[0], 0.5, 0.004);
}

TEST(AdamW, SaysWhatDoesNotFit) {
  const ParamTree p{{"w", Tensor::ones({4})}};
  const AdamWState state = adamw_state(p);
  EXPECT_THROW(adamw(p, {{"v", Tensor::ones({4})}}, state), UserError);
  EXPECT_THROW(adamw(p, {{"w", Tensor::ones({5})}}, state), UserError);
  EXPECT_THROW(adamw(p, {}, state), UserError);
  EXPECT_THROW(adamw(p, p, state, {.learning_rate = -1}), UserError);
  EXPECT_THROW(adamw(p, p, state, {.beta2 = 1}), UserError);
  EXPECT_THROW(adamw(p, p, state, {}, Tensor::ones({})), UserError);
  EXPECT_THROW(adamw(p, p, state, {}, Tensor::ones({4}, DType::boolean)), UserError);
  EXPECT_THROW(adamw(p, {{"w", Tensor::ones({4}, DType::i32)}}, state), UserError);
  EXPECT_THROW(adamw_state({{"w", Tensor::ones({4}, DType::i32)}}), UserError);
  EXPECT_THROW(clip_by_global_norm(p, std::numeric_limits<double>::quiet_NaN()), UserError);
}

TEST(Clipping, WithinTheNormNothingChanges) {
  const ParamTree g{{"a", Tensor::from<float>({0.3f, 0.4f}, {2})}};
  const Clipped c = clip_by_global_norm(g, 1.0);
  EXPECT_EQ(c.gradients["a"].eval().to_vector<float>(), (std::vector<float>{0.3f, 0.4f}));
  EXPECT_FLOAT_EQ(c.norm.eval().item<float>(), 0.5f);
  EXPECT_FLOAT_EQ(global_norm({}).eval().item<float>(), 0.0f);
}

TEST(Schedules, AreThoseOfTransformers) {
  const auto lines = fixture("schedule");
  ASSERT_EQ(lines.size(), 15u);
  for (const auto& line : lines) {
    const Schedule s{schedule_kind(line[1]), 3.0, std::stoll(line[2]), std::stoll(line[3])};
    for (std::size_t i = 4; i < line.size(); ++i)
      EXPECT_NEAR(s.at(static_cast<std::int64_t>(i) - 4), 3.0 * std::stod(line[i]), 1e-12)
          << line[1] << " " << line[2] << " of " << line[3] << ", step " << i - 4;
  }
  EXPECT_THROW(schedule_kind("polynomial"), UserError);
  EXPECT_EQ(name_of(schedule_kind("cosine")), "cosine");
}

}  // namespace
}  // namespace metal_candle
