// What no tensor can be: sizes past all memory are refused when they are recorded, numbers that a type cannot hold when
// they are given; and errors name the function that was called.
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

using test::error_of;
using test::expect_in;
using testing::EndsWith;

constexpr std::int64_t kOne = 1, kMax = std::numeric_limits<std::int64_t>::max();
constexpr double kNan = std::numeric_limits<double>::quiet_NaN(), kInf = std::numeric_limits<double>::infinity();

LazyTensor wide(std::int64_t extent, DType dtype = DType::i8) { return expand(Tensor::ones({1}, dtype), {extent}); }

// ---- sizes ----------------------------------------------------------------------------------------------------------

template <class F>
void refused(F f, std::initializer_list<const char*> parts) {
  expect_in(error_of(f, ErrorKind::shape), parts);
}

TEST(Sizes, PastAllMemoryAreRefusedByTheCallThatRecordsThem) {
  const char* size = "2305843009213693952";  // 2^61
  refused([] { zeros({kOne << 61}, DType::f64); }, {"zeros: ", "f64", size});
  refused([] { full({kOne << 61}, 1, DType::f64); }, {"full: ", size});
  refused([] { rand({kOne << 61}, {.dtype = DType::f64}); }, {"rand: ", size});
  refused([] { iota({kOne << 61}, 0, DType::i64); }, {"iota: ", size});
  refused([] { wide(kOne << 61, DType::f32); }, {"expand: ", "f32[1]", size});
  refused([] { cast(wide(kOne << 55), DType::f64); }, {"cast: ", "i8[36028797018963968]", "f64"});
  refused([] { unsqueeze(wide(kOne << 40), 1) + unsqueeze(wide(kOne << 40), 0); }, {"add: ", "[1099511627776, 1]"});
  const LazyTensor column = unsqueeze(wide(kOne << 40, DType::f32), 1),
                   row = unsqueeze(wide(kOne << 40, DType::f32), 0);
  refused([&] { matmul(column, row); }, {"matmul: ", "[1099511627776, 1]"});
  refused([&] { linear(column, row); }, {"linear: "});
  refused([&] { take(row, expand(Tensor::zeros({1}, DType::i32), {kOne << 40})); }, {"take: "});
  refused([] { concat({wide(kOne << 56), wide(kOne << 56)}, 0); }, {"concat: ", "[144115188075855872]"});
  refused([] { concat(std::vector<LazyTensor>(128, wide(kOne << 56)), 0); }, {"concat: "});
  refused([] { stack({wide(kOne << 56), wide(kOne << 56)}, 0); }, {"stack: "});
  refused([] { pad(Tensor::ones({2}), {kMax}, {kMax}); }, {"pad: "});
  refused([] { pad(Tensor::ones({2}), {kMax - 2}, {0}); }, {"pad: ", "9223372036854775807"});
  refused([] { reshape(Tensor::ones({4}), {kOne << 32, kOne << 32, -1}); }, {"reshape: "});
  EXPECT_NO_THROW(wide(kOne << 56));
  EXPECT_EQ((zeros({kOne << 40, 0}) + 1).eval().numel(), 0);
}

TEST(Sizes, OfTensorsAreCheckedTheSame) {
  for (const std::int64_t n : {kOne << 61, (kOne << 61) + 1}) {
    refused([n] { Tensor::zeros({n}, DType::f64); }, {"f64", "23058430092136939"});
    refused([n] { Tensor::full({n}, 1, DType::f64); }, {"f64"});
    const double x = 0;
    refused([n, &x] { Tensor::from_external(&x, {n}, DType::f64, std::make_shared<int>(0)); }, {"f64"});
  }
  EXPECT_THROW(Tensor::zeros({kOne << 50}), OutOfMemory);
}

TEST(Sizes, ThatNoMachineHasAreOutOfMemory) {
  EXPECT_THROW(zeros({kOne << 52}).eval(), OutOfMemory);
  EXPECT_THROW((wide(kOne << 52) + 1).eval(), OutOfMemory);
  const LazyTensor a = wide(kOne << 26, DType::f32), b = wide(kOne << 27, DType::f32);
  EXPECT_THROW(matmul(unsqueeze(a, 1), unsqueeze(b, 0)).eval(), OutOfMemory);
}

TEST(Sizes, StepsPastTheEndTakeOneElement) {
  const auto x = Tensor::from<float>({1, 2, 3, 4, 5}, {5});
  EXPECT_EQ(slice(x, 0, 0, 5, kMax).eval().to_vector<float>(), std::vector<float>({1}));
  EXPECT_EQ(slice(x, 0, 3, kMax, kMax - 2).eval().to_vector<float>(), std::vector<float>({4}));
  EXPECT_EQ(slice(x, 0, 0, 5, 3).eval().to_vector<float>(), std::vector<float>({1, 4}));
}

// ---- numbers --------------------------------------------------------------------------------------------------------

TEST(Numbers, FillATypeThatHoldsThemOrAreAnError) {
  const auto fails = [](Scalar s, DType dtype) {
    expect_in(error_of([&] { full({2}, s, dtype); }, ErrorKind::argument), {"full: ", "does not fit"});
    expect_in(error_of([&] { Tensor::full({2}, s, dtype); }, ErrorKind::argument), {"full: ", "does not fit"});
  };
  for (const DType dtype : {DType::i8, DType::u8, DType::i32, DType::i64})
    for (const double v : {kNan, kInf, -kInf, 1e30, -1e30}) fails(v, dtype);
  fails(300, DType::u8), fails(300.0, DType::u8), fails(-1, DType::u8), fails(-1.0, DType::u8);
  fails(128, DType::i8), fails(128.5, DType::i8), fails(2147483648.0, DType::i32), fails(0x1p63, DType::i64);
  const auto gives = [](Scalar s, DType dtype, double want) {
    EXPECT_EQ(full({2}, s, dtype).eval().to_f64(), std::vector<double>(2, want)) << name(dtype);
    EXPECT_EQ(Tensor::full({2}, s, dtype).to_f64(), std::vector<double>(2, want)) << name(dtype);
  };
  gives(255.9, DType::u8, 255), gives(-0.5, DType::u8, 0), gives(-128.9, DType::i8, -128), gives(-1.5, DType::i32, -1);
  gives(0.5, DType::boolean, 1), gives(kNan, DType::boolean, 1), gives(2, DType::boolean, 1);
  gives(0.0, DType::boolean, 0), gives(-0x1p63, DType::i64, -0x1p63), gives(3, DType::f16, 3);
}

TEST(Numbers, BeyondInt64AreFloatsOrAnError) {
  const std::uint64_t most = std::numeric_limits<std::uint64_t>::max(), first = std::uint64_t{1} << 63;
  for (const std::uint64_t v : {most, first}) {
    const std::string digits = std::to_string(v).substr(0, 10);
    for (const DType dtype : {DType::i64, DType::u8}) {
      expect_in(error_of([&] { full({2}, v, dtype); }, ErrorKind::argument), {"full: ", digits.c_str()});
      error_of([&] { Tensor::full({2}, v, dtype); }, ErrorKind::argument);
      error_of([&] { Tensor::ones({2}, dtype) + v; }, ErrorKind::argument);
    }
    error_of([&] { scalar(v); }, ErrorKind::argument);
    error_of([&] { Tensor::arange(0, v); }, ErrorKind::argument);
    const double want = static_cast<double>(v);
    EXPECT_EQ(full({1}, v, DType::f64).eval().to_f64()[0], want);
    EXPECT_EQ(Tensor::full({1}, v, DType::f64).to_f64()[0], want);
    EXPECT_EQ((Tensor::ones({1}, DType::f64) * v).eval().to_f64()[0], want);
    EXPECT_EQ(Tensor::full({1}, v, DType::boolean).to_f64()[0], 1);
  }
  EXPECT_EQ(Tensor::full({1}, first - 1, DType::i64).item<std::int64_t>(), std::numeric_limits<std::int64_t>::max());
  // Numbers that the host computes wrap as those of tensors do.
  EXPECT_EQ((scalar(first - 1) + scalar(1)).eval().item<std::int64_t>(), std::numeric_limits<std::int64_t>::min());
}

TEST(Numbers, AreSurroundedByThoseThatTheTypeHolds) {
  const auto padded = [](Scalar s, DType dtype) { return pad(Tensor::ones({1}, dtype), {1}, {0}, s); };
  expect_in(error_of([&] { padded(300, DType::u8); }, ErrorKind::argument), {"pad: ", "300", "u8"});
  for (const double v : {kNan, kInf, 1e12}) error_of([&] { padded(v, DType::i32); }, ErrorKind::argument);
  EXPECT_EQ(padded(-7, DType::i8).eval().to_f64(), std::vector<double>({-7, 1}));
  EXPECT_EQ(padded(0.5, DType::boolean).eval().to_f64(), std::vector<double>({1, 1}));
  EXPECT_EQ(padded(1e12, DType::f64).eval().to_f64(), std::vector<double>({1e12, 1}));
}

TEST(Numbers, CompareByTheirValueWithEveryType) {
  using Bools = std::vector<bool>;
  const auto bytes = Tensor::from<std::uint8_t>({1, 200, 255}, {3});
  EXPECT_EQ(less(bytes, 300).eval().to_vector<bool>(), Bools({true, true, true}));
  EXPECT_EQ(greater(bytes, -1).eval().to_vector<bool>(), Bools({true, true, true}));
  EXPECT_EQ(less(300, bytes).eval().to_vector<bool>(), Bools({false, false, false}));
  EXPECT_EQ(equal(bytes, 256 + 200).eval().to_vector<bool>(), Bools({false, false, false}));
  EXPECT_EQ(greater(bytes, 199.5).eval().to_vector<bool>(), Bools({false, true, true}));
  EXPECT_EQ(less(Tensor::from<std::int32_t>({-5}, {1}), kOne << 40).eval().to_vector<bool>(), Bools({true}));
}

TEST(Numbers, AreCastFromFloatsAlikeByTensorsAndByCast) {
  const std::vector<double> values = {1e30, -1e30, 300, -1, 128.5, -129, 3e9, 0.5};
  const auto x = Tensor::from(values, {8});
  for (const DType dtype : {DType::i8, DType::u8, DType::i32, DType::i64, DType::boolean}) {
    const std::vector<double> want = cast(x, dtype).eval().to_f64();
    for (std::size_t i = 0; i < values.size(); ++i) {
      const double step = std::abs(values[i]) + 1;
      const Tensor first = Tensor::arange(values[i], values[i] + step, step, dtype);
      EXPECT_EQ(first.to_f64(), std::vector<double>({want[i]})) << values[i] << " as " << name(dtype);
    }
  }
}

TEST(Numbers, PrintAllTheirDigitsAndNanWithoutASign) {
  EXPECT_EQ(Tensor::from<std::int64_t>({kMax, (kOne << 53) + 1}, {2}).str(),
            "[9223372036854775807, 9007199254740993]  i64 [2]");
  EXPECT_EQ(Tensor::from<double>({-kNan, kNan, -kInf, -0.0}, {4}).str(), "[nan, nan, -inf, -0]  f64 [4]");
  const auto zero = Tensor::zeros({1});
  EXPECT_EQ((zero / zero).eval().str(), "[nan]  f32 [1]");
}

TEST(Numbers, MinusZeroStays) {
  for (const test::Mode mode : test::kModes) {
    const test::ModeGuard guard(mode);
    for (const DType dtype : {DType::f32, DType::f64, DType::f16, DType::bf16}) {
      const LazyTensor x = cast(Tensor::from<double>({-0.0, 0.0}, {2}), dtype);
      for (auto f : {static_cast<LazyTensor (*)(const LazyTensor&)>(relu), tanh, erf, sqrt}) {
        const LazyTensor y = f(x);
        const std::vector<double> got = y.eval().to_f64();
        EXPECT_TRUE(got[0] == 0 && std::signbit(got[0])) << y.op_name() << " of " << name(dtype);
        EXPECT_TRUE(got[1] == 0 && !std::signbit(got[1])) << y.op_name() << " of " << name(dtype);
      }
    }
  }
}

// ---- names ----------------------------------------------------------------------------------------------------------

TEST(Names, AreThoseOfTheFunctionThatWasCalled) {
  const auto x = Tensor::ones({2, 3});
  const std::pair<const char*, std::function<void()>> calls[] = {
      {"transpose", [&] { transpose(Tensor::ones({2})); }},
      {"squeeze", [&] { squeeze(x, 0); }},
      {"unsqueeze", [&] { unsqueeze(x, 7); }},
      {"unsqueeze",
       [&] {
         unsqueeze(Tensor::ones({1, 1, 1, 1, 1, 1, 1, 1}), 0);
       }},
      {"flatten", [&] { flatten(x, 1, 0); }},
      {"split",
       [&] {
         split(x, {1, 3}, 0);
       }},
      {"stack",
       [&] {
         stack({x, Tensor::ones({3})}, 0);
       }},
      {"bernoulli", [&] { bernoulli({2}, 2, Key(1)); }},
      {"dropout", [&] { dropout(x, 2, Key(1)); }},
      {"linear", [&] { linear(x, x); }},
      {"embedding", [&] { embedding(x, x); }},
      {"clamp", [&] { clamp(Tensor::ones({2}, DType::u8), -1, 300); }},
      {"lora_fused", [&] { lora_fused(x, x, x, 1.0); }},
      {"arange", [&] { arange(-1); }},
      {"arange", [&] { arange(0, 5, 0); }},
      {"arange", [&] { arange(-kMax, kMax, 1); }},
      {"arange", [&] { arange(0, 1000, 200, DType::i8); }},
      {"arange", [&] { arange(0, 5, 1, DType::boolean); }},
      {"arange", [&] { Tensor::arange(0, 5, 0); }},
      {"arange", [&] { Tensor::arange(0, kInf); }},
      {"Tensor::full", [&] { Tensor::full({2}, 300, DType::i8); }},
      {"Tensor::from",
       [&] {
         Tensor::from<float>({1, 2}, {3});
       }},
      {"iota", [&] { iota({2}, 4); }},
      {"reshape",
       [&] {
         reshape(x, {1, 1, 1, 1, 1, 1, 1, 2, 3});
       }},
      {"take_along_axis",
       [&] {
         take_along_axis(x, Tensor::zeros({2, 1}, DType::i32), 2);
       }},
      {"matmul", [&] { matmul(x, x); }},
  };
  for (const auto& [function, call] : calls) {
    try {
      call();
      ADD_FAILURE() << function << " throws nothing";
    } catch (const UserError& e) {
      EXPECT_EQ(e.op(), function) << e.what();
      EXPECT_EQ(std::string(e.what()).rfind(std::string(function) + ": ", 0), 0u) << e.what();
      EXPECT_EQ(std::string(e.what()).find("(inputs:)"), std::string::npos) << e.what();
    }
  }
  // A name ends with the call that set it.
  expect_in(error_of([&] { permute(x, {0, 0}); }, ErrorKind::argument), {"permute: "});
}

TEST(Names, OfWhatOnlyTheDataShowsAreSaidOnce) {
  const auto rows = Tensor::ones({3});
  const std::string said = error_of(
      [&] { scatter_add(rows, Tensor::from<std::int64_t>({3}, {1}), Tensor::ones({1})).eval(); }, ErrorKind::index);
  EXPECT_EQ(said, "scatter_add: index 3 is out of range: an extent of 3 has -3 to 2");
  const auto ids = Tensor::from<std::int32_t>({1, 3, -4, 9}, {4});
  const std::string first = "index 3 is out of range: an extent of 3 has -3 to 2";
  EXPECT_THAT(error_of([&] { embedding(Tensor::ones({3, 5}), ids).eval(); }, ErrorKind::index), EndsWith(first));
  EXPECT_THAT(error_of([&] { take_along_axis(rows, ids, 0).eval(); }, ErrorKind::index), EndsWith(first));
  EXPECT_THAT(error_of([&] { take(Tensor::ones({0}), ids).eval(); }, ErrorKind::index),
              EndsWith("index 1 is out of range: the extent is 0"));
  EXPECT_THAT(error_of(
                  [&] {
                    linear_cross_entropy(Tensor::ones({4, 2}), Tensor::ones({2, 3}), ids).eval();
                  },
                  ErrorKind::index),
              EndsWith("linear_cross_entropy: target 3 is not a class: there are 3"));
  // Of many the first one is told, however many threads there are.
  const auto many = Tensor::from<std::int32_t>({0, 1, 2, 3, 4}, {5});
  const LazyTensor wide = expand(unsqueeze(many, 1), {5, 20000});
  for (int run = 0; run < 20; ++run)
    EXPECT_THAT(error_of(
                    [&] {
                      take_along_axis(Tensor::ones({3, 20000}), wide, 0).eval();
                    },
                    ErrorKind::index),
                EndsWith(first));
}

TEST(Indices, OutOfRangeAreAnErrorAlsoWhereOnlyTheGradientIsWanted) {
  const LazyTensor x = Tensor::ones({2, 3});
  const auto gradient_of = [&](const LazyTensor& y) { return grad(sum(y), {x})[0]; };
  for (const std::int64_t bad : {std::int64_t{3}, std::int64_t{-4}, kOne << 32, kMax}) {
    const LazyTensor one = Tensor::from<std::int64_t>({0, bad}, {2, 1}), two = concat({one, one}, 1);
    const std::string index = "index " + std::to_string(bad) + " is out of range";
    for (const LazyTensor& indices : {one, two}) {
      const LazyTensor g = gradient_of(take_along_axis(x, indices, 1));
      expect_in(error_of([&] { g.eval(); }, ErrorKind::index), {"take_along_axis", index.c_str()});
    }
    for (const auto reduction : {Reduction::none, Reduction::mean, Reduction::sum}) {
      const LazyTensor g = gradient_of(cross_entropy(x, reshape(one, {2}), {.reduction = reduction}));
      expect_in(error_of([&] { g.eval(); }, ErrorKind::index), {"is out of range"});
    }
  }
}

TEST(Names, AnEmptyFunctionToCheckpointIsAnError) {
  expect_in(error_of([] { checkpoint({}, {}); }, ErrorKind::argument), {"checkpoint: "});
}

TEST(Names, AreSaidOfEmptyHandlesToo) {
  const LazyTensor none, x = Tensor::ones({2, 3}), at = Tensor::zeros({2}, DType::i32);
  const auto inside = [](const std::vector<LazyTensor>& in) { return in[0]; };
  const std::pair<const char*, std::function<void()>> calls[] = {
      {"softmax", [&] { softmax(none); }},
      {"log_softmax", [&] { log_softmax(none); }},
      {"cumsum", [&] { cumsum(none, 0); }},
      {"sort", [&] { sort(none); }},
      {"topk", [&] { topk(none, 1); }},
      {"argmax", [&] { argmax(none, 0); }},
      {"max", [&] { max(none); }},
      {"logsumexp", [&] { logsumexp(none); }},
      {"concat",
       [&] {
         concat(std::vector<LazyTensor>{x, none}, 0);
       }},
      {"stack",
       [&] {
         stack(std::vector<LazyTensor>{x, none}, 0);
       }},
      {"pad", [&] { pad(none, {1}, {1}); }},
      {"expand",
       [&] {
         expand(none, {2, 3});
       }},
      {"split", [&] { split(none, {1}, 0); }},
      {"take", [&] { take(x, none); }},
      {"take", [&] { take(none, at); }},
      {"embedding", [&] { embedding(x, none); }},
      {"take_along_axis", [&] { take_along_axis(x, none, 0); }},
      {"take_along_axis", [&] { take_along_axis(none, at, 0); }},
      {"scatter_add", [&] { scatter_add(x, none, x); }},
      {"scatter_add", [&] { scatter_add(none, at, x); }},
      {"set_rows", [&] { set_rows(x, at, none); }},
      {"set_rows", [&] { set_rows(x, none, x); }},
      {"dynamic_slice", [&] { dynamic_slice(none, 0, 0, 1); }},
      {"dynamic_slice", [&] { dynamic_slice(x, 0, none, 1); }},
      {"dynamic_update_slice", [&] { dynamic_update_slice(x, none, 0, 0); }},
      {"dynamic_update_slice", [&] { dynamic_update_slice(none, x, 0, 0); }},
      {"matmul", [&] { matmul(x, none); }},
      {"linear", [&] { linear(none, x); }},
      {"lora_fused", [&] { lora_fused(none, x, x, 1); }},
      {"lora_fused", [&] { lora_fused(x, x, none, 1); }},
      {"rms_norm", [&] { rms_norm(none); }},
      {"layer_norm", [&] { layer_norm(none); }},
      {"rope", [&] { rope(none, at); }},
      {"rope", [&] { rope(x, none); }},
      {"attention", [&] { attention(x, none, x); }},
      {"cross_entropy", [&] { cross_entropy(none, at); }},
      {"cross_entropy", [&] { cross_entropy(x, none); }},
      {"linear_cross_entropy", [&] { linear_cross_entropy(x, none, at); }},
      {"dropout", [&] { dropout(none, 0.5, Key(1)); }},
      {"categorical", [&] { categorical(none, Key(1)); }},
      {"cast", [&] { cast(none, DType::f32); }},
      {"where", [&] { where(none, x, x); }},
      {"clamp", [&] { clamp(none, 0, 1); }},
      {"powi", [&] { powi(none, 3); }},
      {"var", [&] { var(none); }},
      {"mean", [&] { mean(none); }},
      {"squeeze", [&] { squeeze(none, 0); }},
      {"flatten", [&] { flatten(none); }},
      {"transpose", [&] { transpose(none); }},
      {"permute", [&] { permute(none, {0}); }},
      {"slice", [&] { slice(none, 0, 0, 1); }},
      {"is_nan", [&] { is_nan(none); }},
      {"is_inf", [&] { is_inf(none); }},
      {"zero_like", [&] { zero_like(none); }},
      {"stop_gradient", [&] { stop_gradient(none); }},
      {"checkpoint", [&] { checkpoint(inside, {none}); }},
      {"checkpoint", [&] { checkpoint([](const auto&) { return LazyTensor(); }, {x}); }},
  };
  for (const auto& [function, call] : calls) {
    const std::string said = error_of(call, ErrorKind::argument);
    EXPECT_EQ(said.rfind(std::string(function) + ": ", 0), 0u) << function << ": " << said;
    EXPECT_NE(said.find("empty handle"), std::string::npos) << said;
  }
}

/// A file's or a caller's number that was cast to DType without a look.
TEST(Types, ThatThereAreNotAreRefusedByTheCall) {
  const LazyTensor x = Tensor::ones({2});
  const float data[2] = {};
  for (const auto none : {static_cast<DType>(kDTypeCount), static_cast<DType>(255)}) {
    const std::pair<const char*, std::function<void()>> calls[] = {
        {"cast", [&] { cast(x, none); }},
        {"zeros", [&] { zeros({2}, none); }},
        {"ones", [&] { ones({2}, none); }},
        {"full", [&] { full({2}, 1.5, none); }},
        {"iota", [&] { iota({2}, 0, none); }},
        {"arange", [&] { arange(2, none); }},
        {"arange", [&] { arange(0, 4, 2, none); }},
        {"rand", [&] { rand({2}, {.dtype = none}); }},
        {"randn", [&] { randn({2}, {.dtype = none}); }},
        {"Tensor", [&] { Tensor::zeros({2}, none); }},
        {"Tensor", [&] { Tensor::arange(0, 2, 1, none); }},
        {"Tensor", [&] { Tensor::from_external(data, {2}, none, nullptr); }},
    };
    for (const auto& [function, call] : calls) {
      const std::string said = error_of(call, ErrorKind::dtype);
      EXPECT_EQ(said.rfind(std::string(function) + ": ", 0), 0u) << function << ": " << said;
      EXPECT_NE(said.find("type"), std::string::npos) << said;
    }
  }
}

TEST(Names, OfTypesThatATensorDoesNotHoldComeWithItsShape) {
  expect_in(error_of([] { Tensor::ones({2, 3}).to_vector<double>(); }, ErrorKind::dtype), {"f32[2, 3]", "f64"});
}

}  // namespace
}  // namespace metal_candle
