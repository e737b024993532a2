// Gradients by value, in the places where a rule is easy to get wrong and a finite difference does not reach.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <functional>
#include <limits>

#include "metal_candle/autograd.hpp"
#include "metal_candle/op_def.hpp"
#include "metal_candle/ops.hpp"
#include "tests/support/errors.h"
#include "tests/support/modes.h"

namespace metal_candle {
namespace {

using Doubles = std::vector<double>;

Doubles values(const LazyTensor& t) { return t.eval().to_f64(); }
Doubles grad_at(const std::function<LazyTensor(const LazyTensor&)>& f, std::initializer_list<float> x) {
  const LazyTensor t = Tensor::from(x, {static_cast<std::int64_t>(x.size())});
  return values(grad(f(t), {t})[0]);
}

TEST(Grad, OfAMeanSquare) {
  const LazyTensor w = Tensor::from<float>({1, 2, 3, 4}, {2, 2}), x = Tensor::from<float>({1, -1}, {1, 2});
  const LazyTensor loss = mean(square(matmul(x, w)));  // x·w = [-2, -2]
  EXPECT_EQ(values(grad(loss, {w})[0]), Doubles({-2, -2, 2, 2}));
}

TEST(Grad, TiesShareAndKinksAreFlat) {
  EXPECT_EQ(grad_at([](const LazyTensor& x) { return max(x); }, {1, 3, 3, 2}), Doubles({0, 0.5, 0.5, 0}));
  EXPECT_EQ(grad_at([](const LazyTensor& x) { return min(x); }, {1, 1, 1, 1}), Doubles({0.25, 0.25, 0.25, 0.25}));
  EXPECT_EQ(grad_at([](const LazyTensor& x) { return sum(maximum(x, 0)); }, {-1, 0, 1}), Doubles({0, 0.5, 1}));
  EXPECT_EQ(grad_at([](const LazyTensor& x) { return sum(relu(x)); }, {-1, 0, 1}), Doubles({0, 0, 1}));
  EXPECT_EQ(grad_at([](const LazyTensor& x) { return sum(abs(x)); }, {-2, 0, 2}), Doubles({-1, 0, 1}));
  for (const DType dtype : {DType::f16, DType::bf16}) {
    const Tensor many = Tensor::zeros({70000}, dtype);
    const double share = grad(max(many) * 1000, {many})[0].eval().to_f64()[69999];
    EXPECT_NEAR(share, 1000.0 / 70000, 1e-4);
  }
}

TEST(Grad, OfNegativePowersIsThatOfThePowerAlsoAtZeroAndInfinity) {
  const double inf = std::numeric_limits<double>::infinity();
  const std::initializer_list<float> at = {0, -0.0f, static_cast<float>(inf), static_cast<float>(-inf), 2};
  const auto slope = [&](int exponent) {
    return grad_at([=](const LazyTensor& x) { return sum(powi(x, exponent)); }, at);
  };
  EXPECT_EQ(slope(-1), Doubles({-inf, -inf, 0, 0, -0.25}));
  EXPECT_EQ(slope(-2), Doubles({-inf, inf, 0, 0, -0.25}));
  EXPECT_EQ(slope(-3), Doubles({-inf, -inf, 0, 0, -0.1875}));
  EXPECT_EQ(slope(-4), Doubles({-inf, inf, 0, 0, -0.125}));
}

TEST(Grad, OfLogSumExpWhereAllIsMinusInfinity) {
  const float inf = std::numeric_limits<float>::infinity();
  // exp(-inf - -inf): NaN, and PyTorch's too.
  for (const double g : grad_at([](const LazyTensor& x) { return logsumexp(x); }, {-inf, -inf})) EXPECT_TRUE(g != g);
  EXPECT_EQ(grad_at([](const LazyTensor& x) { return logsumexp(x); }, {-inf, 5}), Doubles({0, 1}));
}

/// As PyTorch's F.cross_entropy has it: an ignored row adds nothing to the loss, whatever its logits; its gradient is 0
/// unless its probabilities are NaN, which they are if a logit is NaN or +inf.
TEST(Grad, OfCrossEntropyInIgnoredRowsThatAreNotFinite) {
  const float inf = std::numeric_limits<float>::infinity(), nan = std::numeric_limits<float>::quiet_NaN();
  const LazyTensor targets = Tensor::from<std::int32_t>({1, -100}, {2});
  for (const float odd : {nan, inf, -inf, 7.0f}) {
    const LazyTensor x = Tensor::from<float>({0.5, 1, 2, odd, 1, 2}, {2, 3});
    const LazyTensor loss = cross_entropy(x, targets);
    const Doubles g = values(grad(loss, {x})[0]);
    EXPECT_NEAR(values(loss)[0], 1.4643688, 1e-6);
    const double counted[] = {0.1402, -0.7688, 0.6285};
    for (std::size_t i = 0; i < 3; ++i) {
      EXPECT_NEAR(g[i], counted[i], 1e-4);
      if (odd == -inf || odd == 7) EXPECT_EQ(g[3 + i], 0) << odd;
      else EXPECT_TRUE(std::isnan(g[3 + i])) << odd;
    }
  }
}

TEST(Grad, AddsUpOverEveryUse) {
  EXPECT_EQ(grad_at([](const LazyTensor& x) { return sum(x * x * x + x); }, {2, -1}), Doubles({13, 4}));
  const LazyTensor table = Tensor::zeros({3, 1});
  const LazyTensor ids = Tensor::from<std::int32_t>({2, 0, 2, -1}, {4});
  EXPECT_EQ(values(grad(sum(take(table, ids)), {table})[0]), Doubles({1, 0, 3}));
}

TEST(Grad, OfASecondOrderAndThroughStopGradient) {
  const LazyTensor x = Tensor::from<float>({2}, {1});
  const LazyTensor dx = grad(sum(pow(x, 4)), {x})[0];
  EXPECT_EQ(values(grad(sum(dx), {x})[0]), Doubles({48}));
  EXPECT_EQ(values(grad(sum(x * stop_gradient(x * 3)), {x})[0]), Doubles({6}));
  EXPECT_EQ(values(stop_gradient(x * 3)), Doubles({6}));
}

TEST(Grad, OfAParameterThatIsAnIntermediate) {
  const LazyTensor x = Tensor::from<float>({3}, {1});
  const LazyTensor y = square(x);
  const auto g = grad(sum(y * 2 + x), {x, y});
  EXPECT_EQ(values(g[0]), Doubles({13}));
  EXPECT_EQ(values(g[1]), Doubles({2}));
}

TEST(Grad, InBf16KeepsItsTypeAndSumsInF32) {
  const LazyTensor w = Tensor::ones({1}, DType::bf16);
  const LazyTensor g = grad(sum(cast(expand(w, {1000}), DType::f32)), {w})[0];
  EXPECT_EQ(g.dtype(), DType::bf16);
  EXPECT_EQ(values(g), Doubles({1000}));  // 256 + 1 is 256 in bf16
}

TEST(Grad, AfterAStepOfEvaluatedParameters) {
  LazyTensor w = Tensor::from<float>({1, 2}, {2});
  for (int step = 0; step < 3; ++step) {
    const LazyTensor g = grad(sum(square(w)), {w})[0];
    w = (w - g * 0.25).eval();
  }
  EXPECT_EQ(values(w), Doubles({0.125, 0.25}));
}

TEST(Grad, OfALostHistoryIsAnErrorAndNotZero) {
  const LazyTensor w = Tensor::from<float>({1, 2}, {2});
  const LazyTensor hidden = exp(w);
  const LazyTensor loss = sum(hidden);
  hidden.eval();
  try {
    grad(loss, {w});
    FAIL() << "nothing was thrown";
  } catch (const UserError& e) {
    EXPECT_NE(std::string(e.what()).find("evaluated before grad"), std::string::npos) << e.what();
  }
  // What it was called is what the error calls it.
  const auto evaluates = [](const ParamTree& p) {
    const LazyTensor hidden = p["layer.w"] * 2;
    hidden.eval();
    return sum(hidden * p["b"]);
  };
  const ParamTree named{{"b", Tensor::ones({2})}, {"layer.w", Tensor::ones({2})}};
  test::expect_in(test::error_of([&] { value_and_grad(evaluates, named); }, ErrorKind::argument),
                  {"\"layer.w\"", "evaluated before grad"});
  // Data that was computed beforehand is no such case: every parameter is found.
  const LazyTensor x = (Tensor::ones({2}) * 2).eval();
  EXPECT_EQ(values(grad(sum(w * x), {w})[0]), Doubles({2, 2}));
  // Nor is a parameter that the loss does not use, with nothing lost on the way.
  EXPECT_EQ(values(grad(sum(w * w), {w, Tensor::ones({1})})[1]), Doubles({0}));
}

/// Within a checkpoint as without one.
TEST(Grad, OfAHistoryThatACheckpointLostIsAnErrorAndNotZero) {
  const LazyTensor x = Tensor::from<float>({0.5, -1, 2}, {3}), w = Tensor::from<float>({3, 1, 2}, {3});
  const auto evaluates = [](const Tensors& in) {
    const LazyTensor z = in[0] * 2;
    z.eval();
    return sum(z * z);
  };
  const auto whole = [](const Tensors& in) { return sum(in[0] * in[0]).eval(); };
  const auto nested = [&](const Tensors& in) { return checkpoint(evaluates, {in[0]}) * 3; };
  const auto deep = [&](const Tensors& in) { return checkpoint(nested, {in[0], in[1]}) + sum(in[1]); };
  const std::function<LazyTensor(const Tensors&)> functions[] = {evaluates, whole, nested, deep};
  for (const auto& f : functions) {
    const std::string what = test::error_of([&] { grad(checkpoint(f, {x, w}), {x}); }, ErrorKind::argument);
    test::expect_in(what, {"parameter 0", "evaluated before grad"});
  }
  EXPECT_EQ(values(grad(checkpoint(deep, {x, w}), {w})[0]), Doubles({1, 1, 1}));
  // Another way is there, as in a function without a checkpoint.
  const auto scaled = [](const Tensors& in) { return sum(tanh(in[0]).eval() * in[0] * in[1]); };
  EXPECT_EQ(values(grad(checkpoint(scaled, {x, w}), {x})[0]), values(grad(scaled({x, w}), {x})[0]));
  // An input that is not used has no gradient, and nothing is lost.
  EXPECT_EQ(values(grad(checkpoint([](const Tensors& in) { return sum(in[0]); }, {x, w}), {w})[0]), Doubles(3, 0));
}

/// The tensor that a program cannot tell from the parameter's own is the one that throws, not every evaluated one.
TEST(Grad, OfAnUnusedParameterIsZeroBesideDataThatWasComputed) {
  const LazyTensor w = Tensor::from<float>({1, 2}, {2}), unused = Tensor::from<float>({3, 4}, {2});
  const LazyTensor drawn = (randn({2}, {.key = Key(1)}) * 0.02f).eval(), raw = Tensor::from<float>({5, 6}, {2});
  const LazyTensor counted = cast(Tensor::arange(0, 2), DType::f32).eval();
  const LazyTensor normal = ((raw - mean(raw)) * rsqrt(var(raw) + 1e-5)).eval();
  const LazyTensor mixed = (drawn * counted).eval();
  for (const LazyTensor& x : {drawn, counted, normal, mixed}) {
    const auto g = grad(sum(w * x), {w, unused});
    EXPECT_EQ(values(g[0]), values(x));
    EXPECT_EQ(values(g[1]), Doubles({0, 0}));
    EXPECT_EQ(values(grad(sum(g[0] * x), {w})[0]), Doubles({0, 0}));  // linear: no second derivative
  }
  // A parameter that was computed, and data that was computed from it.
  const LazyTensor made = (randn({2}, {.key = Key(2)}) * 0.5f).eval(), used = (made * 2).eval();
  EXPECT_EQ(values(grad(sum(w * drawn), {made})[0]), Doubles({0, 0}));
  test::error_of([&] { grad(sum(w * used), {made}); }, ErrorKind::argument);
  EXPECT_EQ(values(grad(sum(w * stop_gradient(used)), {made})[0]), Doubles({0, 0}));
  test::error_of([&] { grad(sum(checkpoint([](const auto& in) { return exp(in[0]); }, {used})), {made}); },
                 ErrorKind::argument);
}

/// Two in three thousand pairs may be mixed up; bits that are drawn badly would mix up many.
TEST(Grad, TellsDataFromData) {
  const LazyTensor w = Tensor::ones({1});
  int mixed_up = 0;
  for (int i = 0; i < 1000; ++i) {
    const LazyTensor x = (Tensor::ones({1}) * Tensor::ones({1})).eval(), p = Tensor::ones({1});
    try {
      grad(sum(w * x), {p});
    } catch (const UserError&) {
      ++mixed_up;
    }
  }
  EXPECT_LE(mixed_up, 1);
}

TEST(Grad, OfANumberIsAnError) {
  const LazyTensor two = scalar(2.0), x = Tensor::ones({3});
  const std::string said = test::error_of([&] { grad(sum(x * two), {x, two}); }, ErrorKind::argument);
  test::expect_in(said, {"grad: ", "parameter 1", "number"});
  test::error_of([&] { vjp({x * two}, {x}, {two}); }, ErrorKind::argument);
}

/// PyTorch's values: with no axis named gradients are infinite, else 2 / (count - correction) however that is signed.
TEST(Grad, OfAVarianceWithoutDegreesOfFreedomIsPyTorchs) {
  const double inf = std::numeric_limits<double>::infinity(), nan = std::numeric_limits<double>::quiet_NaN();
  const auto of = [](const Doubles& given, const Axes& axes, int correction) {
    const LazyTensor x = Tensor::from(given, {static_cast<std::int64_t>(given.size())});
    const LazyTensor v = var(x, axes, false, correction);
    Doubles both = values(grad(v, {x})[0]);
    both.push_back(values(v)[0]);
    return both;
  };
  for (const test::Mode mode : test::kModes) {
    const test::ModeGuard guard(mode);
    const auto are = [](const Doubles& want) {
      std::vector<testing::Matcher<double>> each;
      for (const double x : want) each.push_back(testing::NanSensitiveDoubleEq(x));
      return testing::ElementsAreArray(each);
    };
    EXPECT_THAT(of({1, 2, 6}, {}, 3), are({inf, inf, inf, inf}));
    EXPECT_THAT(of({1, 2, 6}, {}, 5), are({inf, inf, inf, inf}));
    EXPECT_THAT(of({1, 2, 6}, {0}, 3), are({-inf, -inf, inf, inf}));
    EXPECT_THAT(of({1, 2, 6}, {0}, 5), are({2, 1, -3, inf}));
    EXPECT_THAT(of({1, 2, 6}, {0}, 1), are({-2, -1, 3, 7}));
    EXPECT_THAT(of({2, 2, 2}, {}, 3), are({nan, nan, nan, nan}));
    EXPECT_THAT(of({2, 2, 2}, {0}, 3), are({nan, nan, nan, nan}));
    EXPECT_THAT(of({1}, {}, 1), are({nan, nan}));
    EXPECT_THAT(of({1}, {0}, 3), are({0, nan}));
  }
}

TEST(Grad, OfProductsOfHalvesIsComputedInSingle) {
  const LazyTensor x = Tensor::from<float>({3, 0, 1, 2, 100, 100, 5}, {7});
  const LazyTensor half = cast(x, DType::f16).eval();
  EXPECT_EQ(values(grad(sum(prod(half)), {half})[0]), values(cast(grad(sum(prod(x)), {x})[0], DType::f16)));
}

TEST(Grad, OfTheGradientOfLinearCrossEntropyIsThatOfThePlainOne) {
  const LazyTensor targets = Tensor::from<std::int32_t>({2, -100, 0}, {3});
  const LazyTensor x = randn({3, 4}, {.key = Key(1), .dtype = DType::f64}),
                   v = randn({4, 5}, {.key = Key(2), .dtype = DType::f64});
  for (const auto reduction : {Reduction::sum, Reduction::mean}) {
    const CrossEntropyOptions options{.label_smoothing = 0.1, .reduction = reduction};
    const auto twice = [&](const LazyTensor& loss) {
      const auto g = grad(loss, {x, v});
      return grad(sum(square(g[0])) + sum(square(g[1])), {x, v});
    };
    const auto got = twice(linear_cross_entropy(x, v, targets, options));
    const auto want = twice(cross_entropy(matmul(x, v), targets, options));
    for (std::size_t i = 0; i < 2; ++i)
      EXPECT_THAT(values(got[i]), testing::Pointwise(testing::DoubleNear(1e-12), values(want[i])));
  }
}

/// The mean over no rows is 0/0, here as in PyTorch, but its gradient is zero.
TEST(Grad, OfCrossEntropyIsZeroWhereEveryTargetIsIgnored) {
  const LazyTensor targets = Tensor::from<std::int32_t>({-100, -100}, {2});
  for (const test::Mode mode : test::kModes)
    for (const DType dtype : {DType::f32, DType::f64, DType::bf16})
      for (const auto reduction : {Reduction::none, Reduction::mean, Reduction::sum}) {
        const test::ModeGuard guard(mode);
        const LazyTensor x = Tensor::full({2, 3}, 0.5, dtype), w = Tensor::full({3, 4}, 2, dtype);
        const CrossEntropyOptions options{.label_smoothing = 0.1, .reduction = reduction};
        const auto g = grad(sum(linear_cross_entropy(x, w, targets, options)), {x, w});
        const auto twice = grad(sum(g[0]) + sum(g[1]), {x, w});
        EXPECT_EQ(values(g[0]), Doubles(6, 0));
        EXPECT_EQ(values(g[1]), Doubles(12, 0));
        EXPECT_EQ(values(twice[0]), Doubles(6, 0));
        EXPECT_EQ(values(twice[1]), Doubles(12, 0));
        EXPECT_EQ(values(grad(sum(cross_entropy(x, targets, options)), {x})[0]), Doubles(6, 0));
      }
}

TEST(Checkpoint, HasTheValueAndTheGradientOfThePlainFunction) {
  const LazyTensor x = Tensor::from<float>({0.5, -1, 2, 0.25}, {2, 2}),
                   w = Tensor::from<float>({1, -2, 0.5, 3}, {2, 2});
  const auto f = [&](const std::vector<LazyTensor>& in) {
    LazyTensor h = in[0];
    for (int i = 0; i < 3; ++i) h = tanh(matmul(h, w) * 0.5);
    return h;
  };
  const LazyTensor plain = sum(square(f({x}))), checked = sum(square(checkpoint(f, {x})));
  const auto a = grad(plain, {x, w}), b = grad(checked, {x, w});
  EXPECT_EQ(values(plain), values(checked));
  EXPECT_EQ(values(a[0]), values(b[0]));
  EXPECT_EQ(values(a[1]), values(b[1]));
}

/// Of a second derivative alone, a gradient that the inside of a checkpoint waits for need not be read.
TEST(Checkpoint, WaitsForWhatNobodyElseReads) {
  const Tensor x = Tensor::randn({4, 6}, {.key = Key(1)}), w = Tensor::randn({6, 6}, {.key = Key(2)});
  const Tensor scale = Tensor::randn({6}, {.key = Key(3)}), c = Tensor::randn({4, 6}, {.key = Key(4)});
  const auto second = [&](bool kept) {
    const auto call = [kept](const auto& f, const Tensors& in) { return kept ? f(in) : checkpoint(f, in); };
    const auto norm = [](const Tensors& in) { return rms_norm(in[0], in[1]) * sigmoid(in[0]); };
    const auto chosen = [](const Tensors& in) { return in[0] * cast(max(in[1], {1}, true), DType::f32) * 0.2; };
    const auto twice = [&](const Tensors& in) {
      const auto once = [&](const LazyTensor& y) { return call(chosen, {y, cast(abs(y) * 1000, DType::i64)}); };
      return once(once(in[0]));
    };
    const LazyTensor h = tanh(matmul(dropout(call(norm, {x, scale}), 0.3, Key(5)), w));
    const LazyTensor y = tanh(matmul(call(twice, {h}), w));
    return vjp({vjp({y}, {c}, {x})[0]}, {c}, {w})[0].eval().to_f64();
  };
  const Doubles want = second(true), got = second(false);
  for (std::size_t i = 0; i < want.size(); ++i) EXPECT_NEAR(got[i], want[i], 1e-4 * std::abs(want[i]) + 1e-4) << i;
}

TEST(Checkpoint, DrawsTheSameRandomNumbersAgain) {
  const LazyTensor x = Tensor::ones({64});
  const auto f = [](const std::vector<LazyTensor>& in) { return dropout(in[0] * in[0], 0.5, Key(3)); };
  const LazyTensor y = checkpoint(f, {x});
  const LazyTensor g = grad(sum(y), {x})[0];
  const Doubles slopes = values(g), kept = values(y);
  double dropped = 0;
  for (std::size_t i = 0; i < kept.size(); ++i) {
    EXPECT_EQ(slopes[i], 2 * kept[i]);
    dropped += kept[i] == 0;
  }
  EXPECT_GT(dropped, 10);
  EXPECT_LT(dropped, 54);
}

/// Each query sees its own key alone, as far as its type can tell: the gradient of v is that of y. Scores are so large
/// that two orders of one sum differ by more than an exponent forgives.
TEST(Grad, OfAttentionWhoseScoresAreLarge) {
  for (DType type : {DType::f32, DType::bf16})
    for (double scale : {300.0, 5000.0}) {
      SCOPED_TRACE(scale);
      const LazyTensor x = cast(cast(randn({8, 2, 32}, {.key = Key(3)}) * scale, DType::bf16), type).eval();
      const LazyTensor v = -x;
      const double whole = 1.0 / (8 * 2 * 32);
      for (double slope : values(grad(mean(cast(attention(x, x, v), DType::f32)), {v})[0])) {
        EXPECT_GE(slope, 0);
        EXPECT_LE(slope, whole * 1.0001);
      }
    }
}

TEST(ValueAndGrad, SaysWhatIsEmpty) {
  const ParamTree p{{"w", Tensor::from<float>({2}, {1})}};
  test::expect_in(test::error_of([&] { value_and_grad(nullptr, p); }, ErrorKind::argument), {"the function is empty"});
  const auto nothing = [](const Tensors&) { return LazyTensor(); };
  test::expect_in(test::error_of([&] { checkpoint(nothing, {p["w"]}); }, ErrorKind::argument),
                  {"checkpoint", "the function's result"});
}

TEST(ValueAndGrad, GivesBothForATree) {
  const ParamTree p{{"w", Tensor::from<float>({2}, {1})}, {"b", Tensor::from<float>({1}, {1})}};
  const auto [loss, g] = value_and_grad([](const ParamTree& q) { return sum(q["w"] * q["w"] + q["b"]); }, p);
  EXPECT_EQ(values(loss), Doubles({5}));
  EXPECT_EQ(values(g["w"]), Doubles({4}));
  EXPECT_EQ(values(g["b"]), Doubles({1}));
}

}  // namespace
}  // namespace metal_candle
