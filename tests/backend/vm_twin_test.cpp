// Items that share a kernel: silu(x)·c and its slope times b·d where both are only stored; a sum that is stored and kept,
// and the sum of its squares. Each op on its own where somebody else wants a part. The same bits, at any shape, in place,
// past the caches, far out.
#include "vm_harness.h"

namespace metal_candle::test {
namespace {

using enum Elementwise;

struct Shape {
  std::int64_t rows, cols;
  bool stream = false, in_place = false, turned = false;
};

/// Buffers: x, dy, w (a value a column), y, dx, what else is stored. `apart` stores the silu, too, which keeps the ops apart.
KernelProgram gated(const Shape& s, bool apart, DType dtype = DType::f32) {
  ProgramBuilder b({s.rows});
  b.stage(s.cols);
  const int x = b.load(b.dense(0, dtype)), dy = b.load(b.dense(1, dtype)), w = b.load(b.column_weights(2));
  const int silu_x = b.map(silu, x), slope = b.map(silu_grad, x),
            product = s.turned ? b.map(mul, w, dy) : b.map(mul, dy, w);
  const int dx = s.turned ? b.map(mul, slope, product) : b.map(mul, product, slope);
  const int y = s.turned ? b.map(mul, w, silu_x) : b.map(mul, silu_x, w);
  KAccess first = b.dense(s.in_place ? 0 : 3, dtype), second = b.dense(s.in_place ? 1 : 4, dtype);
  first.stream = second.stream = s.stream;
  b.store(y, first);
  b.store(dx, second);
  if (apart) b.store(silu_x, b.dense(5));
  return b.done();
}

std::vector<Array> operands(const Shape& s, DType dtype = DType::f32) {
  const std::int64_t n = s.rows * s.cols;
  std::vector<Array> a = {random_array(dtype, n, -12, 12, 3),
                          random_array(dtype, n, -2, 2, 4),
                          random_array(DType::f32, s.cols, -2, 2, 5),
                          Array(dtype, n),
                          Array(dtype, n),
                          Array(DType::f32, n)};
  const double far[] = {90, -90, 87.2, -87.2, -104, 3e38, -3e38, 0, -0.0, 1e-42};
  for (std::int64_t i = 3; i < n; i += 41) a[0].set(i, far[i % 10]);
  return a;
}

TEST(VmTwin, SameBitsAsOneByOne) {
  for (const std::int64_t cols : {1, 5, 16, 63, 64, 100, 129, 1024, 4096, 4100, 9001})
    for (const bool stream : {false, true})
      for (const bool in_place : {false, true}) {
        const Shape s{cols < 200 ? 13 : 5, cols, stream, in_place, cols % 2 == 0};
        SCOPED_TRACE(std::to_string(cols) + (stream ? " past the caches" : "") + (in_place ? " in place" : ""));
        Case together{gated(s, false), operands(s), {}},
            apart{gated({s.rows, cols, false, false, s.turned}, true), operands(s), {}};
        if (!in_place) check(together);
        for_each_isa([&] {
          const std::vector<Array> got = execute(together), want = execute(apart);
          EXPECT_EQ(got[in_place ? 0 : 3].bytes, want[3].bytes);
          EXPECT_EQ(got[in_place ? 1 : 4].bytes, want[4].bytes);
        });
      }
}

TEST(VmTwin, InfinitiesAndNan) {
  const double inf = std::numeric_limits<double>::infinity(), nan = std::numeric_limits<double>::quiet_NaN();
  const Shape s{2, 70};
  Case together{gated(s, false), operands(s), {}}, apart{gated(s, true), operands(s), {}};
  for (std::int64_t i = 0; i < 140; i += 3) {
    for (Case* c : {&together, &apart}) {
      c->buffers[0].set(i, i % 4 == 0 ? inf : i % 4 == 1 ? -inf : nan);
      c->buffers[1].set(i + 1 < 140 ? i + 1 : i, i % 2 ? inf : nan);
    }
  }
  for_each_isa([&] {
    const std::vector<Array> got = execute(together), want = execute(apart);
    for (const int k : {3, 4})
      EXPECT_TRUE(same(got[static_cast<std::size_t>(k)], want[static_cast<std::size_t>(k)], 0, 0));
    EXPECT_EQ(got[3].get(0), inf * (operands(s)[2].get(0) > 0 ? 1 : -1));
  });
}

TEST(VmTwin, SixteenBitsAndOtherItemsBehindIt) {
  for (const DType dtype : {DType::bf16, DType::f16}) {
    const Shape s{7, 333};
    Case c{gated(s, false, dtype), operands(s, dtype), {}};
    for (std::int64_t i = 0; i < 7 * 333; ++i)
      if (std::fabs(c.buffers[0].get(i)) > 50) c.buffers[0].set(i, 1.5);
    check(c);
  }
  // What is computed and reduced behind the twin reads memory that in place it would have replaced.
  ProgramBuilder b({9});
  b.stage(500);
  const int x = b.load(b.dense(0)), dy = b.load(b.dense(1)), w = b.load(b.column_weights(2));
  const int y = b.map(mul, b.map(silu, x), w), dx = b.map(mul, b.map(mul, dy, w), b.map(silu_grad, x));
  const int more = b.map(add, b.map(abs, x), dy), sum = b.reduce(KOp::reduce_sum, b.map(square, x));
  b.store(y, b.dense(3));
  b.store(dx, b.dense(0));
  b.store(more, b.dense(4));
  b.store(sum, b.per_row(5));
  Case c{b.done(), operands({9, 500}), {}};
  for (std::int64_t i = 0; i < 4500; ++i)
    if (std::fabs(c.buffers[0].get(i)) > 100) c.buffers[0].set(i, 2.5);
  check(c);
}

struct Sums {
  std::int64_t rows, cols, gap;
  bool stream, in_place, keep, stored, by_mul;
};

/// h = x + z, stored or not; h · Σh²; `apart` stores the squares, too. Buffers: x, z, h, the result, sums, squares.
KernelProgram residual(const Sums& s, bool apart) {
  ProgramBuilder b({s.rows});
  const auto matrix = [&](int buffer) {
    return KAccess{.buffer = buffer, .dtype = DType::f32, .row_strides = {s.cols + s.gap}, .col_stride = 1};
  };
  b.stage(s.cols);
  const int h = b.map(add, b.load(matrix(0)), b.load(matrix(1))),
            square_h = s.by_mul ? b.map(mul, h, h) : b.map(square, h);
  if (s.keep) b.keep(h);
  KAccess out = matrix(s.in_place ? 0 : 2);
  out.stream = s.stream;
  if (s.stored) b.store(h, out);
  if (apart) b.store(square_h, matrix(5));
  const int sum = b.reduce(KOp::reduce_sum, square_h);
  b.stage(s.cols);
  KAccess last = matrix(3);
  last.stream = s.stream;
  b.store(b.map(mul, h, sum), last);
  b.store(sum, b.per_row(4));
  return b.done();
}

TEST(VmSumOfSquares, SameBitsAsOneByOne) {
  for (const std::int64_t cols : {1, 16, 100, 1024, 1025, 4096, 9001})
    for (int variant = 0; variant < 32; ++variant) {
      const Sums s{cols < 200 ? 50 : 7,
                   cols,
                   variant & 1 ? 3 : 16,
                   (variant & 2) != 0,
                   false,
                   variant % 4 < 2,
                   (variant & 8) != 0,
                   (variant & 16) != 0};
      Sums in_place = s;
      in_place.in_place = in_place.keep = (variant & 4) != 0;
      SCOPED_TRACE(std::to_string(cols) + " columns, variant " + std::to_string(variant));
      const std::int64_t n = s.rows * (s.cols + s.gap);
      std::vector<Array> buffers = {random_array(DType::f32, n, -3, 3, 6),
                                    random_array(DType::f32, n, -3, 3, 7),
                                    Array(DType::f32, n),
                                    Array(DType::f32, n),
                                    Array(DType::f32, s.rows),
                                    Array(DType::f32, n)};
      const double odd[] = {std::numeric_limits<double>::infinity(), std::numeric_limits<double>::quiet_NaN(), 3e38,
                            1e-42};
      for (std::int64_t i = 1; i < 4; ++i) buffers[0].set(i * (s.cols + s.gap), odd[i - 1]);
      const Case together{residual(in_place, false), buffers, {}}, apart{residual(s, true), buffers, {}};
      for_each_isa([&] {
        const std::vector<Array> got = execute(together), want = execute(apart);
        for (std::int64_t r = 0; r < s.rows; ++r)
          for (std::int64_t c = 0; c < cols; ++c) {
            const std::int64_t at = r * (s.cols + s.gap) + c;
            const auto bits = [&](const Array& a) {
              return std::bit_cast<std::uint32_t>(static_cast<float>(a.get(at)));
            };
            if (s.stored) {
              ASSERT_EQ(bits(got[in_place.in_place ? 0 : 2]), bits(want[2])) << r << ", " << c;
            }
            ASSERT_EQ(bits(got[3]), bits(want[3])) << r << ", " << c;
          }
        EXPECT_EQ(got[4].bytes, want[4].bytes);
      });
    }
}

}  // namespace
}  // namespace metal_candle::test
