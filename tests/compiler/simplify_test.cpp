// The local rules: values with and without them, for what tempts a rule to be too bold. -0, NaN and infinities; integers
// that wrap; types that a cast cannot go through unharmed.
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <functional>
#include <limits>
#include <map>
#include <sstream>
#include <string>
#include <vector>

#include "metal_candle/metal_candle.hpp"

namespace mc = metal_candle;

namespace {

using Program = std::function<mc::LazyTensor(const mc::Tensor&)>;

/// Equal bits with every pass and with none; a NaN counts as a NaN.
template <class T>
void same_without_rules(const std::vector<T>& values, const std::string& what, const Program& program) {
  const mc::Tensor x = mc::Tensor::from(values, {static_cast<std::int64_t>(values.size())});
  const mc::Tensor with = program(x).eval();
  const mc::PassesOff off;
  const mc::Tensor without = program(x).eval();
  ASSERT_EQ(with.dtype(), without.dtype()) << what;
  ASSERT_EQ(with.shape(), without.shape()) << what;
  if (!mc::is_float(with.dtype())) {
    EXPECT_EQ(mc::cast(with, mc::DType::i64).eval().to_vector<std::int64_t>(),
              mc::cast(without, mc::DType::i64).eval().to_vector<std::int64_t>())
        << what;
    return;
  }
  const std::vector<double> a = with.to_f64(), b = without.to_f64();
  for (std::size_t i = 0; i < a.size(); ++i) {
    const bool same = std::isnan(a[i]) ? std::isnan(b[i]) : std::memcmp(&a[i], &b[i], sizeof(double)) == 0;
    EXPECT_TRUE(same) << what << " at " << i << ": " << a[i] << " with the rules, " << b[i] << " without";
  }
}

const std::vector<std::pair<std::string, Program>>& programs() {
  static const std::vector<std::pair<std::string, Program>> kPrograms = {
      {"x*1", [](const mc::Tensor& x) { return x * 1; }},
      {"1*x", [](const mc::Tensor& x) { return 1 * x; }},
      {"x-0", [](const mc::Tensor& x) { return x - 0; }},
      {"x+0", [](const mc::Tensor& x) { return x + 0; }},
      {"0-x", [](const mc::Tensor& x) { return 0 - x; }},
      {"x/1", [](const mc::Tensor& x) { return x / 1; }},
      {"x*0", [](const mc::Tensor& x) { return x * 0; }},
      {"abs(abs(x))", [](const mc::Tensor& x) { return mc::abs(mc::abs(x)); }},
      {"abs(-x)", [](const mc::Tensor& x) { return mc::abs(-mc::LazyTensor(x)); }},
      {"-(-x)", [](const mc::Tensor& x) { return -(-mc::LazyTensor(x)); }},
      {"relu(relu(x))", [](const mc::Tensor& x) { return mc::relu(mc::relu(x)); }},
      {"sum of one",
       [](const mc::Tensor& x) {
         return mc::sum(mc::reshape(x, {-1, 1}), {1});
       }},
      {"through f32", [](const mc::Tensor& x) { return mc::cast(mc::cast(x, mc::DType::f32), x.dtype()); }},
      {"through f64", [](const mc::Tensor& x) { return mc::cast(mc::cast(x, mc::DType::f64), x.dtype()); }},
  };
  return kPrograms;
}

template <class T>
void all_programs(const std::vector<T>& values) {
  for (const auto& [what, program] : programs()) same_without_rules(values, what, program);
}

constexpr double kInf = std::numeric_limits<double>::infinity();

TEST(Simplify, FloatsKeepZerosInfinitiesAndNaN) {
  all_programs<float>({0.0f, -0.0f, 1.5f, -2.5f, 1e-45f, 3e38f, float(kInf), float(-kInf), std::nanf("")});
  all_programs<double>({0.0, -0.0, 1.5, -0.1, 1e300, 5e-324, kInf, -kInf, std::nan("")});
}

TEST(Simplify, IntegersAsTheyWrap) {
  all_programs<std::int32_t>(
      {0, 5, -7, 16'777'217, std::numeric_limits<std::int32_t>::max(), std::numeric_limits<std::int32_t>::min() + 1});
  all_programs<std::int64_t>({0, 5, -7, (std::int64_t{1} << 53) + 1, std::numeric_limits<std::int64_t>::max()});
}

/// Each step's op, as explain names it: one op a step where nothing is fused.
std::vector<std::string> steps_of(const Program& program, const mc::Tensor& x, bool with_rules) {
  const mc::PassesOff off(with_rules ? std::vector<std::string>{"fuse"} : std::vector<std::string>{"fuse", "simplify"});
  std::vector<std::string> names;
  std::istringstream text(mc::explain({program(x)}));
  for (std::string line; std::getline(text, line);) {
    std::istringstream words(line);
    int number = 0;
    if (std::string name; line.starts_with("  ") && words >> number >> name) names.push_back(name);
  }
  return names;
}

/// Equal values do not show that a rule applied; what is left of the program does.
TEST(Simplify, RulesLeaveNothingToDoTwice) {
  using Steps = std::vector<std::string>;
  const std::map<std::string, Steps> left = {
      {"abs(abs(x))", {"abs"}}, {"-(-x)", {}}, {"relu(relu(x))", {"relu"}}, {"sum of one", {}}, {"through f64", {}}};
  const mc::Tensor x = mc::Tensor::from<float>({1, -2, 3}, {3});
  std::size_t seen = 0;
  for (const auto& [what, program] : programs()) {
    const auto want = left.find(what);
    if (want == left.end()) continue;
    ++seen;
    EXPECT_EQ(steps_of(program, x, true), want->second) << what;
    if (what == "sum of one") continue;  // a view: never a step
    EXPECT_NE(steps_of(program, x, false), want->second) << what << ", without the rules";
  }
  EXPECT_EQ(seen, left.size());
}

}  // namespace
