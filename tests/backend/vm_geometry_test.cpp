// Row programs of every geometry against the reference interpreter: shapes, strides, broadcasts, gathers, parts of a
// product's output; with every instruction set of the machine.
#include "vm_harness.h"

namespace metal_candle::test {
namespace {

using enum Elementwise;
const std::int64_t kColumns[] = {0, 1, 2, 3, 15, 16, 17, 63, 64, 100, 1023, 1024, 1025, 4096, 5000};
const std::int64_t kRows[] = {0, 1, 2, 3, 7, 64};

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

TEST(VmGeometry, ResultsDoNotDependOnNeighbours) {
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

// Tiles as wide as the output run as one long row, others row by row; a bias keeps rows apart.
TEST(VmTile, WholeRowsInOnePiece) {
  const std::int64_t rows = 131, cols = 16;
  for (const bool biased : {false, true})
    for (const std::int64_t ld : {cols, cols + 8})
      for (const std::int64_t part : {cols, cols / 2}) {
        ProgramBuilder b({rows});
        b.stage(cols);
        const int product = b.load(b.dense(0)), residual = b.load(b.dense(2, DType::bf16));
        int y = b.map(add, b.map(gelu, product), residual);
        if (biased) y = b.map(add, y, b.load(b.column_weights(1)));
        b.store(y, b.dense(3));
        b.store(y, b.dense(4, DType::bf16));
        Case c{b.done(),
               {random_array(DType::f32, rows * cols, -2, 2), random_array(DType::f32, cols, -2, 2, 2),
                random_array(DType::bf16, rows * cols, -2, 2, 3), Array(DType::f32, rows * cols),
                Array(DType::bf16, rows * cols)},
               {}};
        for_each_isa([&] {
          const auto whole = execute(c);
          auto buffers = c.buffers;
          std::vector<void*> pointers;
          for (Array& a : buffers) pointers.push_back(a.bytes.data());
          pointers[0] = nullptr;  // must not be touched
          const auto program = cpu::RowProgram::lower(c.program, {.buffer = 0, .cols = 16, .whole_rows = true});
          std::vector<char> scratch(program->scratch_bytes());
          for (std::int64_t r = 0; r < rows; r += 50)
            for (std::int64_t col = 0; col < cols; col += part) {
              const std::int64_t nr = std::min<std::int64_t>(50, rows - r);
              std::vector<float> tile(nr * ld, 1e30f);
              for (std::int64_t i = 0; i < nr; ++i)
                for (std::int64_t j = 0; j < part; ++j)
                  tile[i * ld + j] = c.buffers[0].raw<float>((r + i) * cols + col + j);
              program->run_tile(pointers.data(), nullptr, r, nr, col, part, tile.data(), ld, scratch.data());
            }
          EXPECT_EQ(buffers[3].bytes, whole[3].bytes) << biased << ' ' << ld << ' ' << part;
          EXPECT_EQ(buffers[4].bytes, whole[4].bytes) << biased << ' ' << ld << ' ' << part;
        });
      }
}

}  // namespace
}  // namespace metal_candle::test
