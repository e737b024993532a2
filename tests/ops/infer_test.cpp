// Types and shapes of what is recorded, and the errors of what cannot be: nothing is evaluated here. Elementwise ops are
// in infer_elementwise_test.cpp.
#include <gtest/gtest.h>

#include <cstdint>
#include <functional>
#include <limits>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "metal_candle/ops.hpp"
#include "metal_candle/scope.hpp"
#include "ops/table.h"
#include "tests/ops/recorded.h"
#include "tests/support/errors.h"
#include "tests/support/samples.h"

namespace metal_candle {
namespace {

using test::error_of;
using test::expect_in;
using test::f32;
using test::is_literal;
using test::of;

// ---- making -------------------------------------------------------------------------------------------------------

TEST(Making, TypesAndShapes) {
  EXPECT_EQ(zeros({2, 0}).shape(), Shape({2, 0}));
  EXPECT_EQ(ones({}, DType::boolean).dtype(), DType::boolean);
  EXPECT_EQ(full({3}, 2.5, DType::bf16).dtype(), DType::bf16);
  EXPECT_EQ(iota({2, 3}, -1).dtype(), DType::i32);
  EXPECT_EQ(arange(5).dtype(), DType::i64);
  EXPECT_EQ(arange(5).shape(), Shape({5}));
  error_of([] { iota({2, 3}, 2); }, ErrorKind::argument);
  error_of([] { iota({2, 3}, 0, DType::boolean); }, ErrorKind::dtype);
}

TEST(Making, ZeroIsALiteralAndAGivenValueIsNot) {
  EXPECT_TRUE(is_literal(LazyTensor::share(zeros({2}).node()->input(0).load())));
  EXPECT_FALSE(is_literal(LazyTensor::share(full({2}, 0.0).node()->input(0).load())));
}

TEST(Types, OfRunningSumsAreThoseOfSumsAndStartsAreAnyInteger) {
  for (const DType dtype : {DType::boolean, DType::i8, DType::u8, DType::i32, DType::i64, DType::bf16})
    EXPECT_EQ(cumsum(of(dtype, {3}), 0).dtype(), sum(of(dtype, {3})).dtype()) << name(dtype);
  const Tensor x = Tensor::from<std::int8_t>({3, 0, 1, 2, 100, 100, 5}, {7});
  EXPECT_EQ(cumsum(x, 0).eval().to_f64(), (std::vector<double>{3, 3, 4, 6, 106, 206, 211}));
  for (const DType dtype : {DType::i8, DType::u8, DType::i32, DType::i64}) {
    const LazyTensor start = Tensor::full({}, 2, dtype);
    EXPECT_EQ(dynamic_slice(x, 0, start, 2).eval().to_f64(), (std::vector<double>{1, 2})) << name(dtype);
    EXPECT_EQ(dynamic_update_slice(x, Tensor::zeros({2}, DType::i8), 0, start).eval().to_f64()[3], 0);
  }
  error_of([&] { dynamic_slice(x, 0, f32({}), 2); }, ErrorKind::dtype);
  for (const int exponent : {0, 1, 2, -1}) error_of([&] { powi(of(DType::boolean, {3}), exponent); }, ErrorKind::dtype);
}

TEST(Random, TypesShapesAndErrors) {
  EXPECT_EQ(rand({2, 3}, {.key = Key(1), .dtype = DType::bf16}).dtype(), DType::bf16);
  EXPECT_EQ(randn({2, 3}, {.key = Key(1)}).shape(), Shape({2, 3}));
  EXPECT_EQ(bernoulli({4}, 0.5, Key(1)).dtype(), DType::boolean);
  EXPECT_EQ(categorical(of(DType::bf16, {2, 5}), Key(1)).dtype(), DType::i32);
  EXPECT_EQ(categorical(f32({2, 5}), Key(1)).shape(), Shape({2}));
  EXPECT_EQ(categorical(f32({2, 3, 5}), of(DType::i64, {2, 3})).shape(), Shape({2, 3}));
  const LazyTensor x = of(DType::bf16, {3});
  EXPECT_EQ(dropout(x, 0.1, Key(1)).dtype(), DType::bf16);
  EXPECT_EQ(dropout(x, 0, Key(1)).node(), x.node());
  for (const DType dtype : {DType::i32, DType::i64, DType::u8})
    for (const double p : {0.0, 0.5, 1.0}) EXPECT_EQ(dropout(of(dtype, {3}), p, Key(1)).dtype(), DType::f32);
  for (const Shape& keys : {Shape{1}, Shape{}, Shape{2, 1}})
    error_of([&] { categorical(f32({2, 5}), of(DType::i64, keys)); }, ErrorKind::shape);
  error_of([&] { dropout(x, 1.5, Key(1)); }, ErrorKind::argument);
  error_of([] { rand({2}, {.key = Key(1), .dtype = DType::i32}); }, ErrorKind::dtype);
  error_of([] { categorical(f32({2, 5}), of(DType::i64, {3})); }, ErrorKind::shape);
  error_of([] { categorical(f32({2, 5}), of(DType::f32, {2})); }, ErrorKind::dtype);
}

TEST(Random, FoldingKeysDependsOnKeyDataAndOrder) {
  const Key k(42);
  EXPECT_NE(k.fold(0).value, k.value);
  EXPECT_NE(k.fold(0).value, k.fold(1).value);
  EXPECT_NE(k.fold(1).fold(2).value, k.fold(2).fold(1).value);
  EXPECT_NE(Key(0).fold(1).value, Key(1).fold(0).value);
  EXPECT_EQ(k.fold(7).value, Key(42).fold(7).value);
}

// ---- reductions ---------------------------------------------------------------------------------------------------

TEST(Reduce, ShapesAndAxes) {
  const LazyTensor x = f32({2, 3, 4});
  EXPECT_EQ(sum(x).shape(), Shape({}));
  EXPECT_EQ(sum(x, {}, true).shape(), Shape({1, 1, 1}));
  EXPECT_EQ(sum(x, {-1, 0}).shape(), Shape({3}));
  EXPECT_EQ(max(x, {1}, true).shape(), Shape({2, 1, 4}));
  EXPECT_EQ(mean(x, {2}).shape(), Shape({2, 3}));
  EXPECT_EQ(var(x, {0, 1}).shape(), Shape({4}));
  EXPECT_EQ(logsumexp(x, {1}).shape(), Shape({2, 4}));
  EXPECT_EQ(argmax(x, -1).shape(), Shape({2, 3}));
  EXPECT_EQ(argmin(x, 0, true).shape(), Shape({1, 3, 4}));
  EXPECT_EQ(x.sum().shape(), Shape({}));
  EXPECT_EQ(x.sum(1, true).shape(), Shape({2, 1, 4}));
}

TEST(Reduce, Types) {
  EXPECT_EQ(sum(of(DType::bf16)).dtype(), DType::bf16);
  EXPECT_EQ(sum(of(DType::u8)).dtype(), DType::i32);
  EXPECT_EQ(prod(of(DType::i64)).dtype(), DType::i64);
  EXPECT_EQ(max(of(DType::boolean)).dtype(), DType::boolean);
  EXPECT_EQ(argmax(of(DType::f64), 0).dtype(), DType::i32);
  EXPECT_EQ(mean(of(DType::i64)).dtype(), DType::f32);
  EXPECT_EQ(mean(of(DType::bf16)).dtype(), DType::bf16);
}

TEST(Reduce, NothingToReduceIsNoNode) {
  const LazyTensor x = f32({2, 1, 3});
  EXPECT_EQ(sum(x, {1}, true).node(), x.node());
  EXPECT_EQ(mean(x, {1}, true).node(), x.node());
  EXPECT_EQ(max(x, {1}).op_name(), "reshape");
  EXPECT_EQ(sum(f32({})).rank(), 0);
  EXPECT_EQ(argmax(x, 1).op_name(), "reshape");
}

TEST(Reduce, Errors) {
  const LazyTensor x = f32({2, 3});
  expect_in(error_of([&] { sum(x, {2}); }, ErrorKind::argument), {"sum", "axis 2", "[2, 3]"});
  expect_in(error_of([&] { max(x, {0, -2}); }, ErrorKind::argument), {"max", "twice"});
  expect_in(error_of([&] { argmax(f32({2, 0}), 1); }, ErrorKind::shape), {"argmax", "[2, 0]"});
  expect_in(error_of([&] { max(f32({2, 0}), 1); }, ErrorKind::shape), {"max", "without elements", "[2, 0]"});
  expect_in(error_of([&] { min(of(DType::u8, {0})); }, ErrorKind::shape), {"min", "u8[0]"});
  error_of([&] { max(f32({0, 0}), 1); }, ErrorKind::shape);
  EXPECT_EQ(max(f32({0, 3}), 1).shape(), Shape({0}));
  EXPECT_EQ(logsumexp(f32({0, 3}), 0).shape(), Shape({3}));
}

// ---- views --------------------------------------------------------------------------------------------------------

TEST(Views, Shapes) {
  const LazyTensor x = f32({2, 3, 4});
  EXPECT_EQ(reshape(x, {-1, 4}).shape(), Shape({6, 4}));
  EXPECT_EQ(reshape(x, {4, -1, 1}).shape(), Shape({4, 6, 1}));
  EXPECT_EQ(permute(x, {2, 0, 1}).shape(), Shape({4, 2, 3}));
  EXPECT_EQ(permute(x, {-1, -3, -2}).shape(), Shape({4, 2, 3}));
  EXPECT_EQ(transpose(x).shape(), Shape({2, 4, 3}));
  EXPECT_EQ(transpose(x, 0, -1).shape(), Shape({4, 3, 2}));
  EXPECT_EQ(expand(f32({3, 1}), {2, 3, 5}).shape(), Shape({2, 3, 5}));
  EXPECT_EQ(expand(f32({3, 1}), {2, -1, 5}).shape(), Shape({2, 3, 5}));
  EXPECT_EQ(f32({0, 1}).expand({-1, 4}).shape(), Shape({0, 4}));
  EXPECT_EQ(squeeze(f32({2, 1, 3}), -2).shape(), Shape({2, 3}));
  EXPECT_EQ(unsqueeze(x, -1).shape(), Shape({2, 3, 4, 1}));
  EXPECT_EQ(unsqueeze(x, 0).shape(), Shape({1, 2, 3, 4}));
  EXPECT_EQ(flatten(x).shape(), Shape({24}));
  EXPECT_EQ(flatten(x, 1).shape(), Shape({2, 12}));
  EXPECT_EQ(flatten(f32({})).shape(), Shape({1}));
  const auto parts = split(x, {1, 0, 3}, 2);
  EXPECT_EQ(parts[0].shape(), Shape({2, 3, 1}));
  EXPECT_EQ(parts[1].shape(), Shape({2, 3, 0}));
  EXPECT_EQ(parts[2].shape(), Shape({2, 3, 3}));
}

TEST(Views, SlicesAreClipped) {
  const LazyTensor x = f32({10});
  EXPECT_EQ(slice(x, 0, 2, 5).shape(), Shape({3}));
  EXPECT_EQ(slice(x, 0, -3, 100).shape(), Shape({3}));
  EXPECT_EQ(slice(x, -1, 0, 10, 3).shape(), Shape({4}));
  EXPECT_EQ(slice(x, 0, 8, 2).shape(), Shape({0}));
  EXPECT_EQ(slice(x, 0, -100, -8).shape(), Shape({2}));
}

TEST(Views, WhatChangesNothingIsNoNode) {
  const LazyTensor x = f32({2, 3});
  for (const LazyTensor& y : {reshape(x, {2, -1}), permute(x, {0, 1}), expand(x, {2, 3}), slice(x, 1, 0, 3),
                              slice(x, 1, 0, 99), flatten(x, 1, 1), cast(x, DType::f32), split(x, {3}, 1)[0]})
    EXPECT_EQ(y.node(), x.node());
}

TEST(Views, Errors) {
  const LazyTensor x = f32({2, 3});
  expect_in(error_of([&] { reshape(x, {4, -1}); }, ErrorKind::shape), {"reshape", "[2, 3]"});
  expect_in(error_of([&] { reshape(x, {-1, -1}); }, ErrorKind::argument), {"reshape", "two"});
  expect_in(error_of([&] { reshape(x, {7}); }, ErrorKind::shape), {"[7]", "[2, 3]"});
  error_of([&] { reshape(f32({0, 3}), {0, -1}); }, ErrorKind::shape);
  expect_in(error_of([&] { permute(x, {0, 0}); }, ErrorKind::argument), {"permute", "twice"});
  error_of([&] { permute(x, {0}); }, ErrorKind::argument);
  error_of([&] { transpose(f32({3})); }, ErrorKind::argument);
  expect_in(error_of([&] { expand(x, {2, 4}); }, ErrorKind::shape), {"expand", "[2, 4]", "[2, 3]"});
  error_of([&] { expand(x, {3}); }, ErrorKind::shape);
  expect_in(error_of([&] { expand(x, {-1, 2, 3}); }, ErrorKind::argument), {"expand", "-1", "[2, 3]"});
  expect_in(error_of([&] { expand(x, {-2, 3}); }, ErrorKind::argument), {"expand", "-2", "[2, 3]"});
  error_of([&] { expand(x, {-1}); }, ErrorKind::shape);
  error_of([&] { expand(f32({1}), {1, 1, 1, 1, 1, 1, 1, 1, 3}); }, ErrorKind::shape);
  error_of([&] { squeeze(x, 0); }, ErrorKind::shape);
  error_of([&] { unsqueeze(x, 4); }, ErrorKind::argument);
  error_of([&] { slice(x, 0, 0, 1, 0); }, ErrorKind::argument);
  error_of([&] { split(x, {1, 1}, 1); }, ErrorKind::shape);
  error_of([&] { split(x, {1, 9}, 1); }, ErrorKind::shape);
}

// ---- gathers and matmul -------------------------------------------------------------------------------------------

TEST(Gather, ShapesAndErrors) {
  const LazyTensor table = of(DType::bf16, {5, 3});
  EXPECT_EQ(take(table, of(DType::i32, {2, 4})).shape(), Shape({2, 4, 3}));
  EXPECT_EQ(take(table, of(DType::i64, {})).shape(), Shape({3}));
  EXPECT_EQ(embedding(table, of(DType::u8, {2})).dtype(), DType::bf16);
  EXPECT_EQ(take_along_axis(table, of(DType::i32, {5, 1}), -1).shape(), Shape({5, 1}));
  expect_in(error_of([&] { take(table, f32({2})); }, ErrorKind::dtype), {"take", "f32"});
  error_of([&] { take(f32({}), of(DType::i32)); }, ErrorKind::shape);
  expect_in(error_of(
                [&] {
                  take_along_axis(table, of(DType::i32, {4, 1}), 1);
                },
                ErrorKind::shape),
            {"take_along_axis", "[5, 3]", "[4, 1]"});
}

TEST(SetRows, ShapesAndErrors) {
  const LazyTensor base = f32({5, 3}), at = of(DType::i32, {2});
  EXPECT_EQ(set_rows(base, at, f32({2, 3})).shape(), Shape({5, 3}));
  EXPECT_EQ(set_rows(of(DType::bf16, {5}), at, f32({2})).dtype(), DType::bf16);
  expect_in(error_of([&] { set_rows(base, at, f32({2, 4})); }, ErrorKind::shape), {"set_rows", "[5, 3]", "[2, 4]"});
  error_of([&] { set_rows(base, of(DType::i32, {1, 2}), f32({2, 3})); }, ErrorKind::shape);
  error_of([&] { set_rows(f32({}), at, f32({2})); }, ErrorKind::shape);
  expect_in(error_of([&] { set_rows(base, f32({2}), f32({2, 3})); }, ErrorKind::dtype), {"set_rows", "f32"});
}

TEST(Writes, TakeTheTypeOfWhatIsWrittenIntoButNoFloatBecomesAnInteger) {
  const LazyTensor at = of(DType::i32, {2});
  const auto writes = [&](DType base, const LazyTensor& rows) {
    const LazyTensor x = of(base, {5, 3});
    return std::vector<std::pair<const char*, std::function<LazyTensor()>>>{
        {"scatter_add", [=] { return scatter_add(x, at, rows); }},
        {"set_rows", [=] { return set_rows(x, at, rows); }},
        {"dynamic_update_slice", [=] { return dynamic_update_slice(x, rows, 0, 1); }}};
  };
  for (const auto& [name, call] : writes(DType::i32, f32({2, 3})))
    expect_in(error_of(call, ErrorKind::dtype), {name, "i32[5, 3]", "f32[2, 3]"});
  for (const auto& [name, call] : writes(DType::boolean, of(DType::i64, {2, 3})))
    expect_in(error_of(call, ErrorKind::dtype), {name, "bool[5, 3]", "i64[2, 3]"});
  for (const auto& [base, rows] :
       {std::pair{DType::bf16, DType::f64}, {DType::f32, DType::i32}, {DType::i8, DType::i64}})
    for (const auto& [name, call] : writes(base, of(rows, {2, 3}))) EXPECT_EQ(call().dtype(), base) << name;
  EXPECT_EQ(scatter_add(of(DType::i32, {4}), of(DType::i32, {}), scalar(2)).dtype(), DType::i32);
  error_of([] { scatter_add(of(DType::u8, {4}), of(DType::i32, {}), scalar(300)); }, ErrorKind::argument);
}

TEST(Matmul, ShapesTypesAndErrors) {
  EXPECT_EQ(matmul(f32({2, 3}), f32({3, 4})).shape(), Shape({2, 4}));
  EXPECT_EQ(matmul(f32({5, 1, 2, 3}), f32({6, 3, 4})).shape(), Shape({5, 6, 2, 4}));
  EXPECT_EQ(matmul(f32({3}), f32({3})).shape(), Shape({}));
  EXPECT_EQ(matmul(f32({3}), f32({5, 3, 4})).shape(), Shape({5, 4}));
  EXPECT_EQ(matmul(f32({5, 2, 3}), f32({3})).shape(), Shape({5, 2}));
  EXPECT_EQ(matmul(f32({2, 0}), f32({0, 4})).shape(), Shape({2, 4}));
  EXPECT_EQ(matmul(of(DType::bf16, {2, 3}), f32({3, 4})).dtype(), DType::f32);
  EXPECT_EQ(linear(f32({7, 2, 3}), f32({3, 4}), f32({4})).shape(), Shape({7, 2, 4}));
  expect_in(error_of([] { matmul(f32({2, 3}), f32({4, 3})); }, ErrorKind::shape), {"matmul", "[2, 3]", "[4, 3]"});
  error_of([] { matmul(f32({2, 2, 3}), f32({3, 3, 4})); }, ErrorKind::shape);
  error_of([] { matmul(f32({}), f32({3, 4})); }, ErrorKind::shape);
  expect_in(error_of(
                [] {
                  linear(f32({2, 3}), f32({3, 1}), f32({5}));
                },
                ErrorKind::shape),
            {"linear", "bias", "[2, 1]", "f32[5]"});
  error_of([] { linear(f32({2, 3}), f32({3, 4}), f32({7, 2, 4})); }, ErrorKind::shape);
  EXPECT_EQ(error_of(
                [] {
                  linear(f32({2, 3}), f32({4, 3}));
                },
                ErrorKind::shape),
            "linear: the weight must be [in, out] with an `in` of 3; this one is [out, in], so give transpose(weight) "
            "(inputs: f32[2, 3], f32[4, 3])");
  EXPECT_EQ(error_of(
                [] {
                  linear(f32({3}), f32({4, 2}));
                },
                ErrorKind::shape),
            "linear: the weight must be [in, out] with an `in` of 3 (inputs: f32[3], f32[4, 2])");
  EXPECT_EQ(
      error_of(
          [] {
            linear_cross_entropy(f32({2, 3}), f32({4, 3}), of(DType::i32, {2}));
          },
          ErrorKind::shape),
      "linear_cross_entropy: x must be [n, d] and w [d, v]; this w is [v, d], so give transpose(w) (inputs: f32[2, "
      "3], f32[4, 3], i32[2])");
  for (const Shape& bias : {Shape{}, Shape{1}, Shape{2, 1}})
    EXPECT_EQ(linear(f32({2, 3}), f32({3, 4}), f32(bias)).shape(), Shape({2, 4}));
}

TEST(Matmul, TypesOfIntegerProducts) {
  using enum DType;
  for (const auto& [a, b, wanted] : {std::tuple{i8, i8, i32},
                                     {u8, i8, i32},
                                     {u8, u8, i32},
                                     {boolean, boolean, i32},
                                     {boolean, i8, i32},
                                     {i8, i32, i32},
                                     {i32, i32, i32},
                                     {u8, i64, i64},
                                     {i64, i32, i64},
                                     {i8, f32, f32},
                                     {i64, bf16, bf16}}) {
    EXPECT_EQ(matmul(of(a, {2, 3}), of(b, {3, 4})).dtype(), wanted) << name(a) << " " << name(b);
    EXPECT_EQ(matmul(of(b, {3}), of(a, {3})).dtype(), wanted) << name(b) << " " << name(a);
  }
  expect_in(error_of(
                [] {
                  matmul(of(i8, {2, 3}), of(u8, {4, 3}));
                },
                ErrorKind::shape),
            {"matmul", "i8[2, 3]", "u8[4, 3]"});
}

// ---- the table ----------------------------------------------------------------------------------------------------

TEST(Table, EveryOpRecordsItsSamples) {
  for (const OpDef* op : ops::all()) {
    for (const DType dtype : {DType::f32, DType::f64, DType::bf16}) {
      const auto samples = test::samples_of(*op, dtype);
      EXPECT_FALSE(samples.empty() && op->samples) << op->name;
      for (const test::Sample& s : samples) EXPECT_NO_THROW(record_all(*op, s.inputs, s.attrs)) << op->name;
    }
  }
}

TEST(Table, DecompositionsHaveTheTypesThatInferSays) {
  for (const OpDef* op : ops::all()) {
    if (!op->decompose) continue;
    for (const DType dtype : {DType::f32, DType::f64, DType::bf16}) {
      for (const test::Sample& s : test::samples_of(*op, dtype)) {
        const LiteralScope literal;
        const OpCall call{*op, s.inputs, s.attrs};
        InferResult types;
        op->infer(call, types);
        const Tensors values = op->decompose(call);
        ASSERT_EQ(static_cast<int>(values.size()), types.count) << op->name;
        for (std::size_t k = 0; k < values.size(); ++k) {
          EXPECT_EQ(values[k].shape(), types.types[k].shape) << op->name;
          EXPECT_EQ(name(values[k].dtype()), name(types.types[k].dtype)) << op->name;
        }
      }
    }
  }
}

/// Refused by the call: nothing is computed, nor could an i32 hold the place.
TEST(Infer, PlacesAlongAnAxisAreI32) {
  const LazyTensor one = ones({1}), fits = expand(one, {INT32_MAX}), longer = expand(one, {std::int64_t{1} << 31});
  const Shape rows{2, std::int64_t{1} << 31};
  EXPECT_EQ(argmax(fits).dtype(), DType::i32);
  const std::function<void()> calls[] = {[&] { argmax(longer); },
                                         [&] { argmin(longer); },
                                         [&] { argmax(expand(one, rows), 1); },
                                         [&] { argmin(expand(one, rows), -1, true); },
                                         [&] { categorical(longer, Key(1)); },
                                         [&] { sort(longer); }};
  for (const auto& call : calls) expect_in(error_of(call, ErrorKind::shape), {"too long for i32", "2147483648"});
  EXPECT_EQ(argmax(expand(one, rows), 0).shape(), Shape({std::int64_t{1} << 31}));
}

TEST(Infer, RandomNumbersSayWhatTheyWereGiven) {
  expect_in(error_of([] { dropout(f32({3}), 1.5, Key(1)); }, ErrorKind::argument), {"dropout", "1.5", "from 0 to 1"});
  expect_in(error_of([] { rand({2}, {.dtype = DType::i32}); }, ErrorKind::dtype), {"rand", "i32"});
  expect_in(error_of([] { categorical(f32({2, 3}), f32({2})); }, ErrorKind::dtype), {"must be i64", "f32[2]"});
}

/// Numbers that became tensors, casts, reshaped and repeated operands are ours: nobody has seen them.
TEST(Infer, ErrorsListWhatTheCallerWrote) {
  const LazyTensor x = f32({2, 3}), bytes = of(DType::i8, {2, 3}), row = f32({3}), at = of(DType::i8, {});
  const Axes far{5};
  const Shape huge{std::int64_t{1} << 30, std::int64_t{1} << 29};
  const struct {
    std::function<void()> call;
    ErrorKind kind;
    const char* function;
    const char* inputs;
  } cases[] = {
      {[&] {
         pad(x, {-1, 0}, {0, 0});
       },
       ErrorKind::argument, "pad", "f32[2, 3]"},
      {[&] {
         lora_fused(x, f32({4, 2}), f32({2, 5}), 0.5);
       },
       ErrorKind::shape, "lora_fused", "f32[2, 3], f32[4, 2], f32[2, 5]"},
      {[&] { dynamic_slice(x, 1, 0, 4); }, ErrorKind::argument, "dynamic_slice", "f32[2, 3]"},
      {[&] { dynamic_slice(x, 1, at, 4); }, ErrorKind::argument, "dynamic_slice", "f32[2, 3], i8[]"},
      {[&] { dynamic_slice(x, 1, scalar(1.5), 2); }, ErrorKind::dtype, "dynamic_slice", "f32[2, 3], 1.5"},
      {[&] { dynamic_update_slice(x, bytes, 2, 0); }, ErrorKind::argument, "dynamic_update_slice",
       "f32[2, 3], i8[2, 3]"},
      {[&] {
         dynamic_update_slice(x, of(DType::i8, {3, 3}), 0, 0);
       },
       ErrorKind::shape, "dynamic_update_slice", "f32[2, 3], i8[3, 3]"},
      {[&] { where(x, 0.5, f32({4})); }, ErrorKind::shape, "where", "f32[2, 3], f32[4]"},
      {[&] { where(x, f32({4}), 0.5); }, ErrorKind::shape, "where", "f32[2, 3], f32[4]"},
      {[&] { where(x, f32({4}), scalar(0.5)); }, ErrorKind::shape, "where", "f32[2, 3], f32[4], 0.5"},
      {[&] {
         matmul(row, f32({4, 2}));
       },
       ErrorKind::shape, "matmul", "f32[3], f32[4, 2]"},
      {[&] {
         matmul(bytes, f32({4, 2}));
       },
       ErrorKind::shape, "matmul", "i8[2, 3], f32[4, 2]"},
      {[&] {
         linear(x, f32({3, 4}), row);
       },
       ErrorKind::shape, "linear", "f32[2, 3], f32[3, 4], f32[3]"},
      {[&] {
         linear(x, f32({2, 4}));
       },
       ErrorKind::shape, "linear", "f32[2, 3], f32[2, 4]"},
      {[&] {
         concat({x, of(DType::i8, {3, 4})}, 0);
       },
       ErrorKind::shape, "concat", "f32[2, 3], i8[3, 4]"},
      {[&] {
         stack({x, row}, 0);
       },
       ErrorKind::shape, "stack", "f32[2, 3], f32[3]"},
      {[&] { scatter_add(x, at, bytes); }, ErrorKind::shape, "scatter_add", "f32[2, 3], i8[], i8[2, 3]"},
      {[&] { set_rows(x, of(DType::i32, {1}), bytes); }, ErrorKind::shape, "set_rows", "f32[2, 3], i32[1], i8[2, 3]"},
      {[&] { sum(bytes, far); }, ErrorKind::argument, "sum", "i8[2, 3]"},
      {[&] { mean(bytes, far); }, ErrorKind::argument, "mean", "i8[2, 3]"},
      {[&] { var(bytes, far); }, ErrorKind::argument, "var", "i8[2, 3]"},
      {[&] {
         argmax(f32({0, 3}));
       },
       ErrorKind::shape, "argmax", "f32[0, 3]"},
      {[&] {
         attention(f32({4, 2, 8}), f32({4, 2, 8}), f32({4, 2, 8}), {.query_offsets = at});
       },
       ErrorKind::shape, "attention", "f32[4, 2, 8], f32[4, 2, 8], f32[4, 2, 8], i8[]"},
      {[&] {
         attention(f32({4, 2, 8}), f32({4, 2, 8}), f32({4, 2, 8}), {.bias = bytes});
       },
       ErrorKind::shape, "attention", "f32[4, 2, 8], f32[4, 2, 8], f32[4, 2, 8], i8[2, 3]"},
      {[&] {
         linear_cross_entropy(f32({2, 2, 3}), f32({4, 5}), of(DType::i8, {2, 2}));
       },
       ErrorKind::shape, "linear_cross_entropy", "f32[2, 2, 3], f32[4, 5], i8[2, 2]"},
      {[&] { take_along_axis(x, bytes, 2); }, ErrorKind::argument, "take_along_axis", "f32[2, 3], i8[2, 3]"},
      {[&] {
         rope(f32({2, 1, 4}), of(DType::i8, {2}), std::numeric_limits<double>::infinity());
       },
       ErrorKind::argument, "rope", "f32[2, 1, 4], i8[2]"},
      {[&] { full(huge, 0.5); }, ErrorKind::shape, "full", ""},
      {[&] { zeros(huge); }, ErrorKind::shape, "zeros", ""},
      {[&] { rand(huge, {.key = Key(1)}); }, ErrorKind::shape, "rand", ""},
      {[&] { less(bytes, f32({4})); }, ErrorKind::shape, "less", "i8[2, 3], f32[4]"},
  };
  for (const auto& c : cases) {
    const std::string text = error_of(c.call, c.kind), given = c.inputs;
    EXPECT_EQ(text.rfind(std::string(c.function) + ": ", 0), 0u) << text;
    const std::size_t at_inputs = text.find(" (inputs: ");
    if (given.empty()) EXPECT_EQ(at_inputs, std::string::npos) << text;
    else if (at_inputs == std::string::npos) ADD_FAILURE() << text;
    else EXPECT_EQ(text.substr(at_inputs), " (inputs: " + given + ")");
  }
}

TEST(Table, NamesAreUnique) {
  std::set<std::string_view> names;
  for (const OpDef* op : ops::all()) EXPECT_TRUE(names.insert(op->name).second) << op->name;
  EXPECT_GT(names.size(), 70u);
}

}  // namespace
}  // namespace metal_candle
