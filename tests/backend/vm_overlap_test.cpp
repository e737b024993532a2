// Rows whose last stage runs inside the next row's reductions, and functions that look at four vectors at once: the
// results are those of one row, of one element.
#include "backend/cpu/vm/body.h"
#include "vm_harness.h"

namespace metal_candle::test {
namespace {

using enum Elementwise;

struct Overlap {
  std::int64_t cols;
  bool keep = true, in_place = false;  // exponentials kept or made again; over what is read
  Elementwise rest = div;
  int reductions = 2;
  std::int64_t gap = 24;  // between rows: they begin at lines, or every second one does
};

/// exp(x·slope - top) ∘ a value of the row, after one to four reductions; rows in two dimensions with gaps between.
Case overlapping(const Overlap& o, bool stream) {
  const std::int64_t outer = 3, inner = 7, pitch = o.cols + o.gap, n = outer * (inner * pitch + 16);
  ProgramBuilder b({outer, inner});
  const auto matrix = [&](int buffer) {
    KAccess a{.buffer = buffer, .dtype = DType::f32, .row_strides = {inner * pitch + 16, pitch}, .col_stride = 1};
    return a;
  };
  b.stage(o.cols);
  int x = b.map(mul, b.load(matrix(0)), b.literal(0.75)), value = b.literal(0.5);
  for (int i = o.reductions; i > 1; --i) {
    value = b.reduce(i % 2 ? KOp::reduce_min : KOp::reduce_max, x);
    b.stage(o.cols);
  }
  const int e = b.map(exp, b.map(sub, x, value));
  if (o.keep) b.keep(e);
  const int sum = b.reduce(KOp::reduce_sum, e);
  b.stage(o.cols);
  KAccess out = matrix(o.in_place ? 0 : 1);
  out.stream = stream;
  b.store(b.map(o.rest, e, sum), out);
  b.store(value, b.per_row(2));
  return {b.done(), {random_array(DType::f32, n, -6, 6), Array(DType::f32, n), Array(DType::f32, outer * inner)}, {}};
}

void rows_are_what_they_are_alone(const Overlap& o) {
  SCOPED_TRACE(std::string(info(o.rest).name) + " of " + std::to_string(o.cols) + " after " +
               std::to_string(o.reductions) + (o.keep ? " kept" : "") + (o.in_place ? " in place" : ""));
  const Case alone = overlapping(o, false), overlaps = overlapping(o, true);
  check(overlaps);
  for_each_isa([&] {
    const std::vector<Array> want = execute(alone), got = execute(overlaps);
    for (std::size_t i = 0; i < got.size(); ++i) EXPECT_EQ(want[i].bytes, got[i].bytes) << "buffer " << i;
  });
}

bool does_overlap(const Overlap& o) { return cpu::vm::lower_body(overlapping(o, true).program, {})->overlaps; }

TEST(VmOverlap, RowsAreWhatTheyAreAlone) {
  for (std::int64_t cols : {4096, 4100, 5003, 8960})
    for (bool keep : {true, false})
      for (bool in_place : {false, true})
        if (keep || !in_place)  // what is written over would be evaluated again
          rows_are_what_they_are_alone({cols, keep, in_place});
  for (const Elementwise rest : {sub, mul, div})
    for (int reductions : {1, 2, 3, 4})
      for (std::int64_t gap : {16, 24}) rows_are_what_they_are_alone({4416, true, false, rest, reductions, gap});
}

TEST(VmOverlap, OneOpWithAValueOfTheRowRunsInsideTheNextRow) {
  for (const Elementwise rest : {sub, mul, div})
    for (int reductions : {1, 2, 4}) EXPECT_TRUE(does_overlap({4416, true, false, rest, reductions}));
  EXPECT_TRUE(does_overlap({8960}));
  EXPECT_FALSE(does_overlap({4100})) << "not whole blocks of four vectors";
  EXPECT_FALSE(does_overlap({4096, false})) << "exponentials made again";
  EXPECT_FALSE(does_overlap({4096, true, false, div, 3})) << "three reductions take no equal shares of it";
  EXPECT_FALSE(does_overlap({4096, true, false, add}));
}

TEST(VmOverlap, StagesOfOtherWidthsAndGathers) {
  const std::int64_t rows = 29, cols = 4500, width = 700;
  ProgramBuilder b({rows});
  b.stage(cols);
  const int best = b.reduce(KOp::reduce_argmax, b.load(b.dense(0)));
  b.stage(width);
  KAccess table = b.column_weights(1);
  table.gather_stride = width;
  table.gather_extent = cols;
  table.gather = best;
  KAccess out = b.dense(2);
  out.stream = true;
  b.store(b.map(mul, b.load(table), b.literal(2)), out);
  check({b.done(),
         {random_array(DType::f32, rows * cols, -3, 3), random_array(DType::f32, cols * width, -1, 1, 2),
          Array(DType::f32, rows * width)},
         {}});
}

/// Programs that fetch what comes next while they store past the caches, and two outputs, one of them early.
struct Streamed {
  const char* name;
  void (*values)(ProgramBuilder& b, std::int64_t cols, KAccess first, KAccess second);
};
int rms_scale(ProgramBuilder& b, int sum, std::int64_t cols) {
  return b.map(rsqrt, b.map(add, b.map(mul, sum, b.literal(1.0 / static_cast<double>(cols))), b.literal(1e-5)));
}
const Streamed kStreamed[] = {
    {"norm",
     [](ProgramBuilder& b, std::int64_t cols, KAccess out, KAccess) {
       const int x = b.load(b.dense(0)), scale = rms_scale(b, b.reduce(KOp::reduce_sum, b.map(square, x)), cols);
       b.stage(cols);
       b.store(b.map(mul, b.map(mul, x, scale), b.load(b.column_weights(1))), out);
     }},
    {"function",
     [](ProgramBuilder& b, std::int64_t, KAccess out, KAccess) {
       b.store(b.map(mul, b.map(silu, b.load(b.dense(0))), b.load(b.column_weights(1))), out);
     }},
    {"copy and difference",
     [](ProgramBuilder& b, std::int64_t cols, KAccess out, KAccess) {
       const int x = b.load(b.dense(0)), mean = b.reduce(KOp::reduce_sum, x);
       const int most = b.reduce(KOp::reduce_max, b.map(abs, x));
       b.stage(cols);
       b.store(b.map(div, b.map(sub, x, mean), most), out);
     }},
    {"row values",
     [](ProgramBuilder& b, std::int64_t cols, KAccess out, KAccess) {
       const int x = b.load(b.dense(0));
       const int given = b.load(b.per_row(4), false), number = b.cast(b.row_index(3, 7), DType::f32);
       const int scale = rms_scale(b, b.reduce(KOp::reduce_sum, b.map(square, x)), cols);
       const int factor = b.map(mul, scale, b.map(add, given, number));
       b.store(factor, b.per_row(3));
       b.stage(cols);
       b.store(b.map(mul, b.map(mul, x, factor), b.load(b.column_weights(1))), out);
     }},
    {"two outputs", [](ProgramBuilder& b, std::int64_t cols, KAccess out, KAccess early) {
       const int h = b.map(add, b.load(b.dense(0)), b.load(b.dense(4)));
       b.keep(h);
       const int sum = b.reduce(KOp::reduce_sum, b.map(square, h));
       b.store(h, early);
       const int scale = rms_scale(b, sum, cols);
       b.stage(cols);
       b.store(b.map(mul, b.map(mul, h, scale), b.load(b.column_weights(1))), out);
     }}};

TEST(VmOverlap, WhatIsFetchedAheadChangesNothing) {
  for (const Streamed& program : kStreamed)
    for (std::int64_t cols : {4096, 4099, 9001}) {
      SCOPED_TRACE(std::string(program.name) + " of " + std::to_string(cols));
      const auto make = [&](bool stream) {
        const std::int64_t rows = 37, n = rows * cols;
        ProgramBuilder b({rows});
        b.stage(cols);
        KAccess out = b.dense(2), early = b.dense(3);
        out.stream = early.stream = stream;
        program.values(b, cols, out, early);
        return Case{b.done(),
                    {random_array(DType::f32, n, -6, 6), random_array(DType::f32, cols, -2, 2, 3), Array(DType::f32, n),
                     Array(DType::f32, n), random_array(DType::f32, n, -1, 1, 4)},
                    {},
                    2e-5,
                    2e-5};
      };
      const Case stored = make(false), streamed = make(true);
      check(streamed);
      for_each_isa([&] {
        const std::vector<Array> want = execute(stored), got = execute(streamed);
        for (std::size_t i = 0; i < got.size(); ++i) EXPECT_EQ(want[i].bytes, got[i].bytes) << "buffer " << i;
      });
    }
}

/// Reductions of one row alone are those of the row among others: what a block of one row writes differs.
TEST(VmOverlap, ReductionsOfOneRow) {
  for (std::int64_t cols : {1, 15, 16, 33, 300}) {
    SCOPED_TRACE(cols);
    const auto make = [&](std::int64_t rows) {
      ProgramBuilder b({rows});
      b.stage(cols);
      const int x = b.load(b.dense(0));
      int all = b.reduce(KOp::reduce_sum, x);
      for (KOp op : {KOp::reduce_max, KOp::reduce_min, KOp::reduce_prod}) all = b.map(add, b.reduce(op, x), all);
      all = b.map(mul, all, b.reduce(KOp::reduce_max, b.map(abs, x)));
      b.store(all, b.per_row(1));
      return b.done();
    };
    const std::int64_t rows = 7;
    const Array values = random_array(DType::f32, rows * cols, -1.2, 1.2);
    for_each_isa([&] {
      const std::vector<Array> together = execute(Case{make(rows), {values, Array(DType::f32, rows)}, {}});
      for (std::int64_t r = 0; r < rows; ++r) {
        Array row(DType::f32, cols);
        for (std::int64_t c = 0; c < cols; ++c) row.set(c, values.get(r * cols + c));
        EXPECT_EQ(together[1].get(r), execute(Case{make(1), {row, Array(DType::f32, 1)}, {}})[1].get(0)) << "row " << r;
      }
    });
  }
}

TEST(VmQuick, ALaneDoesNotSeeHowFarItsNeighboursAre) {
  const std::int64_t n = 4096;
  for_each_isa([&] {
    for (Elementwise op : {exp, sigmoid, silu, silu_grad, gelu_tanh, gelu_tanh_grad}) {
      SCOPED_TRACE(info(op).name);
      ProgramBuilder b({1});
      b.stage(n);
      b.store(b.map(op, b.load(b.dense(0))), b.dense(1));
      Case near{b.done(), {random_array(DType::f32, n, -9, 9), Array(DType::f32, n)}, {}}, far = near;
      const double outside[] = {88, 200, -88, -1e30, 1e-42, 3e38};
      for (std::int64_t i = 5; i < n; i += 37) far.buffers[0].set(i, outside[i % 6]);
      const std::vector<Array> a = execute(near), c = execute(far);
      for (std::int64_t i = 0; i < n; ++i) {
        if (i % 37 != 5) {
          ASSERT_EQ(a[1].get(i), c[1].get(i)) << "element " << i;
        }
      }
    }
  });
}

}  // namespace
}  // namespace metal_candle::test
