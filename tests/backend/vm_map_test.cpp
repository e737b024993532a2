// Ops, types and random numbers of row programs against the reference interpreter: every op over its domain and the
// special values, every cast; with every instruction set of the machine.
#include <bit>

#include "vm_harness.h"

namespace metal_candle::test {
namespace {

using enum Elementwise;

struct Domain {
  Elementwise op;
  const char* name;
  bool binary;
  double low, high;
};
const Domain kDomains[] = {
#define MC_UNARY(name, domain, cost, body, vjp, low, high) {name, #name, false, low, high},
#define MC_BINARY(name, domain, cost, body, a, b, low, high) {name, #name, true, low, high},
#define MC_COMPARE(name, body) {name, #name, true, -2, 2},
#include "metal_candle/elementwise.def"
};

KernelProgram map_program(Elementwise op, bool binary, std::int64_t n, DType dtype) {
  ProgramBuilder b({1});
  b.stage(n);
  const int x = b.load(b.dense(0, dtype)), z = binary ? b.load(b.dense(1, dtype)) : -1;
  const int y = b.map(op, x, z);
  b.store(y, b.dense(2, b.type(y) == RegType::i32 && dtype != DType::i32 ? DType::boolean : dtype));
  return b.done();
}

TEST(VmMap, EveryOpOverItsDomain) {
  const std::int64_t n = 5000;
  for (const Domain& d : kDomains) {
    for (DType dtype : {DType::f32, DType::f64}) {
      SCOPED_TRACE(std::string(d.name) + " " + std::string(name(dtype)));
      Case c{map_program(d.op, d.binary, n, dtype), {}, {}};
      c.buffers = {random_array(dtype, n, d.low, d.high, 1), random_array(dtype, n, d.low, d.high, 2),
                   Array(d.op >= equal ? DType::boolean : dtype, n)};
      for (int i = 0; i < 100; ++i)
        c.buffers[0].set(i, std::floor(c.buffers[0].get(i)) + 0.5), c.buffers[1].set(i, c.buffers[0].get(i));
      c.absolute = 4e-6;  // the cancellation in gelu's tails
      check(c);
    }
  }
}

TEST(VmMap, SpecialValuesAsC99) {
  const double specials[] = {0.0, -0.0, kInf, -kInf, kNan, 1e-45, -1e-45, 1e-40, 3.4e38, -3.4e38, 1,
                             -1,  0.5,  -0.5, 1.5,   2.5,  88.5,  89,     104,   -104,   710};
  const std::int64_t n = std::size(specials) * std::size(specials);
  for (const Domain& d : kDomains) {
    if (d.op == silu_grad || d.op == gelu_grad || d.op == gelu_tanh_grad || d.op == gelu_tanh) continue;
    SCOPED_TRACE(d.name);
    Case c{map_program(d.op, d.binary, n, DType::f32),
           {Array(DType::f32, n), Array(DType::f32, n), Array(d.op >= equal ? DType::boolean : DType::f32, n)},
           {}};
    for (std::int64_t i = 0; i < n; ++i) {
      c.buffers[0].set(i, specials[i / std::size(specials)]);
      c.buffers[1].set(i, specials[i % std::size(specials)]);
    }
    c.absolute = 2e-43 + (d.op == sin || d.op == cos ? 1e-6 : 0);
    check(c);
  }
}

/// Largest error in units of the last place over a sample of all floats.
double worst_ulp(Elementwise op, double low, double high, double (*f)(double)) {
  std::vector<float> in;
  for (std::uint64_t bits = 0; bits < (std::uint64_t{1} << 32); bits += 4099) {
    const float x = std::bit_cast<float>(static_cast<std::uint32_t>(bits));
    if (x >= low && x <= high) in.push_back(x);
  }
  const auto n = static_cast<std::int64_t>(in.size());
  Case c{map_program(op, false, n, DType::f32), {Array(DType::f32, n), Array(DType::f32, 0), Array(DType::f32, n)}, {}};
  for (std::int64_t i = 0; i < n; ++i) c.buffers[0].put(i, in[i]);
  const std::vector<Array> got = execute(c);
  double worst = 0;
  for (std::int64_t i = 0; i < n; ++i) {
    const double want = f(in[i]), y = got[2].get(i);
    if (std::isinf(static_cast<float>(want)) && std::isinf(y)) continue;
    const float near = static_cast<float>(std::fabs(want));
    const double ulp =
        std::max(1.4e-45, static_cast<double>(std::nextafter(near, std::numeric_limits<float>::infinity())) - near);
    if (!(std::fabs(y - want) / ulp <= worst)) worst = std::fabs(y - want) / ulp;
  }
  return worst;
}

TEST(VmMap, FunctionsWithinAFewUlpOfAllFloats) {
  for_each_isa([] {
    EXPECT_LE(worst_ulp(exp, -kInf, kInf, std::exp), 2);
    EXPECT_LE(worst_ulp(expm1, -kInf, kInf, std::expm1), 3);
    EXPECT_LE(worst_ulp(log, 0, kInf, std::log), 2);
    EXPECT_LE(worst_ulp(log1p, -1, kInf, std::log1p), 3);
    EXPECT_LE(worst_ulp(tanh, -kInf, kInf, std::tanh), 4);
    EXPECT_LE(worst_ulp(sigmoid, -kInf, kInf, reference::body::sigmoid), 4);
    EXPECT_LE(worst_ulp(erf, -kInf, kInf, std::erf), 3);
    EXPECT_LE(worst_ulp(sin, -2e5, 2e5, std::sin), 3);
    EXPECT_LE(worst_ulp(cos, -2e5, 2e5, std::cos), 3);
    EXPECT_LE(worst_ulp(sin, -3e38, 3e38, std::sin), 3);
    EXPECT_LE(worst_ulp(rsqrt, 0, kInf, reference::body::rsqrt), 2);
  });
}

/// Where exp(-x) overflows, denormals among it, and NaN.
TEST(VmMap, SlopesFarOutAndBesideIt) {
  const double xs[] = {0.0,   -0.0, 1e-45, -1e-40, 86.9, -86.9, 87.1, -87.1,
                       -88.8, -95,  -103,  -104.5, 200,  -200,  3e38, kNan};
  for (Elementwise op : {silu_grad, gelu_tanh_grad}) {
    for (const std::int64_t n : {5, 16, 75, 256}) {
      SCOPED_TRACE(std::string(info(op).name) + " of " + std::to_string(n));
      Case c{map_program(op, false, n, DType::f32),
             {Array(DType::f32, n), Array(DType::f32, 0), Array(DType::f32, n)},
             {}};
      for (std::int64_t i = 0; i < n; ++i) c.buffers[0].set(i, xs[(i + n) % std::ssize(xs)]);
      c.relative = 1e-5;
      c.absolute = 2e-43;
      check(c);
    }
  }
}

TEST(VmMap, PowWithinAFewUlp) {
  const std::int64_t n = 20000;
  Case c{map_program(pow, true, n, DType::f32),
         {random_array(DType::f32, n, -3, 3, 4), random_array(DType::f32, n, -60, 60, 5), Array(DType::f32, n)},
         {}};
  for (std::int64_t i = 0; i < n; ++i) c.buffers[0].set(i, std::exp(c.buffers[0].get(i)));
  c.relative = 4e-7;
  c.absolute = 3e-45;
  check(c);
}

TEST(VmMap, IntegersWrapAndKeepTheirType) {
  for (DType dtype : {DType::i32, DType::i64}) {
    for (Elementwise op : {neg, abs, sign, square, floor, ceil, round, relu, add, sub, mul, maximum, minimum, equal,
                           less, greater_equal}) {
      SCOPED_TRACE(std::string(info(op).name));
      const bool binary = info(op).cls != ElementwiseClass::unary;
      Case c{map_program(op, binary, 300, dtype),
             {random_array(dtype, 300, -100, 100, 1), random_array(dtype, 300, -100, 100, 2),
              Array(op >= equal && dtype != DType::i32 ? DType::boolean : dtype, 300)},
             {}};
      check(c);
    }
  }
}

TEST(VmMap, ElementwiseBitsDoNotDependOnPlaceOrFusion) {
  for_each_isa([] {
    for (Elementwise op :
         {exp, log, tanh, sigmoid, silu, silu_grad, gelu, gelu_tanh, gelu_tanh_grad, sin, softplus, erf, pow}) {
      std::vector<Array> first;
      for (std::int64_t cols : {6400, 64, 100, 1}) {  // the same 6400 values in other shapes and positions
        ProgramBuilder b({6400 / cols});
        b.stage(cols);
        const int x = b.load(b.dense(0));
        const int y = b.map(op, x, info(op).cls == ElementwiseClass::unary ? -1 : b.load(b.column_weights(1)));
        if (cols == 100) b.store(b.map(mul, y, b.literal(1)), b.dense(3));
        b.store(y, b.dense(2));
        Case c{b.done(),
               {random_array(DType::f32, 6400, 0.1, 4), random_array(DType::f32, 6400, 2, 2), Array(DType::f32, 6400),
                Array(DType::f32, 6400)},
               {}};
        c.buffers[1] = random_array(DType::f32, 6400, 2, 2.0001, 9);
        for (int i = 0; i < 6400; ++i) c.buffers[1].set(i, 2);
        std::vector<Array> got = execute(c);
        if (first.empty()) first = got;
        ASSERT_EQ(first[2].bytes, got[2].bytes) << info(op).name << " cols " << cols;
      }
    }
  });
}

// --- dtypes ---

TEST(VmDtypes, LoadsCastsAndStores) {
  const DType all[] = {DType::f32, DType::f64, DType::f16, DType::bf16,   DType::i8,
                       DType::u8,  DType::i32, DType::i64, DType::boolean};
  for (DType from : all) {
    for (DType to : all) {
      for (std::int64_t cols : {5, 50}) {
        SCOPED_TRACE(std::string(name(from)) + " to " + std::string(name(to)));
        ProgramBuilder b({7});
        b.stage(cols);
        const int x = b.load(b.dense(0, from));
        const int y = b.cast(x, to);
        b.store(y, b.dense(1, to));
        b.store(b.map(sub, y, b.map(square, y)), b.dense(2, reg_type(to) == RegType::f32   ? DType::f32
                                                            : reg_type(to) == RegType::i32 ? DType::i32
                                                                                           : to));
        Case c{b.done(),
               {random_array(from, 7 * cols, from == DType::boolean || from == DType::u8 ? 0 : -5,
                             from == DType::boolean ? 2 : 5),
                Array(to, 7 * cols),
                Array(reg_type(to) == RegType::f32   ? DType::f32
                      : reg_type(to) == RegType::i32 ? DType::i32
                                                     : to,
                      7 * cols)},
               {}};
        if (to == DType::u8 && from != DType::boolean) c.buffers[0] = random_array(from, 7 * cols, 0, 9);
        check(c);
      }
    }
  }
}

TEST(VmDtypes, HalfFloatsRoundToNearestEven) {
  const std::int64_t n = 1 << 16;
  for (DType dtype : {DType::bf16, DType::f16}) {
    ProgramBuilder b({1});
    b.stage(n);
    const int x = b.load(b.dense(0));
    b.store(x, b.dense(1, dtype));
    b.store(b.load(b.dense(2, dtype)), b.dense(3));
    b.store(b.cast(x, dtype), b.dense(4));  // rounded in registers
    Case c{b.done(),
           {Array(DType::f32, n), Array(dtype, n), Array(dtype, n), Array(DType::f32, n), Array(DType::f32, n)},
           {}};
    std::mt19937 rng(3);
    for (std::int64_t i = 0; i < n; ++i) {
      c.buffers[0].put<std::uint32_t>(
          i, i < n / 2 ? rng() : 0x38000000u + static_cast<std::uint32_t>(i - n / 2) * 0x1000u);
      c.buffers[2].put<std::uint16_t>(i, static_cast<std::uint16_t>(i));
    }
    std::vector<Array> want = c.buffers;
    reference::Interpreter(c.program, want, c.slots).run();
    for_each_isa([&] {
      const auto got = execute(c);
      for (std::int64_t i = 0; i < n; ++i) {
        ASSERT_TRUE(got[1].get(i) == want[1].get(i) || (std::isnan(got[1].get(i)) && std::isnan(want[1].get(i))))
            << c.buffers[0].get(i);
        for (const std::size_t k : {3u, 4u})
          ASSERT_TRUE(got[k].get(i) == want[k].get(i) || (std::isnan(got[k].get(i)) && std::isnan(want[k].get(i))))
              << i;
      }
    });
  }
}

// --- random numbers ---

TEST(VmRandom, PhiloxAnswersAndMoments) {
  for_each_isa([] {
    const std::int64_t rows = 20, cols = 5001;
    ProgramBuilder b({rows});
    b.stage(cols);
    const int key = b.slot(0, RegType::i64), width = b.literal(static_cast<double>(cols), RegType::i64);
    const int counter = b.map(add, b.map(mul, b.row_index(), width), b.col_index());
    b.store(b.random(false, key, counter), b.dense(0));
    b.store(b.random(true, key, counter), b.dense(1));
    const auto out = execute({b.done(), {Array(DType::f32, rows * cols), Array(DType::f32, rows * cols)}, {0}});
    // Random123's known answer: key 0, counter 0 gives 6627e8d5 e169c58d ...
    EXPECT_EQ(out[0].raw<float>(0), static_cast<float>(0x6627e8d5u >> 8) / 16777216.0f);
    double mean = 0, square = 0, uniform = 0;
    for (std::int64_t i = 0; i < rows * cols; ++i) {
      const double u = out[0].get(i), n = out[1].get(i);
      ASSERT_TRUE(u >= 0 && u < 1);
      mean += n, square += n * n, uniform += u;
    }
    const double count = static_cast<double>(rows * cols);
    EXPECT_NEAR(mean / count, 0, 0.015);
    EXPECT_NEAR(square / count, 1, 0.02);
    EXPECT_NEAR(uniform / count, 0.5, 0.005);
    const double u = (0x6627e8d5u >> 1) * std::ldexp(1, -31) + std::ldexp(1, -32);
    const double angle = static_cast<std::int32_t>(0xe169c58du) * std::ldexp(1, -31) * 3.14159265358979;
    EXPECT_NEAR(out[1].get(0), std::sqrt(-2 * std::log(u)) * std::cos(angle), 1e-6);
  });
}

// f32's digits are the first of f64's, and behind them 29 more are drawn.
TEST(VmRandom, OfF64HaveAllTheirDigits) {
  const std::int64_t rows = 20, cols = 5001;
  ProgramBuilder b({rows});
  b.stage(cols);
  const int key = b.slot(0, RegType::i64), width = b.literal(static_cast<double>(cols), RegType::i64);
  const int counter = b.map(add, b.map(mul, b.row_index(), width), b.col_index());
  for (const bool normal : {false, true}) {
    b.store(b.random(normal, key, counter, RegType::f64), b.dense(normal ? 2 : 0, DType::f64));
    b.store(b.random(normal, key, counter), b.dense(normal ? 3 : 1));
  }
  const std::int64_t n = rows * cols;
  const auto out = execute(
      {b.done(), {Array(DType::f64, n), Array(DType::f32, n), Array(DType::f64, n), Array(DType::f32, n)}, {0}});
  // Random123's known answer: key 0, counter 0 gives 6627e8d5 e169c58d bc57ac4c 9b00dbd8.
  EXPECT_EQ(out[0].get(0), std::ldexp(static_cast<double>(0x6627e8d5e169c58du >> 11), -53));
  const double u = std::ldexp(static_cast<double>(0x6627e8d5bc57ac4cu), -64);
  const double turn = std::ldexp(static_cast<double>(static_cast<std::int64_t>(0xe169c58d9b00dbd8u)), -63);
  EXPECT_NEAR(out[2].get(0), std::sqrt(-2 * std::log(u)) * std::cos(turn * 3.14159265358979324), 1e-14);
  double mean = 0, square = 0, low = 0;
  for (std::int64_t i = 0; i < n; ++i) {
    const double x = out[0].get(i), scaled = std::ldexp(x, 24);
    ASSERT_EQ(std::floor(scaled), std::ldexp(out[1].get(i), 24));
    low += scaled - std::floor(scaled);
    ASSERT_NEAR(out[2].get(i), out[3].get(i), 1e-3);
    mean += out[2].get(i), square += out[2].get(i) * out[2].get(i);
  }
  const double count = static_cast<double>(n);
  EXPECT_NEAR(low / count, 0.5, 0.005);
  EXPECT_NEAR(mean / count, 0, 0.015);
  EXPECT_NEAR(square / count, 1, 0.02);
}

}  // namespace
}  // namespace metal_candle::test
