// A kernel that may write over one of its inputs leaves it alone while another of its operands reads the same memory.
#include <gtest/gtest.h>

#include "metal_candle/metal_candle.hpp"

namespace metal_candle {
namespace {

constexpr std::int64_t kRows = 3000, kCols = 40;
using Floats = std::vector<float>;

std::size_t at(std::int64_t row, std::int64_t col) { return static_cast<std::size_t>(row * kCols + col); }

/// Whole numbers, so that sums are exact in any order.
Tensor numbers() {
  Floats v;
  for (std::int64_t i = 0; i < kRows * kCols; ++i) v.push_back(static_cast<float>(i * 37 % 1013));
  return Tensor::from(v, {kRows, kCols});
}
Tensor next_rows() {
  std::vector<std::int32_t> v;
  for (std::int32_t i = 0; i < kRows; ++i) v.push_back((i + 1) % static_cast<std::int32_t>(kRows));
  return Tensor::from(v, {kRows});
}

Floats sums_down(Floats x) {
  for (std::size_t i = kCols; i < x.size(); ++i) x[i] += x[i - kCols];
  return x;
}

/// What an update makes of a temporary on the way to another, and of a tensor that is donated.
template <class Update>
void expect_both(const Update& update, const Floats& want) {
  const Tensor x = numbers();
  const LazyTensor steps = concat({slice(x, 0, 0, 1), slice(x, 0, 1, kRows) - slice(x, 0, 0, kRows - 1)}, 0);
  const LazyTensor of_temporary = cumsum(update(cumsum(steps, 0)), 0);
  EXPECT_EQ(of_temporary.eval().to_vector<float>(), sums_down(want)) << "a temporary";
  const LazyTensor mine = numbers();
  const LazyTensor result = update(mine);
  eval_now({.roots = {result}, .donate = {mine}});
  EXPECT_EQ(Tensor(result).to_vector<float>(), want) << "donated";
}

TEST(InPlace, RowsAreMovedWithinATensor) {
  const Floats x = numbers().to_vector<float>();
  Floats up = x, down = x;
  std::copy(x.begin() + kCols, x.end(), up.begin());
  std::copy(x.begin(), x.end() - kCols, down.begin() + kCols);
  expect_both([](const LazyTensor& t) { return dynamic_update_slice(t, slice(t, 0, 1, kRows), 0, 0); }, up);
  expect_both([](const LazyTensor& t) { return dynamic_update_slice(t, slice(t, 0, 0, kRows - 1), 0, 1); }, down);
}

TEST(InPlace, RowsAreAddedToAndSetFromTheSameTensor) {
  const Floats x = numbers().to_vector<float>();
  Floats added = x, set = x;
  for (std::int64_t r = 0; r < kRows; ++r)
    for (std::int64_t c = 0; c < kCols; ++c) {
      added[at((r + 1) % kRows, c)] += x[at(r, c)];
      set[at((r + 1) % kRows, c)] = x[at(r, c)];
    }
  const Tensor to = next_rows();
  expect_both([&](const LazyTensor& t) { return scatter_add(t, to, t); }, added);
  expect_both([&](const LazyTensor& t) { return set_rows(t, to, t); }, set);
}

TEST(InPlace, AnUpdateOfSomethingElseStillTakesTheMemory) {
  const LazyTensor mine = numbers();
  const void* const memory = Tensor(mine).raw_data();
  const LazyTensor result = dynamic_update_slice(mine, Tensor::ones({1, kCols}), 0, 7);
  eval_now({.roots = {result}, .donate = {mine}});
  EXPECT_EQ(Tensor(result).raw_data(), memory);
}

}  // namespace
}  // namespace metal_candle
