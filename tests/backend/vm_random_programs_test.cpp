// Random row programs against the reference interpreter, with every instruction set of the machine.
#include "vm_harness.h"

namespace metal_candle::test {
namespace {

using enum Elementwise;

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

}  // namespace
}  // namespace metal_candle::test
