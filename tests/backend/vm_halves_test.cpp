// Operands in bf16 that instructions read from memory themselves: the same bits as of f32 operands of the same values, in
// every form, alone, in pairs and reduced, at any width, far out. And results that are rounded where they are stored.
#include "vm_harness.h"

namespace metal_candle::test {
namespace {

using enum Elementwise;

/// What is combined with what: columns of arrays, or a number a row on one side.
enum class Sides { both, right_row, left_row };
constexpr Elementwise kFirsts[] = {add, sub, mul};

/// Buffers: three arrays, a number a row; then for each expression its values and its sums, and sums of others that are
/// stored nowhere. `halves`: bit i says that array i is bf16.
KernelProgram expressions(std::int64_t rows, std::int64_t cols, int halves, Elementwise first, Sides sides) {
  ProgramBuilder b({rows});
  b.stage(cols);
  int operands[3];
  for (int i = 0; i < 3; ++i) operands[i] = b.load(b.dense(i, halves >> i & 1 ? DType::bf16 : DType::f32));
  const int number = b.load(b.per_row(3), false);
  const auto inner = [&] {
    return sides == Sides::left_row ? b.map(first, number, operands[1])
                                    : b.map(first, operands[0], sides == Sides::both ? operands[1] : number);
  };
  std::vector<int> values{inner(), b.map(square, inner()), b.map(square, operands[2])};
  for (const Elementwise second : kFirsts)
    for (const int other : {operands[2], number}) {
      values.push_back(b.map(second, inner(), other));
      values.push_back(b.map(second, other, inner()));
    }
  std::vector<int> unseen{b.map(square, inner()), b.map(mul, inner(), operands[2]), b.map(mul, operands[2], inner()),
                          inner()};
  int buffer = 4;
  for (const int v : values) b.store(v, b.dense(buffer++));
  std::vector<int> sums;
  for (const int v : values) sums.push_back(b.reduce(KOp::reduce_sum, v));
  for (const int v : unseen) sums.push_back(b.reduce(KOp::reduce_sum, v));
  for (const int v : sums) b.store(v, b.per_row(buffer++));
  return b.done();
}

std::vector<Array> operands(std::int64_t rows, std::int64_t cols, int halves, int results, int sums) {
  std::vector<Array> all;
  const double far[] = {std::numeric_limits<double>::infinity(), -0.0, 1e-40, 3e38,
                        std::numeric_limits<double>::quiet_NaN()};
  for (int i = 0; i < 3; ++i) {
    Array half = random_array(DType::bf16, rows * cols, -3, 3, static_cast<unsigned>(i) + 1);
    for (std::int64_t k = i + 2; k < rows * cols; k += 173) half.set(k, far[k % 5]);
    Array whole(DType::f32, rows * cols);
    for (std::int64_t k = 0; k < rows * cols; ++k) whole.set(k, half.get(k));
    all.push_back(halves >> i & 1 ? half : whole);
  }
  all.push_back(random_array(DType::f32, rows, -3, 3, 9));
  for (int i = 0; i < results; ++i) all.emplace_back(DType::f32, rows * cols);
  for (int i = 0; i < sums; ++i) all.emplace_back(DType::f32, rows);
  return all;
}

/// Equal bits, or both NaN.
void expect_same(const std::vector<Array>& got, const std::vector<Array>& want, std::size_t from) {
  for (std::size_t b = from; b < got.size(); ++b) ASSERT_TRUE(same(got[b], want[b], 0, 0)) << "buffer " << b;
}

TEST(VmHalves, SameBitsAsOfWideOperands) {
  constexpr int kResults = 15, kSums = 19;
  for (const std::int64_t cols : {1, 15, 64, 100, 576, 1030})
    for (const Elementwise first : kFirsts)
      for (const Sides sides : {Sides::both, Sides::right_row, Sides::left_row})
        for (const int halves : {1, 2, 3, 4, 7}) {
          const std::int64_t rows = 9;
          SCOPED_TRACE(std::to_string(cols) + " columns, op " + std::to_string(static_cast<int>(first)) + ", sides " +
                       std::to_string(static_cast<int>(sides)) + ", halves " + std::to_string(halves));
          const Case narrow{
              expressions(rows, cols, halves, first, sides), operands(rows, cols, halves, kResults, kSums), {}};
          const Case wide{expressions(rows, cols, 0, first, sides), operands(rows, cols, 0, kResults, kSums), {}};
          for_each_isa([&] { expect_same(execute(narrow), execute(wide), 4); });
          if (HasFailure()) return;
        }
}

/// A norm's gradient: g = (p + q)·w, y = g - x·mean(g·x) + rest, stored in f32 over `rest` and rounded over q.
KernelProgram gradient(std::int64_t rows, std::int64_t cols, bool halves, bool keep) {
  ProgramBuilder b({rows});
  const DType dtype = halves ? DType::bf16 : DType::f32;
  b.stage(cols);
  const int p = b.load(b.dense(0, dtype)), q = b.load(b.dense(1, dtype)), w = b.load(b.column_weights(2));
  const int x = b.load(b.dense(3, dtype)), g = b.map(mul, b.map(add, p, q), w);
  if (keep) b.keep(g);
  const int mean = b.map(mul, b.reduce(KOp::reduce_sum, b.map(mul, g, x)), b.literal(1.0 / static_cast<double>(cols)));
  b.stage(cols);
  const int y = b.map(add, b.map(sub, g, b.map(mul, x, mean)), b.load(b.dense(4)));
  const int rounded = b.cast(y, DType::bf16);
  b.store(y, b.dense(4));
  b.store(rounded, b.dense(halves ? 1 : 5, DType::bf16));
  return b.done();
}

TEST(VmHalves, GradientOfANormInPlace) {
  for (const std::int64_t cols : {1, 33, 576, 1000, 5000})
    for (const bool keep : {false, true}) {
      SCOPED_TRACE(std::to_string(cols) + (keep ? " kept" : ""));
      const std::int64_t rows = cols > 1000 ? 3 : 20, n = rows * cols;
      const auto buffers = [&](bool halves) {
        const DType dtype = halves ? DType::bf16 : DType::f32;
        std::vector<Array> all;
        for (unsigned i = 0; i < 5; ++i) {
          const Array exact = random_array(DType::bf16, i == 2 ? cols : n, -2, 2, i + 1);
          Array a(i == 2 || i == 4 ? DType::f32 : dtype, exact.size());
          for (std::int64_t k = 0; k < a.size(); ++k) a.set(k, exact.get(k));
          all.push_back(a);
        }
        all.emplace_back(DType::bf16, n);
        return all;
      };
      const Case narrow{gradient(rows, cols, true, keep), buffers(true), {}};
      const Case wide{gradient(rows, cols, false, keep), buffers(false), {}};
      check(wide);
      for_each_isa([&] {
        const std::vector<Array> got = execute(narrow), want = execute(wide);
        EXPECT_EQ(got[4].bytes, want[4].bytes);
        EXPECT_EQ(got[1].bytes, want[5].bytes);
        Array rounded(DType::bf16, n);
        for (std::int64_t k = 0; k < n; ++k) rounded.set(k, got[4].get(k));
        EXPECT_EQ(got[1].bytes, rounded.bytes);
      });
    }
}

/// Readers without a kernel for them: the load is an instruction.
TEST(VmHalves, OtherReaders) {
  ProgramBuilder b({7});
  b.stage(321);
  const int x = b.load(b.dense(0, DType::bf16)), z = b.load(b.dense(1, DType::bf16)),
            w = b.load(b.dense(2, DType::bf16));
  const int sum = b.reduce(KOp::reduce_sum, w);
  b.store(b.map(add, b.map(silu, x), x), b.dense(3));
  b.store(b.map(mul, b.map(silu, b.map(add, z, x)), z), b.dense(4));
  b.store(b.map(mul, b.map(exp, b.map(sub, z, b.literal(2))), w), b.dense(5));
  b.store(z, b.dense(6, DType::bf16));
  b.store(sum, b.per_row(7));
  std::vector<Array> buffers;
  for (unsigned i = 0; i < 3; ++i) buffers.push_back(random_array(DType::bf16, 7 * 321, -3, 3, i + 1));
  for (int i = 0; i < 3; ++i) buffers.emplace_back(DType::f32, 7 * 321);
  buffers.emplace_back(DType::bf16, 7 * 321);
  buffers.emplace_back(DType::f32, 7);
  check({b.done(), buffers, {}, 3e-6, 2e-5});
}

}  // namespace
}  // namespace metal_candle::test
