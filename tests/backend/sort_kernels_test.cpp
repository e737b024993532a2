// The kernels of sort and topk, called directly and compared with an insertion sort: stable, NaN last (first when
// descending), -0 equal to 0.
#include <gtest/gtest.h>

#include <cmath>

#include "backend/cpu/kernels/sort.h"
#include "backend/cpu/kernels/topk.h"
#include "kernel_harness.h"

namespace metal_candle::cpu::test {
namespace {

bool before(double a, double b, bool descending) {
  if (descending) std::swap(a, b);
  return a != a ? false : b != b ? true : a < b;
}

/// Stable order of the lane, by insertion.
std::vector<std::int64_t> naive_order(const Values& lane, bool descending) {
  std::vector<std::int64_t> order;
  for (std::size_t i = 0; i < lane.size(); ++i) {
    auto at = order.end();
    while (at != order.begin() && before(lane[i], lane[static_cast<std::size_t>(at[-1])], descending)) --at;
    order.insert(at, static_cast<std::int64_t>(i));
  }
  return order;
}

void check_order(const Array& x, int axis, bool descending, std::int64_t k, const std::vector<Array>& out) {
  Shape lanes = x.shape;
  lanes[axis] = std::min<std::int64_t>(1, k);
  const std::size_t a = static_cast<std::size_t>(axis);
  each(lanes, [&](auto index) {
    Values lane;
    for (index[a] = 0; index[a] < x.shape[axis]; ++index[a]) lane.push_back(x.at(index));
    const auto order = naive_order(lane, descending);
    for (index[a] = 0; index[a] < k; ++index[a]) {
      const std::int64_t place = order[static_cast<std::size_t>(index[a])];
      ASSERT_EQ(out[1].at(index), static_cast<double>(place));
      const double got = out[0].at(index), want = lane[static_cast<std::size_t>(place)];
      ASSERT_TRUE(got == want || (got != got && want != want));
      ASSERT_EQ(std::signbit(got), std::signbit(want));
    }
  });
}
void check_sort(const Array& x, int axis) {
  for (const bool descending : {false, true})
    check_order(x, axis, descending, x.shape[axis],
                run(sort_kernel, {x}, {{x.dtype, x.shape}, {DType::i32, x.shape}}, {axis, descending}));
}
void check_topk(const Array& x, std::int64_t k) {
  Shape shape = x.shape;
  shape[shape.rank() - 1] = k;
  check_order(x, shape.rank() - 1, true, k, run(topk_kernel, {x}, {{x.dtype, shape}, {DType::i32, shape}}, {k}));
}

const Values kSpecials = {1, -0.0, kNan, 0.0, -kInf, 3, kInf, -2, -0.0, kNan, 0.0, 3, -2, 65504, -1e-7};

TEST(SortKernel, EveryTypeAndAxis) {
  for (const DType d : kAll) {
    for (const int axis : {0, 1, 2}) check_sort(random(d, {4, 5, 3}), axis);
    check_sort(random(d, {37}), 0);
  }
  check_sort(Array(DType::i32, {5}, {3, -2147483648.0, 0, 2147483647.0, -1}), 0);
  check_sort(Array(DType::i8, {4}, {-128, 127, 0, -1}), 0);
  check_sort(random(DType::f32, {0, 3}), 0);
  check_sort(random(DType::f32, {0, 3}), 1);
  check_sort(random(DType::f32, {40, 700}), 1);
}
TEST(SortKernel, SpecialValues) {
  for (const DType d : {DType::f32, DType::f64, DType::f16, DType::bf16}) {
    const auto n = static_cast<std::int64_t>(kSpecials.size());
    check_sort(Array(d, {n}, kSpecials), 0);
    check_topk(Array(d, {n}, kSpecials), 7);
  }
  const Array negative_nan(DType::f32, {3}, {1, -kNan, 2});
  EXPECT_EQ(run(sort_kernel, {negative_nan}, {{DType::f32, {3}}, {DType::i32, {3}}}, {0, 0})[1].values(),
            (Values{0, 2, 1}));
}
TEST(SortKernel, ValuesThatNobodyReadsAreNotWritten) {
  Array x = random(DType::f32, {3, 6}), indices(DType::i32, x.shape);
  const KernelTensor in = x.view(), out[] = {{nullptr, DType::f32, x.shape, x.strides}, indices.view()};
  run_tasks(sort_kernel, {&in, 1}, out, {1, 0}, false);
  expect_same(indices.values(), run(sort_kernel, {x}, {{x.dtype, x.shape}, {DType::i32, x.shape}}, {1, 0})[1].values());
}
TEST(TopkKernel, EveryTypeAndSize) {
  for (const DType d : kAll)
    for (const std::int64_t k : {0, 1, 4, 11}) check_topk(random(d, {3, 11}), k);
  check_topk(random(DType::f32, {0, 5}), 2);
}
TEST(TopkKernel, LongRowsAreCutInRanges) {
  Values values(70000);
  for (std::size_t i = 0; i < values.size(); ++i) values[i] = static_cast<double>((i * 7919) % 4099);  // many ties
  const Array x(DType::f32, {2, 35000}, values);
  for (const std::int64_t k : {1, 50, 20000}) {
    const auto out = run(topk_kernel, {x}, {{DType::f32, {2, k}}, {DType::i32, {2, k}}}, {k});
    const auto all = run(sort_kernel, {x}, {{DType::f32, {2, 35000}}, {DType::i32, {2, 35000}}}, {1, 1});
    for (std::int64_t row = 0; row < 2; ++row)
      for (std::int64_t i = 0; i < k; ++i) {
        ASSERT_EQ(out[0].at({row, i}), all[0].at({row, i}));
        ASSERT_EQ(out[1].at({row, i}), all[1].at({row, i}));
      }
  }
}

/// Far more than their bytes tell: what is too little for threads by its bytes is not.
TEST(SortKernels, SayWhatTheyCompute) {
  const auto work = [](const CpuKernel& kernel, std::int64_t rows, std::int64_t n, const Attrs& attrs) {
    const std::vector<KernelTensor> inputs{{nullptr, DType::f32, {rows, n}, {n, 1}}};
    return kernel.work({.inputs = inputs, .outputs = {}, .attrs = attrs, .scratch = {}, .shared = {}, .fail = {}});
  };
  EXPECT_GT(work(sort_kernel, 4, 2000, {1, 0}), 4 * 2000 * 100);
  EXPECT_GT(work(topk_kernel, 4, 2000, {50}), 4 * 2000 * 4);
  EXPECT_EQ(work(sort_kernel, 0, 2000, {1, 0}), 0);
  EXPECT_EQ(work(topk_kernel, 4, 0, {0}), 0);
}

}  // namespace
}  // namespace metal_candle::cpu::test
