// The sampler alone, on logits whose distribution is known.
#include "inference/sampler.h"

#include <gtest/gtest.h>

#include <cmath>
#include <random>

namespace metal_candle::inference {
namespace {

using Values = std::vector<double>;

double log_total(const std::vector<float>& logits, double temperature) {
  double sum = 0;
  for (const float l : logits) sum += std::exp(static_cast<double>(l) / temperature);
  return std::log(sum);
}

/// How often each token is drawn as the first of many prompts.
Values frequencies(const SamplingOptions& base, const std::vector<float>& logits, int draws = 40000) {
  Values count(logits.size());
  const double total = log_total(logits, base.temperature);
  const std::int32_t prompt[] = {0, 1};
  for (int i = 0; i < draws; ++i) {
    SamplingOptions o = base;
    o.seed = static_cast<std::uint64_t>(i);
    ++count[static_cast<std::size_t>(Sampler(o, prompt).choose(logits, total))];
  }
  for (double& c : count) c /= draws;
  return count;
}

void expect_near(const Values& got, const Values& want) {
  ASSERT_EQ(got.size(), want.size());
  for (std::size_t i = 0; i < got.size(); ++i) {
    EXPECT_NEAR(got[i], want[i], 5 * std::sqrt(want[i] / 40000)) << i;  // none at all where there is no likelihood
  }
}

Values normalised(Values p) {
  double sum = 0;
  for (const double x : p) sum += x;
  for (double& x : p) x /= sum;
  return p;
}

std::vector<float> logits_of(const Values& probabilities) {
  std::vector<float> l;
  for (const double p : probabilities) l.push_back(static_cast<float>(std::log(p) + 2));
  return l;
}

SamplingOptions at(double temperature) {
  SamplingOptions o;
  o.temperature = temperature;
  return o;
}

const Values kP = {0.05, 0.3, 0.1, 0.25, 0.02, 0.28};

TEST(Sampler, DrawsFromTheDistribution) {
  expect_near(frequencies(at(1), logits_of(kP)), kP);
  Values squared;
  for (const double p : kP) squared.push_back(p * p);
  expect_near(frequencies(at(0.5), logits_of(kP)), normalised(squared));
}

TEST(Sampler, DrawsFromTheTail) {  // most of the mass lies far below the best logit
  std::vector<float> logits(60000, -14.0f);
  logits[777] = 0;
  const double tail = 59999 * std::exp(-14.0), first = 1 / (1 + tail);
  const Values f = frequencies(at(1), logits, 2000);
  EXPECT_NEAR(f[777], first, 0.03);
}

TEST(Sampler, TopK) {
  SamplingOptions o = at(1);
  o.top_k = 3;
  expect_near(frequencies(o, logits_of(kP)), normalised({0, 0.3, 0, 0.25, 0, 0.28}));
  o.top_k = 100;
  expect_near(frequencies(o, logits_of(kP)), kP);
  o.top_k = 2;  // equal logits: the first ones
  expect_near(frequencies(o, {1, 1, 1, 1}), {0.5, 0.5, 0, 0});
}

TEST(Sampler, TopP) {
  SamplingOptions o = at(1);
  o.top_p = 0.57;  // 0.3 and 0.28 reach it
  expect_near(frequencies(o, logits_of(kP)), normalised({0, 0.3, 0, 0, 0, 0.28}));
  o.top_p = 0.59;
  expect_near(frequencies(o, logits_of(kP)), normalised({0, 0.3, 0, 0.25, 0, 0.28}));
  o.top_p = 1e-9;
  expect_near(frequencies(o, logits_of(kP)), {0, 1, 0, 0, 0, 0});
  o.top_p = 0;  // as transformers: one is always left
  expect_near(frequencies(o, logits_of(kP)), {0, 1, 0, 0, 0, 0});
  o.top_p = 0.5;
  o.top_k = 3;  // of those three, 0.3/0.83 and 0.28/0.83
  expect_near(frequencies(o, logits_of(kP)), normalised({0, 0.3, 0, 0, 0, 0.28}));
}

TEST(Sampler, MinP) {
  SamplingOptions o = at(1);
  o.min_p = 0.5;
  expect_near(frequencies(o, logits_of(kP)), normalised({0, 0.3, 0, 0.25, 0, 0.28}));
  o.min_p = 1;
  expect_near(frequencies(o, logits_of(kP)), {0, 1, 0, 0, 0, 0});
  o.min_p = 0.3;
  o.top_p = 0.8;
  expect_near(frequencies(o, logits_of(kP)), normalised({0, 0.3, 0, 0.25, 0, 0.28}));
}

TEST(Sampler, TruncationOfALargeVocabularyIsThatOfASort) {
  std::mt19937 engine(3);
  std::normal_distribution<float> normal(0, 3);
  std::vector<float> logits(5000);
  for (float& l : logits) l = normal(engine);
  std::vector<std::size_t> order(logits.size());
  for (std::size_t i = 0; i < order.size(); ++i) order[i] = i;
  std::sort(order.begin(), order.end(), [&](auto a, auto b) { return logits[a] > logits[b]; });
  SamplingOptions o = at(1.3);
  o.top_k = 700;
  o.top_p = 0.9;
  const Values f = frequencies(o, logits, 5000);
  double total = 0, reached = 0;
  for (int i = 0; i < 700; ++i) total += std::exp(logits[order[static_cast<std::size_t>(i)]] / 1.3);
  std::size_t n = 0;
  while (reached < 0.9 * total) reached += std::exp(logits[order[n++]] / 1.3);
  for (std::size_t i = 0; i < order.size(); ++i) EXPECT_TRUE(f[order[i]] == 0 || i < n) << i;
  EXPECT_NEAR(f[order[0]], std::exp(logits[order[0]] / 1.3) / reached, 0.03);
}

TEST(Sampler, Penalties) {
  SamplingOptions o = at(1);
  o.repetition_penalty = 2;  // the prompt is {0, 1}
  const std::vector<float> logits = {1, -1, 0.5, 0};
  const Values want = normalised({std::exp(0.5), std::exp(-2), std::exp(0.5), 1});
  expect_near(frequencies(o, logits), want);

  SamplingOptions counted = at(0);
  counted.presence_penalty = 0.5;
  counted.frequency_penalty = 0.25;
  const std::int32_t prompt[] = {0};
  Sampler s(counted, prompt);
  EXPECT_FALSE(s.takes_best());
  // Token 0 loses 0.75 at first, 0.25 a time after that; the prompt does not count.
  const std::vector<float> two = {1, 0.2f};
  std::vector<std::int32_t> got;
  for (int i = 0; i < 4; ++i) got.push_back(s.choose(two, log_total(two, 1)));
  EXPECT_EQ(got, (std::vector<std::int32_t>{0, 0, 1, 0}));  // 1; 0.25 > 0.2; 0 < 0.2; 0 > -0.55
}

TEST(Sampler, Biases) {
  SamplingOptions o = at(1);
  o.logit_bias = {{1, -INFINITY}, {4, std::log(5.0)}};
  expect_near(frequencies(o, logits_of(kP)), normalised({0.05, 0, 0.1, 0.25, 0.1, 0.28}));
  // Nearly everything is forbidden: what is left is still a distribution.
  std::vector<float> sharp = {30, 1, 0};
  SamplingOptions f = at(1);
  f.logit_bias = {{0, -INFINITY}};
  expect_near(frequencies(f, sharp), normalised({0, std::exp(1.0), 1}));
  // Penalties see logits with their biases, as in transformers: (-1 + 3) / 2 and (0.5 - 1) * 2 of the prompt {0, 1}.
  SamplingOptions both = at(1);
  both.repetition_penalty = 2;
  both.logit_bias = {{0, 3}, {1, -1}};
  expect_near(frequencies(both, {-1, 0.5, 0}), normalised({std::exp(1.0), std::exp(-1.0), 1}));
}

TEST(Sampler, LogitsFarAboveThoseOfTheModel) {
  const std::vector<float> logits = {1, -1, 0.5, 0};
  SamplingOptions o = at(0.1);
  o.logit_bias = {{0, 99}, {1, 101}, {2, 99.4}};  // 100, 100, 99.9
  const Values want = normalised({1, 1, std::exp(-1), 0});
  expect_near(frequencies(o, logits), want);
  o.logit_bias = {{0, 1e30}, {1, 1e30}, {2, 3.3e38}, {3, 3.4e38}};
  expect_near(frequencies(o, logits), {0, 0, 0, 1});
  for (const auto& [k, p, min_p] : {std::tuple(3, 1.0, 0.0), {0, 0.99, 0.0}, {0, 1.0, 0.01}}) {
    SamplingOptions cut = at(0.1);
    cut.top_k = k, cut.top_p = p, cut.min_p = min_p;
    cut.logit_bias = {{0, 99}, {1, 101}, {2, 99.4}};
    expect_near(frequencies(cut, logits), want);
  }
  SamplingOptions back = at(1);  // the prompt is {0, 1}: the bias makes 40 of the 1, the penalty takes it back
  back.repetition_penalty = 40;
  back.logit_bias = {{0, 39}, {1, 0.975}};
  expect_near(frequencies(back, logits), normalised({std::exp(1.0), std::exp(-1.0), std::exp(0.5), 1}));
}

TEST(Sampler, GreedyLooksAtNothing) {
  const std::int32_t prompt[] = {0};
  EXPECT_TRUE(Sampler(at(0), prompt).takes_best());
  EXPECT_FALSE(Sampler(at(0.1), prompt).takes_best());
}

TEST(Sampler, PositionsDrawDifferently) {
  const std::vector<float> flat(64, 0.0f);
  const std::int32_t prompt[] = {5};
  SamplingOptions o = at(1);
  const double total = log_total(flat, 1);
  Sampler a(o, prompt), b(o, prompt);
  std::vector<std::int32_t> first, second;
  for (int i = 0; i < 20; ++i) first.push_back(a.choose(flat, total)), second.push_back(b.choose(flat, total));
  EXPECT_EQ(first, second);
  std::sort(first.begin(), first.end());
  EXPECT_GT(std::unique(first.begin(), first.end()) - first.begin(), 10);
}

}  // namespace
}  // namespace metal_candle::inference
