// The order of rows, and rows as one input.
#include <gtest/gtest.h>

#include <algorithm>
#include <set>

#include "metal_candle/error.hpp"
#include "metal_candle/metal_candle.hpp"
#include "tests/support/tiny_llama.h"

namespace metal_candle {
namespace {

TEST(RowOrder, RoundAndRound) {
  RowOrder order(5, false, 1);
  for (std::int64_t p = 0; p < 23; ++p) EXPECT_EQ(order[p], static_cast<std::size_t>(p % 5));
}

TEST(RowOrder, ShuffledEachRoundHasEveryRowOnceInAnOrderOfItsOwn) {
  RowOrder order(50, true, 7), again(50, true, 7), other(50, true, 8);
  std::vector<std::vector<std::size_t>> rounds(3);
  for (std::int64_t p = 0; p < 150; ++p) rounds[static_cast<std::size_t>(p / 50)].push_back(order[p]);
  for (const auto& round : rounds) EXPECT_EQ(std::set(round.begin(), round.end()).size(), 50u);
  EXPECT_NE(rounds[0], rounds[1]);
  EXPECT_EQ(again[120], rounds[2][20]) << "a position says it all, wherever one begins";
  EXPECT_EQ(again[3], rounds[0][3]);
  int same = 0;
  for (std::int64_t p = 0; p < 50; ++p) same += other[p] == order[p];
  EXPECT_LT(same, 10);
  EXPECT_THROW(RowOrder(0, false, 0), UserError);
}

TEST(Packing, LengthsRepeat) {
  std::set<std::int64_t> lengths;
  for (std::int64_t n = 1; n <= 4096; ++n) {
    const std::int64_t bucket = bucket_of(n);
    EXPECT_GE(bucket, n);
    if (n > 128) {
      EXPECT_LT(bucket - n, n / 8 + 1) << n;
    }
    EXPECT_EQ(bucket_of(bucket), bucket);
    lengths.insert(bucket);
  }
  EXPECT_LE(lengths.size(), 56u);
}

TEST(Packing, SaysForEachTokenWhereItIsAndWhatFollows) {
  const Sample a{{1, 2, 3}, {false, true, true}, 1}, b{{4, 5}, {false, true}, 2};
  const Sample* rows[] = {&a, &b};
  const PackedRows p = pack(rows, 3);
  constexpr std::int32_t no = PackedRows::kIgnored;
  ASSERT_EQ(p.ids.size(), 16u);
  EXPECT_EQ(std::vector(p.ids.begin(), p.ids.begin() + 5), (std::vector<std::int32_t>{1, 2, 3, 4, 5}));
  EXPECT_EQ(std::vector(p.positions.begin(), p.positions.begin() + 7),
            (std::vector<std::int32_t>{0, 1, 2, 0, 1, 0, 1}));
  EXPECT_EQ(std::vector(p.lengths.begin(), p.lengths.begin() + 7), (std::vector<std::int32_t>{3, 3, 3, 2, 2, 11, 11}));
  EXPECT_EQ(std::vector(p.targets.begin(), p.targets.begin() + 7),
            (std::vector<std::int32_t>{2, 3, no, 5, no, no, no}));
  EXPECT_EQ(p.offsets, (std::vector<std::int32_t>{0, 3, 5, 16, 16}));
  EXPECT_EQ(p.tokens, 5);
  EXPECT_EQ(p.supervised, 3);
}

/// Loss of rows packed together, as the trainer has it.
double loss_of(const Model& model, std::span<const Sample* const> rows, std::int64_t sequences) {
  const PackedRows p = pack(rows, sequences);
  const auto list = [](const std::vector<std::int32_t>& v) { return Tensor::from(v, {std::ssize(v)}); };
  const LazyTensor h =
      model.hidden(model.weights(), {list(p.ids), list(p.positions), list(p.offsets), list(p.lengths)});
  return model.cross_entropy(model.weights(), h, list(p.targets), {.reduction = Reduction::sum}).eval().item<float>();
}

TEST(Packing, NothingLeaksBetweenRows) {
  const Model model = test::tiny_llama();
  const std::vector<Sample> samples = test::tiny_rows(9);
  std::vector<const Sample*> all;
  double alone = 0;
  for (const Sample& s : samples) {
    all.push_back(&s);
    const Sample* one[] = {&s};
    alone += loss_of(model, one, 1);
  }
  const double together = loss_of(model, all, 9);
  EXPECT_NEAR(together, alone, 1e-4);
  EXPECT_FLOAT_EQ(static_cast<float>(loss_of(model, all, 16)), static_cast<float>(together)) << "empty sequences";
  // A row's neighbour changes: its own loss does not.
  const Sample* first[] = {&samples[0], &samples[1]};
  const Sample* second[] = {&samples[0], &samples[2]};
  const Sample *one[] = {&samples[1]}, *two[] = {&samples[2]};
  EXPECT_NEAR(loss_of(model, first, 2) - loss_of(model, one, 1), loss_of(model, second, 2) - loss_of(model, two, 1),
              1e-4);
}

}  // namespace
}  // namespace metal_candle
