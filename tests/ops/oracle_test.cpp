// Every op against PyTorch's results in f64: values and gradients, special values and ties, in each float type and in
// every way of evaluating. Inputs are exact in all types, so the bounds measure the computation alone.
#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest-spi.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "metal_candle/autograd.hpp"
#include "metal_candle/elementwise.hpp"
#include "metal_candle/ops.hpp"
#include "tests/ops/fixture.h"
#include "tests/ops/oracle_calls.h"
#include "tests/support/modes.h"
#include "tests/support/samples.h"

namespace metal_candle::test {
namespace {

struct Precision {
  double eps, half_eps, largest, smallest;  // of computing; of a 16-bit result; the range of the type
};
Precision precision_of(DType dtype) {
  constexpr double single = 0x1p-23;
  switch (dtype) {
    case DType::f64: return {0x1p-52, 0, std::numeric_limits<double>::max(), 0x1p-1022};
    case DType::f32: return {single, 0, 0x1.fffffep127, 0x1p-126};
    case DType::bf16: return {single, 0x1p-7, 0x1.fep127, 0x1p-126};
    default: return {single, 0x1p-10, 65504, 0x1p-24};
  }
}

bool holds(DType dtype, double v) {
  if (dtype == DType::f64 || v != v || std::isinf(v)) return true;
  if (dtype == DType::f16) return static_cast<double>(static_cast<float>(f16(static_cast<float>(v)))) == v;
  const auto single = static_cast<float>(v);
  return single == v && (dtype == DType::f32 || static_cast<float>(bf16(single)) == single);
}

DType type_of(const std::string& text, DType real) {
  if (text == "real") return real;
  if (text == "wide") return real == DType::f64 ? DType::f64 : DType::f32;
  for (int d = 0; d < kDTypeCount; ++d)
    if (name(static_cast<DType>(d)) == text) return static_cast<DType>(d);
  throw std::runtime_error("no type " + text);
}

double largest_finite(const Values& values) {
  double top = 0;
  for (const double v : values)
    if (std::isfinite(v)) top = std::max(top, std::abs(v));
  return top;
}

bool close(double got, double want, const Bound& b, const Precision& p, double norm) {
  if (want != want) return got != got;
  if (std::isinf(want)) return got == want;
  const double relative = b.relative + (want == 0 ? 0 : b.tail * std::abs(std::log(std::abs(want))));
  const double allowed = p.eps * (relative * std::abs(want) + b.absolute) +
                         p.half_eps * (b.half * std::abs(want) + b.half_norm * norm) + p.smallest;
  if (std::isinf(got)) return std::signbit(got) == std::signbit(want) && std::abs(want) + allowed >= p.largest;
  return std::abs(got - want) <= allowed;
}

/// `norm`: the size of what came in, where that is more than the size of the result; `skip[i]`: the type cannot hold
/// what element i is computed from.
void compare(const Tensor& got, const Case::Array& want, DType dtype, const Bound& bound, DType real, double norm,
             const std::vector<bool>& skip, const std::string& what, const Case& c) {
  ASSERT_EQ(got.dtype(), dtype) << what;
  ASSERT_EQ(got.shape(), want.shape) << what << ": " << got.shape().str();
  const Values values = got.to_f64();
  // A 32-bit result of 16-bit inputs may have come through 16-bit values.
  Precision p = precision_of(is_float(dtype) ? dtype : real);
  p.half_eps = precision_of(real).half_eps;
  norm = std::max(norm, largest_finite(want.values));
  constexpr int kShown = 3;
  int wrong = 0;
  std::string wrongs;
  for (std::size_t i = 0; i < values.size(); ++i) {
    if (i < skip.size() && skip[i]) continue;
    const bool good = is_float(dtype) ? close(values[i], want.values[i], bound, p, norm) : values[i] == want.values[i];
    if (good || ++wrong > kShown) continue;
    wrongs += fmt::format("  [{}] is {}, not {}\n", i, values[i], want.values[i]);
    if (!c.pointwise) continue;
    for (const Case::Array& in : c.inputs) wrongs += fmt::format("    {} is {} there\n", in.name, in.values[i]);
  }
  if (wrong > kShown) wrongs += fmt::format("  and {} more\n", wrong - kShown);
  if (wrong > 0) ADD_FAILURE() << what << " of\n" << c.given() << "differs:\n" << wrongs;
}

void check(const Case& c, DType real) {
  std::vector<bool> skip;
  Arguments arguments{c, {}};
  for (const Case::Array& in : c.inputs) {
    const DType dtype = type_of(in.type, real);
    if (c.pointwise && skip.empty()) skip.resize(in.values.size());
    for (std::size_t i = 0; i < in.values.size(); ++i) {
      if (in.type != "real" || holds(dtype, in.values[i])) continue;
      ASSERT_TRUE(c.pointwise) << c.where() << ": input " << in.values[i] << " is not exact in " << name(dtype);
      skip[i] = true;
    }
    arguments.inputs[in.name] = tensor_of(in.values, in.shape, dtype);
  }
  const auto& call = oracle_calls().find(c.op);
  ASSERT_NE(call, oracle_calls().end()) << c.where() << ": nobody knows how to call it";
  const std::string what = c.where() + " in " + std::string(name(real));

  std::vector<LazyTensor> outputs = call->second(arguments), wanted, roots = outputs;
  for (const Case::Array& g : c.grads) wanted.push_back(arguments[g.name]);
  if (c.has_seed) {
    const LazyTensor seed = tensor_of(c.seed.values, c.seed.shape, outputs[0].dtype());
    for (const LazyTensor& g : vjp({outputs[0]}, {seed}, wanted)) roots.push_back(g);
  }
  eval(roots);
  ASSERT_EQ(outputs.size(), c.outputs.size()) << what << " of\n" << c.given();
  for (std::size_t i = 0; i < outputs.size(); ++i)
    compare(Tensor(roots[i]), c.outputs[i], type_of(c.outputs[i].type, real), c.bound, real, 0, skip, what, c);
  for (std::size_t i = 0; i < c.grads.size(); ++i)
    compare(Tensor(roots[outputs.size() + i]), c.grads[i], real, c.grad_bound, real, largest_finite(c.seed.values),
            skip, what + ", gradient of " + c.grads[i].name, c);
}

class Oracle : public testing::TestWithParam<std::tuple<std::string, DType, Mode>> {};

TEST_P(Oracle, ValuesAndGradients) {
  const auto& [file, real, mode] = GetParam();
  const ModeGuard guard(mode);
  for (const Case& c : read_cases(file)) {
    if (!c.only.empty() && c.only != name(real)) continue;
    try {
      check(c, real);
    } catch (const std::exception& e) {
      ADD_FAILURE() << c.where() << " in " << name(real) << ": " << e.what() << "\nof\n" << c.given();
    }
  }
}

INSTANTIATE_TEST_SUITE_P(
    Ops, Oracle,
    testing::Combine(testing::Values("elementwise", "reductions", "rows", "products", "places", "attention"),
                     testing::Values(DType::f32, DType::f64, DType::bf16, DType::f16), testing::ValuesIn(kModes)),
    [](const auto& p) {
      return std::get<0>(p.param) + "_" + std::string(name(std::get<1>(p.param))) + "_" +
             mode_name(std::get<2>(p.param));
    });

TEST(OracleFixtures, AFailureNamesTheFileAndShowsTheInputs) {
  Case c = read_cases("rows").front();
  c.outputs[0].values[0] += 1;
  const auto failed = [&](const char* part) {
    testing::TestPartResultArray failures;
    {
      const testing::ScopedFakeTestPartResultReporter caught(
          testing::ScopedFakeTestPartResultReporter::INTERCEPT_ONLY_CURRENT_THREAD, &failures);
      check(c, DType::f32);
    }
    ASSERT_EQ(failures.size(), 1);
    EXPECT_THAT(failures.GetTestPartResult(0).message(), testing::HasSubstr(part));
  };
  failed("tests/fixtures/ops/rows.txt:2: softmax in f32");
  failed("\n  axis = 0\n");
  failed("\n  x = real[4]: 3.140625 1.9140625 0.76953125 -1.0703125\n");
  failed("\n  cotangent = [4]: 0.3671875");
  failed("\n  [0] is 0.7135");
}

TEST(OracleFixtures, CoverEveryElementwiseOp) {
  std::map<std::string, int> seen;
  for (const Case& c : read_cases("elementwise")) ++seen[c.op];
  for (int op = 0; op < static_cast<int>(Elementwise::kCount); ++op)
    EXPECT_GE(seen[std::string(info(static_cast<Elementwise>(op)).name)], 1) << info(static_cast<Elementwise>(op)).name;
}

}  // namespace
}  // namespace metal_candle::test
