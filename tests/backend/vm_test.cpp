// Row programs against the reference interpreter: every op over its domain and the special values, every geometry of
// blocks, strides, gathers, stages, column reductions, dtypes; all of it with every instruction set of the machine.
#include <bit>

#include "vm_harness.h"

namespace metal_candle::test {
namespace {

using enum Elementwise;
const double kInf = std::numeric_limits<double>::infinity();
const double kNan = std::numeric_limits<double>::quiet_NaN();
const std::int64_t kColumns[] = {0, 1, 2, 3, 15, 16, 17, 63, 64, 100, 1023, 1024, 1025, 4096, 5000};
const std::int64_t kRows[] = {0, 1, 2, 3, 7, 64};

struct Domain {
  Elementwise op;
  const char* name;
  bool binary;
  double low, high;
};
const Domain kDomains[] = {
#define MC_UNARY(name, domain, body, vjp, low, high) {name, #name, false, low, high},
#define MC_BINARY(name, domain, body, a, b, low, high) {name, #name, true, low, high},
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
    for (Elementwise op : {exp, log, tanh, sigmoid, gelu, gelu_tanh, sin, softplus, erf, pow}) {
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

// --- geometry ---

Case softmax_case(std::int64_t rows, std::int64_t cols, bool keep, DType dtype = DType::f32) {
  ProgramBuilder b({rows});
  b.stage(cols);
  const int x = b.load(b.dense(0, dtype));
  const int top = b.reduce(KOp::reduce_max, x);
  b.stage(cols);
  const int e = b.map(exp, b.map(sub, x, top));
  if (keep) b.keep(e);
  const int total = b.reduce(KOp::reduce_sum, e);
  b.stage(cols);
  b.store(b.map(div, e, total), b.dense(1, dtype));
  b.store(total, b.per_row(2));
  return {b.done(), {random_array(dtype, rows * cols, -5, 5), Array(dtype, rows * cols), Array(DType::f32, rows)}, {}};
}

TEST(VmGeometry, SoftmaxOfEveryShape) {
  for (std::int64_t rows : kRows) {
    for (std::int64_t cols : kColumns) {
      SCOPED_TRACE(std::to_string(rows) + "x" + std::to_string(cols));
      check(softmax_case(rows, cols, true));
      check(softmax_case(rows, cols, false, cols % 2 ? DType::bf16 : DType::f16));
    }
  }
  check(softmax_case(3, 100000, true));
}

TEST(VmGeometry, WeightsAndBroadcasts) {
  for (std::int64_t rows : kRows) {
    for (std::int64_t cols : kColumns) {
      SCOPED_TRACE(std::to_string(rows) + "x" + std::to_string(cols));
      ProgramBuilder b({rows});
      b.stage(cols);
      const int x = b.load(b.dense(0)), w = b.load(b.column_weights(1)), r = b.load(b.per_row(2), false);
      const int s = b.slot(0), k = b.literal(0.25);
      int y = b.map(add, b.map(mul, x, w), b.map(sub, r, b.map(mul, x, k)));
      y = b.map(maximum, b.map(mul, s, y), b.map(sub, k, r));
      b.store(y, b.dense(3));
      b.store(b.select(b.map(greater, w, r), s, y), b.dense(4, DType::bf16));
      b.store(b.map(mul, r, s), b.per_row(5));
      check({b.done(),
             {random_array(DType::f32, rows * cols, -2, 2), random_array(DType::f32, cols, -2, 2, 2),
              random_array(DType::f32, rows, -2, 2, 3), Array(DType::f32, rows * cols), Array(DType::bf16, rows * cols),
              Array(DType::f32, rows)},
             {1.5}});
    }
  }
}

TEST(VmGeometry, FlatPrograms) {
  for (std::int64_t rows : {1, 3, 50, 1000}) {
    for (std::int64_t cols : {1, 3, 64, 1000}) {
      for (bool stream : {false, true}) {
        ProgramBuilder b({rows});
        b.stage(cols);
        const int x = b.load(b.dense(0)), z = b.load(b.dense(1, DType::bf16));
        KAccess scalar{.buffer = 2, .row_strides = {0}};
        const int y = b.map(add, b.map(mul, x, z), b.load(scalar));
        KAccess out = b.dense(3), out16 = b.dense(4, DType::bf16);
        out.stream = out16.stream = stream;
        b.store(y, out);
        b.store(b.map(silu, y), out16);
        check({b.done(),
               {random_array(DType::f32, rows * cols, -2, 2), random_array(DType::bf16, rows * cols, -2, 2, 2),
                random_array(DType::f32, 1, 1, 2), Array(DType::f32, rows * cols), Array(DType::bf16, rows * cols)},
               {}});
      }
    }
  }
}

TEST(VmGeometry, StridesOfAnySign) {
  // x [2, 3, 5, cols] read with its axes permuted and the last reversed; a transposed matrix; a broadcast axis.
  for (std::int64_t cols : {1, 4, 33, 300}) {
    ProgramBuilder b({3, 2, 5});
    b.stage(cols);
    const KAccess permuted{
        .buffer = 0, .offset = cols - 1, .row_strides = {5 * cols, 15 * cols, cols}, .col_stride = -1};
    const KAccess transposed{.buffer = 1, .row_strides = {10, 5, 1}, .col_stride = 30};
    const KAccess backwards{
        .buffer = 0, .offset = 29 * cols, .row_strides = {-10 * cols, -5 * cols, -cols}, .col_stride = 1};
    const KAccess spread{.buffer = 2, .row_strides = {0, 1, 0}, .col_stride = 0};
    const int y = b.map(add, b.load(permuted), b.map(mul, b.load(transposed), b.load(spread)));
    b.store(b.map(sub, y, b.load(backwards)), b.dense(3));
    b.store(y, {.buffer = 4, .row_strides = {10, 5, 1}, .col_stride = 30});
    check({b.done(),
           {random_array(DType::f32, 30 * cols, -2, 2), random_array(DType::f32, 30 * cols, -2, 2, 2),
            random_array(DType::f32, 2, -2, 2, 3), Array(DType::f32, 30 * cols), Array(DType::f32, 30 * cols)},
           {}});
  }
}

TEST(VmGeometry, PermutedHeads) {  // [2, 7, 3, 16] to [2, 3, 7, 16]
  for (std::int64_t tokens : {7, 200}) {
    ProgramBuilder b({2, 3, tokens});
    b.stage(16);
    const int x = b.load({.buffer = 0, .row_strides = {tokens * 48, 16, 48}, .col_stride = 1});
    b.store(b.map(neg, x), b.dense(1));
    check({b.done(), {random_array(DType::f32, 2 * tokens * 48, -2, 2), Array(DType::f32, 2 * tokens * 48)}, {}});
  }
}

TEST(VmGeometry, InPlace) {
  ProgramBuilder b({50});
  b.stage(70);
  const int x = b.load(b.dense(0)), m = b.load(b.dense(1)), x2 = b.map(mul, x, m), m2 = b.map(add, m, x);
  b.store(x2, b.dense(0));
  b.store(m2, b.dense(1));
  check({b.done(), {random_array(DType::f32, 3500, -2, 2), random_array(DType::f32, 3500, -2, 2, 2)}, {}});
}

// --- gathers and indices ---

TEST(VmGather, RowsElementsAndErrors) {
  for (DType index : {DType::i32, DType::i64}) {
    for (std::int64_t cols : {1, 20, 1500}) {
      for (bool bad : {false, true}) {
        ProgramBuilder b({9});
        b.stage(cols);
        const int row = b.load(b.per_row(1, index), false), each = b.load(b.dense(2, index));
        const int table = b.load({.buffer = 0,
                                  .row_strides = {0},
                                  .col_stride = 1,
                                  .gather = row,
                                  .gather_stride = cols,
                                  .gather_extent = 6});
        const int picked = b.load(
            {.buffer = 0, .row_strides = {0}, .col_stride = 0, .gather = each, .gather_stride = 1, .gather_extent = 6});
        const int one =
            b.load({.buffer = 0, .row_strides = {0}, .gather = row, .gather_stride = 1, .gather_extent = 6}, false);
        b.store(b.map(add, b.map(mul, table, picked), one), b.dense(3));
        Case c{b.done(),
               {random_array(DType::f32, 6 * cols, -2, 2), random_array(index, 9, -6, 6, 2),
                random_array(index, 9 * cols, -6, 6, 3), Array(DType::f32, 9 * cols)},
               {}};
        if (bad) c.buffers[1].set(4, 6);
        check(c);
      }
    }
  }
}

TEST(VmGather, RowAndColumnIndices) {
  for (std::int64_t cols : {3, 1200}) {
    ProgramBuilder b({4, 5});
    b.stage(cols);
    const int r = b.row_index(5, 4), c = b.col_index(), t = b.load(b.per_row(0, DType::i64), false);
    const int hit = b.map(equal, c, t), causal = b.map(less_equal, c, b.row_index());
    b.store(b.map(add, b.map(mul, r, b.slot(0, RegType::i64)), c), b.dense(1, DType::i64));
    b.store(hit, b.dense(2, DType::boolean));
    b.store(b.select(b.map(logical_and, causal, b.logical_not(hit)), b.cast(c, DType::f32), b.literal(-kInf)),
            b.dense(3));
    check({b.done(),
           {random_array(DType::i64, 20, 0, cols, 2), Array(DType::i64, 20 * cols), Array(DType::boolean, 20 * cols),
            Array(DType::f32, 20 * cols)},
           {1000}});
  }
}

// --- reductions ---

TEST(VmReduce, AllOpsAllTypes) {
  for (DType dtype : {DType::f32, DType::f64, DType::i32, DType::i64, DType::bf16}) {
    for (std::int64_t rows : {1, 5, 64}) {
      for (std::int64_t cols : {1, 7, 16, 33, 1024, 3000}) {
        ProgramBuilder b({rows});
        b.stage(cols);
        const int x = b.load(b.dense(0, dtype));
        int out = 1;
        std::vector<Array> buffers = {random_array(dtype, rows * cols, -9, 9, 3)};
        const DType wide = dtype == DType::bf16 ? DType::f32 : dtype;
        for (KOp op : {KOp::reduce_sum, KOp::reduce_max, KOp::reduce_min, KOp::reduce_argmax, KOp::reduce_argmin}) {
          const int r = b.reduce(op, x);
          const bool arg = op >= KOp::reduce_argmax;
          b.store(r, b.per_row(out++, arg ? DType::i32 : wide));
          buffers.emplace_back(arg ? DType::i32 : wide, rows);
        }
        Case c{b.done(), buffers, {}};
        c.absolute = 2e-3;
        check(c);
      }
    }
  }
}

/// A reduction of what the instruction before it computes may be one pass with it: the bits are those of two.
TEST(VmReduce, OfWhatIsComputedOnTheWay) {
  using Make = int (*)(ProgramBuilder&, int x, int z, int row);
  const Make expressions[] = {
      [](ProgramBuilder& b, int x, int, int) { return b.map(exp, x); },
      [](ProgramBuilder& b, int x, int, int) { return b.map(square, x); },
      [](ProgramBuilder& b, int x, int, int) { return b.map(abs, x); },
      [](ProgramBuilder& b, int x, int z, int) { return b.map(add, x, z); },
      [](ProgramBuilder& b, int x, int, int row) { return b.map(sub, x, row); },
      [](ProgramBuilder& b, int x, int z, int) { return b.map(mul, x, z); },
      [](ProgramBuilder& b, int x, int, int row) { return b.map(mul, x, row); },
      [](ProgramBuilder& b, int x, int, int row) { return b.map(exp, b.map(sub, x, row)); },
      [](ProgramBuilder& b, int x, int, int row) { return b.map(square, b.map(sub, x, row)); },
      [](ProgramBuilder& b, int x, int z, int) { return b.map(square, b.map(add, x, z)); },
      [](ProgramBuilder& b, int x, int z, int) { return b.map(mul, b.map(mul, x, z), z); },
      [](ProgramBuilder& b, int x, int z, int row) { return b.map(mul, b.map(mul, x, z), row); },
      [](ProgramBuilder& b, int x, int z, int row) { return b.map(mul, b.map(mul, x, row), z); },
      [](ProgramBuilder& b, int x, int z, int) { return b.map(maximum, x, z); },  // has no pass of its own
  };
  for (const Make expression : expressions)
    for (const std::int64_t cols : {1, 40, 64, 1000, 5000})
      for (const bool stored : {false, true}) {
        const std::int64_t rows = 7;
        ProgramBuilder b({rows});
        b.stage(cols);
        const int x = b.load(b.dense(0)), z = b.load(b.dense(1)), row = b.load(b.per_row(2), false);
        const int value = expression(b, x, z, row);
        b.store(b.reduce(KOp::reduce_sum, value), b.per_row(3));
        b.store(b.reduce(KOp::reduce_max, value), b.per_row(4));
        if (stored) b.store(value, b.dense(5));
        Case c{b.done(),
               {random_array(DType::f32, rows * cols, -2, 2, 5), random_array(DType::f32, rows * cols, -2, 2, 6),
                random_array(DType::f32, rows, -1, 1, 7), Array(DType::f32, rows), Array(DType::f32, rows),
                Array(DType::f32, rows * cols)},
               {}};
        c.absolute = 2e-3;
        check(c);
        if (!stored) continue;
        ProgramBuilder plain({rows});
        plain.stage(cols);
        plain.store(plain.reduce(KOp::reduce_sum, plain.load(plain.dense(0))), plain.per_row(1));
        for_each_isa([&] {
          const auto fused = execute(c);
          const auto apart = execute({plain.done(), {fused[5], Array(DType::f32, rows)}, {}});
          EXPECT_EQ(fused[3].bytes, apart[1].bytes);
        });
      }
}

TEST(VmGather, OneColumnIsPicked) {
  for (const std::int64_t cols : {1, 20, 300, 9000}) {
    ProgramBuilder b({5});
    b.stage(cols);
    const int where = b.load(b.per_row(0, DType::i64), false), x = b.load(b.per_row(1), false);
    const int hit = b.map(equal, b.col_index(), where);
    b.store(b.map(sub, b.load(b.dense(2)), b.select(hit, x, b.literal(0.25))), b.dense(3));
    Case c{b.done(),
           {Array(DType::i64, 5), random_array(DType::f32, 5, -2, 2), random_array(DType::f32, 5 * cols, -2, 2, 3),
            Array(DType::f32, 5 * cols)},
           {}};
    const std::int64_t places[] = {0, cols - 1, cols / 2, -1, cols};
    for (int i = 0; i < 5; ++i) c.buffers[0].set(i, static_cast<double>(places[i]));
    check(c);
  }
}

TEST(VmReduce, NanInfinityAndTies) {
  for (std::int64_t cols : {1, 5, 64, 100, 2050}) {
    for (int kind = 0; kind < 5; ++kind) {
      ProgramBuilder b({3});
      b.stage(cols);
      const int x = b.load(b.dense(0));
      Case c{{}, {random_array(DType::f32, 3 * cols, -2, 2, 7)}, {}};
      for (std::int64_t i = 0; i < 3 * cols; ++i) {
        if (kind == 0) c.buffers[0].set(i, 1);
        if (kind == 1) c.buffers[0].set(i, -kInf);
        if (kind == 2 && i % 3 == 2) c.buffers[0].set(i, kNan);
        if (kind == 3 && i == cols) c.buffers[0].set(i, kNan);
        if (kind == 4 && i == 2 * cols - 1) c.buffers[0].set(i, kInf);
      }
      int out = 1;
      for (KOp op : {KOp::reduce_max, KOp::reduce_min, KOp::reduce_argmax, KOp::reduce_argmin, KOp::reduce_sum}) {
        const DType dtype = op == KOp::reduce_argmax || op == KOp::reduce_argmin ? DType::i32 : DType::f32;
        b.store(b.reduce(op, x), b.per_row(out++, dtype));
        c.buffers.emplace_back(dtype, 3);
      }
      c.program = b.done();
      c.absolute = 1e-4;
      check(c);
    }
  }
}

TEST(VmReduce, OfAValueThatIsTheSameAlongTheRow) {
  ProgramBuilder b({6});
  b.stage(37);
  const int spread = b.load({.buffer = 0, .row_strides = {1}, .col_stride = 0});
  b.store(b.reduce(KOp::reduce_sum, spread), b.per_row(1));
  b.store(spread, b.dense(2));
  check({b.done(), {random_array(DType::f32, 6, -2, 2), Array(DType::f32, 6), Array(DType::f32, 6 * 37)}, {}});
}

TEST(VmReduce, ProductAndStagesOfDifferentWidth) {
  for (std::int64_t rows : {1, 40}) {
    ProgramBuilder b({rows});
    b.stage(300);
    const int x = b.load(b.dense(0));
    const int best = b.reduce(KOp::reduce_argmax, x), product = b.reduce(KOp::reduce_prod, x);
    b.stage(24);
    const int row = b.load(
        {.buffer = 1, .row_strides = {0}, .col_stride = 1, .gather = best, .gather_stride = 24, .gather_extent = 300});
    b.store(b.map(mul, row, product), b.dense(2));
    check({b.done(),
           {random_array(DType::f32, rows * 300, 0.95, 1.05), random_array(DType::f32, 300 * 24, -2, 2, 2),
            Array(DType::f32, rows * 24)},
           {}});
  }
}

TEST(VmReduce, ColumnsWithBatchesAndChunks) {
  for (std::int64_t batch : {1, 3}) {
    for (std::int64_t chunks : {1, 4}) {
      for (std::int64_t cols : {1, 17, 300, 2500}) {
        for (bool norm : {false, true}) {
          ProgramBuilder b({batch, 11});
          b.stage(cols);
          int x = b.load(b.dense(0));
          if (norm) {
            const int sum = b.reduce(KOp::reduce_sum, b.map(square, x));
            const int scale = b.map(rsqrt, b.map(add, sum, b.literal(1)));
            b.stage(cols);
            x = b.map(mul, x, scale);
            b.store(x, b.dense(6));
          }
          b.col(KOp::col_sum, x, 1);
          b.col(KOp::col_max, b.map(neg, x), 2);
          b.col(KOp::col_min, x, 3);
          b.col(KOp::col_prod, b.map(exp, b.map(mul, x, b.literal(0.1))), 4, DType::bf16);
          b.col(KOp::col_sum, b.literal(2), 5);
          b.p.batch = batch;
          b.p.col_chunks = chunks;
          const std::int64_t n = batch * chunks * cols;
          check({b.done(),
                 {random_array(DType::f32, batch * 11 * cols, -2, 2), Array(DType::f32, n), Array(DType::f32, n),
                  Array(DType::f32, n), Array(DType::bf16, n), Array(DType::f32, n),
                  Array(DType::f32, batch * 11 * cols)},
                 {},
                 3e-6,
                 1e-5});
        }
      }
    }
  }
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
    Case c{b.done(), {Array(DType::f32, n), Array(dtype, n), Array(dtype, n), Array(DType::f32, n)}, {}};
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
        ASSERT_TRUE(got[3].get(i) == want[3].get(i) || (std::isnan(got[3].get(i)) && std::isnan(want[3].get(i)))) << i;
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

// --- matmul epilogues ---

TEST(VmTile, EpilogueOfPartsOfTheOutput) {
  const std::int64_t rows = 37, cols = 300, ld = 160;
  ProgramBuilder b({rows});
  b.stage(cols);
  const int product = b.load(b.dense(0)), bias = b.load(b.column_weights(1)),
            residual = b.load(b.dense(2, DType::bf16)), scale = b.load(b.per_row(3), false);
  const int y = b.map(add, b.map(gelu, b.map(add, b.map(mul, product, scale), bias)), residual);
  b.store(y, b.dense(4));
  b.store(y, b.dense(5, DType::bf16));
  Case c{b.done(),
         {random_array(DType::f32, rows * cols, -2, 2), random_array(DType::f32, cols, -2, 2, 2),
          random_array(DType::bf16, rows * cols, -2, 2, 3), random_array(DType::f32, rows, -2, 2, 4),
          Array(DType::f32, rows * cols), Array(DType::bf16, rows * cols)},
         {}};
  for_each_isa([&] {
    const auto whole = execute(c);
    auto buffers = c.buffers;
    std::vector<void*> pointers;
    for (Array& a : buffers) pointers.push_back(a.bytes.data());
    pointers[0] = nullptr;  // must not be touched
    ASSERT_TRUE(cpu::RowProgram::tileable(c.program));
    const auto program = cpu::RowProgram::lower(c.program, {.buffer = 0, .cols = 64});
    std::vector<char> scratch(program->scratch_bytes());
    for (std::int64_t r = 0; r < rows; r += 13) {
      for (std::int64_t col = 0; col < cols; col += 150) {
        const std::int64_t nr = std::min<std::int64_t>(13, rows - r), nc = std::min<std::int64_t>(150, cols - col);
        std::vector<float> tile(nr * ld);
        for (std::int64_t i = 0; i < nr; ++i) {
          for (std::int64_t j = 0; j < nc; ++j) tile[i * ld + j] = c.buffers[0].raw<float>((r + i) * cols + col + j);
        }
        program->run_tile(pointers.data(), nullptr, r, nr, col, nc, tile.data(), ld, scratch.data());
      }
    }
    EXPECT_EQ(buffers[4].bytes, whole[4].bytes);
    EXPECT_EQ(buffers[5].bytes, whole[5].bytes);
  });
}

// --- random programs ---

/// Smooth ops on values that stay within bounds, in up to three stages, with row values mixed in.
Case random_program(unsigned seed) {
  std::mt19937 rng(seed);
  auto pick = [&](int n) { return static_cast<int>(rng() % static_cast<unsigned>(n)); };
  const std::int64_t columns[] = {1, 3, 17, 64, 100, 333, 1030, 2100}, row_counts[] = {1, 2, 5, 30, 130};
  const std::int64_t cols = columns[pick(8)], rows = row_counts[pick(5)];
  ProgramBuilder b(rows % 5 == 0 && pick(2) ? std::vector<std::int64_t>{5, rows / 5} : std::vector<std::int64_t>{rows});
  b.stage(cols);
  Case c;
  c.buffers = {random_array(DType::f32, rows * cols, -1, 1, seed),
               random_array(DType::bf16, rows * cols, -1, 1, seed + 1), random_array(DType::f32, cols, -1, 1, seed + 2),
               random_array(DType::f32, rows, -1, 1, seed + 3)};
  std::vector<int> values = {b.load(b.dense(0)), b.load(b.dense(1, DType::bf16)), b.load(b.column_weights(2)),
                             b.slot(0), b.literal(0.5)};
  std::vector<int> row_values = {b.load(b.per_row(3), false)};
  const int stages = 1 + pick(3);
  for (int stage = 0; stage < stages; ++stage) {
    if (stage > 0) b.stage(cols);
    for (int n = 3 + pick(20); n > 0; --n) {
      const int x = values[pick(static_cast<int>(values.size()))];
      const int z = pick(4) ? values[pick(static_cast<int>(values.size()))]
                            : row_values[pick(static_cast<int>(row_values.size()))];
      const Elementwise smooth[] = {tanh, sigmoid, sin, cos, neg, abs}, two[] = {add, sub, mul, maximum, minimum};
      int y = pick(2) ? b.map(smooth[pick(6)], x) : b.map(tanh, b.map(two[pick(5)], x, z));
      if (pick(8) == 0) y = b.select(b.map(less, b.map(floor, b.map(mul, x, b.literal(0))), b.literal(0.5)), y, z);
      if (pick(4) == 0 && b.full(y)) b.keep(y);
      values.push_back(y);
    }
    std::vector<int> fresh;
    for (int n = pick(3); n > 0; --n) {
      const int x = values[pick(static_cast<int>(values.size()))];
      if (b.full(x)) fresh.push_back(b.reduce(pick(2) ? KOp::reduce_max : KOp::reduce_sum, x));
    }
    for (int r : fresh) row_values.push_back(b.map(tanh, b.map(mul, r, b.literal(0.01))));
  }
  for (int n = 0; n < 3; ++n) {
    int x = values[values.size() - 1 - n];
    if (!b.full(x)) x = b.map(add, x, values[0]);
    b.store(x, b.dense(4 + n, n == 1 ? DType::bf16 : DType::f32));
    c.buffers.emplace_back(n == 1 ? DType::bf16 : DType::f32, rows * cols);
  }
  b.store(row_values.back(), b.per_row(7));
  c.buffers.emplace_back(DType::f32, rows);
  c.slots = {0.75};
  c.program = b.done();
  c.relative = 1e-4;
  c.absolute = 2e-4;
  return c;
}

TEST(VmRandomPrograms, AgreeWithTheReference) {
  for (unsigned seed = 1; seed <= 300 && !HasFailure(); ++seed) {
    SCOPED_TRACE("seed " + std::to_string(seed));
    check(random_program(seed));
  }
}

TEST(VmRandomPrograms, ResultsDoNotDependOnNeighbours) {
  // A row of a large softmax has the bits of the same row alone.
  for_each_isa([] {
    for (std::int64_t cols : {50, 1000, 1100, 9000}) {
      const Case many = softmax_case(33, cols, true);
      const auto all = execute(many);
      Case one = softmax_case(1, cols, true);
      std::memcpy(one.buffers[0].bytes.data(), many.buffers[0].bytes.data() + 20 * cols * 4, cols * 4);
      const auto single = execute(one);
      EXPECT_EQ(0, std::memcmp(single[1].bytes.data(), all[1].bytes.data() + 20 * cols * 4, cols * 4)) << cols;
    }
  });
}

}  // namespace
}  // namespace metal_candle::test
