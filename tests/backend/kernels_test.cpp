// The data-moving kernels, called directly and compared with code that indexes elements one by one. Every call is made
// twice, with its tasks in opposite orders and its scratch memory filled with rubbish: the bytes must be the same.
#include <gtest/gtest.h>

#include <algorithm>

#include "backend/cpu/kernels/concat.h"
#include "backend/cpu/kernels/cumsum.h"
#include "backend/cpu/kernels/dynamic_slice.h"
#include "backend/cpu/kernels/pad.h"
#include "backend/cpu/kernels/scatter_add.h"
#include "backend/cpu/kernels/set_rows.h"
#include "backend/cpu/kernels/table.h"
#include "kernel_harness.h"
#include "ops/table.h"

namespace metal_candle::cpu::test {
namespace {

// ---- concat ---------------------------------------------------------------------------------------------------------

void check_concat(const std::vector<Array>& parts, int axis) {
  Shape shape = parts[0].shape;
  shape[axis] = 0;
  for (const Array& part : parts) shape[axis] += part.shape[axis];
  const auto out = run(concat_kernel, parts, {{parts[0].dtype, shape}}, {axis});
  Values want;
  each(shape, [&](auto index) {
    auto& along = index[static_cast<std::size_t>(axis)];
    std::size_t i = 0;
    for (; along >= parts[i].shape[axis]; ++i) along -= parts[i].shape[axis];
    want.push_back(parts[i].at(index));
  });
  expect_same(out[0].values(), want);
}

TEST(ConcatKernel, JoinsAlongEveryAxisInEveryType) {
  for (const DType d : kAll) {
    check_concat({random(d, {3, 4, 5}, 1), random(d, {2, 4, 5}, 2)}, 0);
    check_concat({random(d, {3, 4, 5}, 1), random(d, {3, 1, 5}, 2), random(d, {3, 7, 5}, 3)}, 1);
    check_concat({random(d, {3, 4, 5}, 1), random(d, {3, 4, 1}, 2), random(d, {3, 4, 2}, 3)}, 2);
  }
}
TEST(ConcatKernel, EmptyPartsAndEmptyResults) {
  check_concat({random(DType::f32, {0, 4}), random(DType::f32, {3, 4}), random(DType::f32, {0, 4})}, 0);
  check_concat({random(DType::f32, {0, 4}), random(DType::f32, {0, 4})}, 0);
  check_concat({random(DType::f32, {2, 0}), random(DType::f32, {3, 0})}, 0);
}
TEST(ConcatKernel, TakesViews) {
  Array offset = random(DType::i32, {6, 5});  // rows 1.. of every other column
  offset.shape = {4, 3};
  offset.strides = {5, 2};
  offset.offset = 5;
  check_concat({transposed(random(DType::i32, {3, 4}), 0, 1), offset}, 1);
  Array broadcast = random(DType::i32, {1, 3});
  broadcast.shape = {4, 3};
  broadcast.strides = {0, 1};
  check_concat({broadcast, transposed(random(DType::i32, {3, 2}), 0, 1)}, 0);
}
TEST(ConcatKernel, LargePartsAreSharedByTasks) {
  check_concat({random(DType::f32, {301, 257}), random(DType::f32, {301, 131}, 2)}, 1);
  check_concat({random(DType::u8, {400001}), random(DType::u8, {13}, 2)}, 0);
  check_concat({transposed(random(DType::f32, {257, 301}), 0, 1), random(DType::f32, {301, 131}, 2)}, 1);
}

// ---- pad ------------------------------------------------------------------------------------------------------------

void check_pad(const Array& x, const std::vector<std::int64_t>& before, const std::vector<std::int64_t>& after,
               const Array& value) {
  Attrs attrs;
  Shape shape = x.shape;
  for (const auto n : before) attrs.push(n);
  for (const auto n : after) attrs.push(n);
  for (int i = 0; i < shape.rank(); ++i) shape[i] += attrs[i] + attrs[shape.rank() + i];
  const auto out = run(pad_kernel, {x, value}, {{x.dtype, shape}}, attrs);
  Values want;
  each(shape, [&](auto index) {
    bool inside = true;
    for (std::size_t i = 0; i < index.size(); ++i) {
      index[i] -= before[i];
      inside = inside && index[i] >= 0 && index[i] < x.shape[static_cast<int>(i)];
    }
    want.push_back(inside ? x.at(index) : value.at({}));
  });
  expect_same(out[0].values(), want);
}

TEST(PadKernel, EveryTypeAndSide) {
  for (const DType d : kAll) {
    check_pad(random(d, {7}), {2}, {3}, Array(DType::i64, {}, {1}));
    check_pad(random(d, {3, 4, 5}), {1, 0, 2}, {0, 3, 1}, Array(DType::i64, {}, {1}));
  }
  check_pad(random(DType::f32, {3, 4}), {0, 0}, {0, 0}, Array(DType::f64, {}, {0.5}));
  check_pad(random(DType::bf16, {3, 4}), {2, 0}, {0, 0}, Array(DType::f64, {}, {-kInf}));
  check_pad(random(DType::f32, {}), {}, {}, Array(DType::f64, {}, {0}));
}
TEST(PadKernel, EmptyInputsBecomeAllPadding) {
  check_pad(random(DType::f32, {0, 3}), {1, 1}, {2, 0}, Array(DType::f64, {}, {2.5}));
  check_pad(random(DType::f32, {3, 0}), {0, 0}, {1, 2}, Array(DType::f64, {}, {2.5}));
  check_pad(random(DType::f32, {3, 0}), {0, 0}, {1, 0}, Array(DType::f64, {}, {2.5}));
}
TEST(PadKernel, TasksMayEndInsideARow) {
  check_pad(random(DType::f32, {200000}), {70001}, {13}, Array(DType::f64, {}, {7}));
  check_pad(random(DType::u8, {3, 100003}), {1, 1}, {1, 60000}, Array(DType::i64, {}, {7}));
}

// ---- cumsum ---------------------------------------------------------------------------------------------------------

void check_cumsum(const Array& x, int axis, bool reverse) {
  const auto out = run(cumsum_kernel, {x}, {{x.dtype, x.shape}}, {axis, reverse});
  Values want;
  each(x.shape, [&](auto index) {
    double sum = 0;
    const std::size_t a = static_cast<std::size_t>(axis);
    const std::int64_t at = index[a];
    for (std::int64_t i = reverse ? at : 0; i <= (reverse ? x.shape[axis] - 1 : at); ++i) {
      index[a] = i;
      sum += x.at(index);
    }
    want.push_back(visit(x.dtype, [&]<class T>() { return to_double(from_double<T>(sum)); }));
  });
  expect_same(out[0].values(), want);
}

TEST(CumsumKernel, EveryAxisBothWays) {
  for (const DType d : {DType::f32, DType::f64, DType::f16, DType::bf16, DType::i32, DType::i64})
    for (const bool reverse : {false, true}) {
      for (const int axis : {0, 1, 2}) check_cumsum(random(d, {3, 5, 4}), axis, reverse);
      check_cumsum(random(d, {9}), 0, reverse);
    }
  check_cumsum(random(DType::f32, {3, 0, 2}), 1, false);
  check_cumsum(random(DType::f32, {3, 0, 2}), 0, false);
}
TEST(CumsumKernel, BlocksOfColumns) { check_cumsum(random(DType::f32, {2, 150, 331}), 1, false); }
TEST(CumsumKernel, SmallIntegersWrapAndF32SumsDoNotDrift) {
  Array bytes(DType::u8, {3}, {200, 100, 7});
  expect_same(run(cumsum_kernel, {bytes}, {{DType::u8, {3}}}, {0, 0})[0].values(), {200, 44, 51});
  const std::int64_t n = 1 << 20;
  const Array tenths(DType::f32, {n}, Values(static_cast<std::size_t>(n), 0.1));
  const double last = run(cumsum_kernel, {tenths}, {{DType::f32, {n}}}, {0, 0})[0].at({n - 1});
  EXPECT_FLOAT_EQ(static_cast<float>(last), static_cast<float>(static_cast<double>(0.1f) * static_cast<double>(n)));
}
TEST(CumsumKernel, InPlace) {
  Array x = random(DType::f32, {4, 5, 6});
  const Values want = run(cumsum_kernel, {x}, {{x.dtype, x.shape}}, {1, 1})[0].values();
  const KernelTensor t = x.view();
  run_tasks(cumsum_kernel, {&t, 1}, {&t, 1}, {1, 1}, false);
  expect_same(x.values(), want);
}

// ---- scatter_add ----------------------------------------------------------------------------------------------------

Values naive_scatter(const Array& base, const Array& indices, const Array& updates) {
  Values out = base.values();
  const Values index = indices.values(), update = updates.values();
  const std::int64_t rows = base.shape[0], columns = rows == 0 ? 0 : base.shape.numel() / rows;
  for (std::size_t i = 0; i < index.size(); ++i) {
    const auto row = static_cast<std::int64_t>(index[i]) + (index[i] < 0 ? rows : 0);
    if (row < 0 || row >= rows) continue;
    for (std::int64_t j = 0; j < columns; ++j)
      out[static_cast<std::size_t>(row * columns + j)] +=
          update[i * static_cast<std::size_t>(columns) + static_cast<std::size_t>(j)];
  }
  return visit(base.dtype, [&]<class T>() {
    for (double& v : out) v = to_double(from_double<T>(v));
    return out;
  });
}

Array random_indices(const Shape& shape, std::int64_t rows, DType dtype) {
  std::mt19937 engine(5);
  Values values(static_cast<std::size_t>(shape.numel()));
  for (double& v : values) v = static_cast<double>(static_cast<std::int64_t>(engine()) % rows);
  for (std::size_t i = 0; i < values.size(); i += 3) values[i] -= static_cast<double>(rows);  // from the end
  return Array(dtype, shape, values);
}

void check_scatter(DType dtype, const Shape& base, const Shape& places, DType index_type = DType::i32) {
  const Array b = random(dtype, base), i = random_indices(places, base[0], index_type);
  Shape shape = places;
  for (int a = 1; a < base.rank(); ++a) shape.push_back(base[a]);
  const Array u = random(dtype, shape, 9);
  expect_same(run(scatter_add_kernel, {b, i, u}, {{dtype, base}}, {})[0].values(), naive_scatter(b, i, u));
}

TEST(ScatterAddKernel, TypesAndShapes) {
  failures.clear();
  for (const DType d : {DType::f32, DType::f64, DType::f16, DType::bf16, DType::i32, DType::i64}) {
    check_scatter(d, {5, 3}, {12});
    check_scatter(d, {7}, {2, 5}, DType::i64);
    check_scatter(d, {4, 2, 3}, {});
  }
  check_scatter(DType::f32, {300, 700}, {1000});  // more columns than are summed at a time, several tasks
  check_scatter(DType::f32, {5, 3}, {0});
  check_scatter(DType::f32, {5, 0}, {4});
  EXPECT_TRUE(failures.empty());
}
TEST(ScatterAddKernel, ManySmallUpdatesOfAHalfRoundOnce) {
  const Array base(DType::bf16, {1, 1}, {256}), zero(DType::i32, {64}, Values(64, 0));
  const Array ones(DType::bf16, {64, 1}, Values(64, 1));  // 256 + 1 is 256 in bf16
  expect_same(run(scatter_add_kernel, {base, zero, ones}, {{DType::bf16, {1, 1}}}, {})[0].values(), {320});
}
TEST(ScatterAddKernel, InPlaceAndOutOfRange) {
  Array base = random(DType::f32, {6, 2}), places(DType::i64, {5}, {1, 6, -7, 1, -1}),
        updates = random(DType::f32, {5, 2}, 3);
  const Values want = naive_scatter(base, places, updates);
  const KernelTensor in[] = {base.view(), places.view(), updates.view()};
  failures.clear();
  run_tasks(scatter_add_kernel, in, {in, 1}, {}, false);
  expect_same(base.values(), want);
  ASSERT_EQ(failures.size(), 2u);
  EXPECT_EQ(failures[0], "index -7 is out of range: an extent of 6 has -6 to 5");
  EXPECT_EQ(failures[1], "index 6 is out of range: an extent of 6 has -6 to 5");
}

// ---- set_rows -------------------------------------------------------------------------------------------------------

Values naive_set(const Array& base, const Array& indices, const Array& rows) {
  Values out = base.values();
  const Values index = indices.values(), row = rows.values();
  const auto width = static_cast<std::size_t>(base.shape.numel() / base.shape[0]);
  for (std::size_t i = 0; i < index.size(); ++i)
    if (index[i] >= 0 && index[i] < static_cast<double>(base.shape[0]))
      for (std::size_t j = 0; j < width; ++j) out[static_cast<std::size_t>(index[i]) * width + j] = row[i * width + j];
  return out;
}

TEST(SetRowsKernel, TypesAndShapes) {
  for (const DType d : {DType::f32, DType::bf16, DType::i64, DType::boolean, DType::u8}) {
    const Array base = random(d, {5, 2, 3}), rows = random(d, {6, 2, 3}, 9);
    const Array places(DType::i64, {6}, {4, -1, 0, 4, 5, 2});
    expect_same(run(set_rows_kernel, {base, places, rows}, {{d, base.shape}}, {})[0].values(),
                naive_set(base, places, rows));
  }
  const Array base = random(DType::f32, {3000, 70}), places = random_indices({500}, 3000, DType::i32);  // several tasks
  const Array rows = random(DType::f32, {500, 70}, 9);
  expect_same(run(set_rows_kernel, {base, places, rows}, {{DType::f32, base.shape}}, {})[0].values(),
              naive_set(base, places, rows));
  const Array none(DType::i32, {0}, {}), nothing = random(DType::f32, {0, 70});
  expect_same(run(set_rows_kernel, {base, none, nothing}, {{DType::f32, base.shape}}, {})[0].values(), base.values());
  const Array empty = random(DType::f32, {0, 2}), row = random(DType::f32, {1, 2}), zero(DType::i32, {1}, {0});
  EXPECT_TRUE(run(set_rows_kernel, {empty, zero, row}, {{DType::f32, empty.shape}}, {})[0].values().empty());
}
TEST(SetRowsKernel, InPlaceWritesTheRowsOnly) {
  Array base = random(DType::f32, {6, 5}), rows = random(DType::f32, {3, 5}, 4), places(DType::i32, {3}, {5, 7, 1});
  const Values want = naive_set(base, places, rows);
  const KernelTensor in[] = {base.view(), places.view(), rows.view()};
  run_tasks(set_rows_kernel, in, {in, 1}, {}, false);
  expect_same(base.values(), want);
}

// ---- dynamic slices -------------------------------------------------------------------------------------------------

void check_slice(const Array& x, int axis, std::int64_t start, std::int64_t extent, DType start_type = DType::i64) {
  Shape shape = x.shape;
  shape[axis] = extent;
  const auto out = run(dynamic_slice_kernel, {x, Array(start_type, {}, {static_cast<double>(start)})},
                       {{x.dtype, shape}}, {axis, extent});
  const std::int64_t first = std::clamp<std::int64_t>(start, 0, x.shape[axis] - extent);
  Values want;
  each(shape, [&](auto index) {
    index[static_cast<std::size_t>(axis)] += first;
    want.push_back(x.at(index));
  });
  expect_same(out[0].values(), want);
}

Values naive_update(const Array& x, const Array& update, int axis, std::int64_t start) {
  const std::int64_t first = std::clamp<std::int64_t>(start, 0, x.shape[axis] - update.shape[axis]);
  Values out;
  each(x.shape, [&](auto index) {
    auto moved = index;
    auto& along = moved[static_cast<std::size_t>(axis)];
    along -= first;
    out.push_back(along >= 0 && along < update.shape[axis] ? update.at(moved) : x.at(index));
  });
  return out;
}

TEST(DynamicSliceKernel, StartsAreMovedInside) {
  for (const DType d : kAll)
    for (const int axis : {0, 1, 2})
      for (const std::int64_t start : {-3, 0, 1, 2, 99}) check_slice(random(d, {4, 5, 3}), axis, start, 2, DType::i32);
  check_slice(random(DType::f32, {4, 5}), 1, 3, 0);
  check_slice(random(DType::f32, {0, 5}), 1, 3, 2);
  check_slice(transposed(random(DType::f32, {6, 4, 5}), 0, 2), 1, 1, 2);
  check_slice(random(DType::f32, {500, 700}), 1, 31, 600);
}
TEST(DynamicUpdateSliceKernel, CopiesAroundTheWindow) {
  for (const DType d : kAll)
    for (const int axis : {0, 1, 2})
      for (const std::int64_t start : {-3, 0, 1, 99}) {
        const Array x = random(d, {4, 5, 3});
        Shape window = x.shape;
        window[axis] = 2;
        const Array update = random(d, window, 4);
        const auto out = run(dynamic_update_slice_kernel, {x, update, Array(DType::i64, {}, {double(start)})},
                             {{d, x.shape}}, {axis});
        expect_same(out[0].values(), naive_update(x, update, axis, start));
      }
  const Array x = random(DType::f32, {600, 700}), update = transposed(random(DType::f32, {100, 600}, 4), 0, 1);
  const auto out =
      run(dynamic_update_slice_kernel, {x, update, Array(DType::i64, {}, {17})}, {{DType::f32, x.shape}}, {1});
  expect_same(out[0].values(), naive_update(x, update, 1, 17));
  const Array none = random(DType::f32, {600, 0});
  expect_same(run(dynamic_update_slice_kernel, {x, none, Array(DType::i64, {}, {17})}, {{DType::f32, x.shape}}, {1})[0]
                  .values(),
              x.values());
}
TEST(DynamicUpdateSliceKernel, InPlaceWritesTheWindowOnly) {
  Array x = random(DType::f32, {6, 5}), update = random(DType::f32, {2, 5}, 4), start(DType::i32, {}, {3});
  const Values want = naive_update(x, update, 0, 3);
  const KernelTensor in[] = {x.view(), update.view(), start.view()};
  run_tasks(dynamic_update_slice_kernel, in, {in, 1}, {0}, false);
  expect_same(x.values(), want);
}

TEST(KernelTable, EveryKernelOpHasItsKernel) {
  for (const OpDef* op : ops::all()) EXPECT_EQ(builtin_kernel(op) != nullptr, op->kind == OpKind::kernel) << op->name;
}

}  // namespace
}  // namespace metal_candle::cpu::test
