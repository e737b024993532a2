// Rows whose last stage runs in turns with the next row, and functions that look at four vectors at once: the results
// are those of one row, of one element.
#include "vm_harness.h"

namespace metal_candle::test {
namespace {

using enum Elementwise;

/// Softmax of x·slope, kept or made again, and the row's largest value; rows in two dimensions with gaps between.
Case rows_in_turns(std::int64_t cols, bool stream, bool keep, bool in_place) {
  const std::int64_t outer = 3, inner = 7, pitch = cols + 24;
  ProgramBuilder b({outer, inner});
  const auto matrix = [&](int buffer) {
    KAccess a{.buffer = buffer, .dtype = DType::f32, .row_strides = {inner * pitch + 8, pitch}, .col_stride = 1};
    return a;
  };
  b.stage(cols);
  const int x = b.map(mul, b.load(matrix(0)), b.literal(0.75)), top = b.reduce(KOp::reduce_max, x);
  b.stage(cols);
  const int e = b.map(exp, b.map(sub, x, top));
  if (keep) b.keep(e);
  const int sum = b.reduce(KOp::reduce_sum, e);
  b.stage(cols);
  KAccess out = matrix(in_place ? 0 : 1);
  out.stream = stream;
  b.store(b.map(div, e, sum), out);
  b.store(top, b.per_row(2));
  const std::int64_t n = outer * (inner * pitch + 8);
  return {b.done(), {random_array(DType::f32, n, -6, 6), Array(DType::f32, n), Array(DType::f32, outer * inner)}, {}};
}

TEST(VmTurns, RowsAreWhatTheyAreAlone) {
  for (std::int64_t cols : {4096, 4100, 5003, 9000})
    for (bool keep : {true, false})
      for (bool in_place : {false, true}) {
        if (in_place && !keep) continue;  // what is written over would be evaluated again
        SCOPED_TRACE(cols);
        const Case alone = rows_in_turns(cols, false, keep, in_place),
                   turns = rows_in_turns(cols, true, keep, in_place);
        check(turns);
        for_each_isa([&] {
          const std::vector<Array> want = execute(alone), got = execute(turns);
          for (std::size_t i = 0; i < got.size(); ++i) EXPECT_EQ(want[i].bytes, got[i].bytes) << "buffer " << i;
        });
      }
}

TEST(VmTurns, StagesOfOtherWidthsAndGathers) {
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

TEST(VmQuick, ALaneDoesNotSeeHowFarItsNeighboursAre) {
  const std::int64_t n = 4096;
  for_each_isa([&] {
    for (Elementwise op : {exp, silu, gelu_tanh}) {
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
