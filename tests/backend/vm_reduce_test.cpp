// Reductions of row programs against the reference interpreter: along rows and down columns, NaN and ties, stages of
// different width; with every instruction set of the machine.
#include "vm_harness.h"

namespace metal_candle::test {
namespace {

using enum Elementwise;

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

}  // namespace
}  // namespace metal_candle::test
