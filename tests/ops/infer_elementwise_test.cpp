// Types, shapes and errors of elementwise ops as they are recorded.
#include <gtest/gtest.h>

#include <cstdint>

#include "metal_candle/ops.hpp"
#include "metal_candle/scope.hpp"
#include "ops/table.h"
#include "tests/ops/recorded.h"
#include "tests/support/errors.h"

namespace metal_candle {
namespace {

using test::error_of;
using test::expect_in;
using test::f32;
using test::has_number;
using test::is_literal;
using test::of;

TEST(Elementwise, BroadcastsBothWays) {
  EXPECT_EQ((f32({3, 1}) + f32({4})).shape(), Shape({3, 4}));
  EXPECT_EQ((f32({4}) * f32({2, 1, 1})).shape(), Shape({2, 1, 4}));
  EXPECT_EQ((f32({}) - f32({2, 3})).shape(), Shape({2, 3}));
  EXPECT_EQ((f32({0, 3}) + f32({1, 3})).shape(), Shape({0, 3}));
  EXPECT_EQ(where(of(DType::boolean, {4, 1}), f32({3}), f32({2, 1, 1})).shape(), Shape({2, 4, 3}));
}

TEST(Elementwise, Promotes) {
  const DType types[] = {DType::f32, DType::f64, DType::f16, DType::bf16,   DType::i8,
                         DType::u8,  DType::i32, DType::i64, DType::boolean};
  for (const DType a : types) {
    for (const DType b : types) {
      const DType expected = promote(a, b);
      EXPECT_EQ((of(a) + of(b)).dtype(), expected);
      EXPECT_EQ((of(a) / of(b)).dtype(), float_type(expected));
      EXPECT_EQ(less(of(a), of(b)).dtype(), DType::boolean);
      EXPECT_EQ(logical_or(of(a), of(b)).dtype(), DType::boolean);
      EXPECT_EQ(where(of(DType::boolean), of(a), of(b)).dtype(), expected);
    }
    EXPECT_EQ(exp(of(a)).dtype(), float_type(a));
    EXPECT_EQ(logical_not(of(a)).dtype(), DType::boolean);
  }
}

TEST(Elementwise, NumbersAreWeak) {
  EXPECT_EQ((of(DType::bf16) * 0.5).dtype(), DType::bf16);
  EXPECT_EQ((of(DType::f16) + 3).dtype(), DType::f16);
  EXPECT_EQ((1.5f - of(DType::f64)).dtype(), DType::f64);
  EXPECT_EQ((of(DType::i8) + 3).dtype(), DType::i8);
  EXPECT_EQ((of(DType::i64) * 0.5).dtype(), DType::f32);
  EXPECT_EQ((of(DType::boolean) * 2).dtype(), DType::i32);
  EXPECT_EQ((of(DType::boolean) * 2.0).dtype(), DType::f32);
  EXPECT_EQ((of(DType::i32) / 2).dtype(), DType::f32);
  EXPECT_EQ(greater(of(DType::i32), 0.5).dtype(), DType::boolean);
  EXPECT_EQ(where(of(DType::boolean), of(DType::bf16), 0.0).dtype(), DType::bf16);
  EXPECT_EQ(where(of(DType::boolean), 0.5, of(DType::i32)).dtype(), DType::f32);
  EXPECT_EQ(clamp(of(DType::bf16), -1, 1).dtype(), DType::bf16);
}

TEST(Elementwise, TensorsMadeOfNumbersAreWeakToo) {
  const LazyTensor half = scalar(0.5);
  EXPECT_EQ((of(DType::bf16) * half).dtype(), DType::bf16);
  EXPECT_EQ((half - of(DType::bf16)).dtype(), DType::bf16);
  EXPECT_EQ((of(DType::f32, {2, 3}) * (half * scalar(2))).dtype(), DType::f32);
  EXPECT_EQ(where(of(DType::boolean), of(DType::f16), half).dtype(), DType::f16);
  EXPECT_EQ((of(DType::i32) * half).dtype(), DType::f32);
  EXPECT_EQ(maximum(scalar(2), scalar(3)).dtype(), DType::i64);
}

TEST(Elementwise, NumbersAreSlotsOutsideAndLiteralsInsideALiteralScope) {
  const LazyTensor x = f32({3});
  const LazyTensor slot = x * 0.5;
  EXPECT_TRUE(has_number(slot));
  EXPECT_FALSE(is_literal(slot));
  EXPECT_EQ(slot.node()->scalar_f, 0.5);
  EXPECT_FALSE(is_literal(x * scalar(2)));
  const LazyTensor outside = scalar(0.25);
  const LiteralScope scope;
  EXPECT_TRUE(is_literal(x * 0.5));
  EXPECT_TRUE(is_literal(x * scalar(0.5)));
  // A slot does not turn into a literal because of where it is used: it stays the tensor that it is.
  const LazyTensor mixed = x * outside;
  EXPECT_FALSE(has_number(mixed));
  EXPECT_EQ(mixed.dtype(), DType::f32);
  EXPECT_EQ((outside * 2.0).op_name(), "mul");  // its value is nothing to compute with here
}

TEST(Elementwise, IntegerNumbersKeepTheirValue) {
  const LazyTensor big = of(DType::i64) + ((std::int64_t{1} << 53) + 1);
  EXPECT_EQ(big.node()->scalar_i, (std::int64_t{1} << 53) + 1);
  const LazyTensor small = of(DType::f32) + 3;  // in a float op a number is a float
  EXPECT_EQ(small.node()->scalar_f, 3.0);
  expect_in(error_of([] { of(DType::u8) + 256; }, ErrorKind::argument), {"add", "256", "u8"});
  expect_in(error_of([] { of(DType::i8) * -129; }, ErrorKind::argument), {"mul", "-129", "i8"});
  EXPECT_NO_THROW(of(DType::u8) + 255);
}

TEST(Elementwise, SameTypeAndShapeIsOneNodeOverItsOperands) {
  const LazyTensor a = f32({2, 3}), b = f32({2, 3});
  const LazyTensor c = a + b;
  EXPECT_EQ(c.node()->input(0).load(), a.node());
  EXPECT_EQ(c.node()->input(1).load(), b.node());
  EXPECT_EQ(a.node()->refs.load(), 2u);  // ours and the node's: borrowing left none behind
}

TEST(Elementwise, ArithmeticOnBoolsIsLogic) {
  const LazyTensor m = of(DType::boolean);
  EXPECT_EQ((m + m).op_name(), "logical_or");
  EXPECT_EQ((m * m).op_name(), "logical_and");
  EXPECT_EQ(maximum(m, m).op_name(), "logical_or");
  expect_in(error_of([&] { m - m; }, ErrorKind::dtype), {"sub", "bool"});
  expect_in(error_of([&] { neg(m); }, ErrorKind::dtype), {"neg", "bool"});
  EXPECT_EQ(sum(m).dtype(), DType::i32);
}

TEST(Elementwise, IntegerPowersAreProductsAndOthersArePow) {
  const LazyTensor x = f32({2});
  EXPECT_EQ(pow(x, 1).node(), x.node());
  EXPECT_EQ(pow(x, 2).op_name(), "square");
  EXPECT_EQ(pow(x, 4).op_name(), "square");
  EXPECT_EQ(pow(x, -1).op_name(), "reciprocal");
  EXPECT_EQ(pow(x, 7).op_name(), "pow");
  EXPECT_EQ(pow(of(DType::i32), 7).dtype(), DType::i32);
  const LazyTensor root = pow(x, 0.5);
  EXPECT_EQ(root.op_name(), "pow");
  EXPECT_EQ(root.node()->scalar_f, 0.5);
}

TEST(Elementwise, ErrorsNameScopeOpShapesAndTypes) {
  const Scope outer("layer.3");
  const Scope inner("attn");
  const std::string text = error_of([] { f32({2, 3}) + of(DType::bf16, {4, 3}); }, ErrorKind::shape);
  expect_in(text, {"layer.3.attn", "add", "[2, 3]", "[4, 3]", "f32", "bf16"});
  expect_in(error_of([] { exp(LazyTensor()); }, ErrorKind::argument), {"exp", "empty"});
  expect_in(error_of([] { f32({2}) * LazyTensor(); }, ErrorKind::argument), {"mul", "empty"});
  expect_in(error_of([] { where(LazyTensor(), f32({2}), 1); }, ErrorKind::argument), {"where", "empty"});
  expect_in(error_of(
                [] {
                  record(ops::elementwise_def(Elementwise::add), {f32({2}), of(DType::f64)});
                },
                ErrorKind::dtype),
            {"add", "f32", "f64"});
}

}  // namespace
}  // namespace metal_candle
