// Memory of packed weights: shared chunks, and that all of it is given back.
#include "backend/cpu/weight_heap.h"

#include <gtest/gtest.h>

#include <cstdint>
#include <memory>
#include <vector>

#include "base/pool.h"

namespace metal_candle::cpu {
namespace {

TEST(WeightHeap, GivesAllBackWithTheLastWeight) {
  const std::size_t before = base::pool_stats().live;
  std::vector<std::unique_ptr<WeightMemory>> pieces;
  for (const std::size_t bytes : {100u, 40'000u, 1'000'000u, 3'000'000u, 9'000'000u, 2'000'000u, 50'000u}) {
    pieces.push_back(std::make_unique<WeightMemory>(bytes));
    EXPECT_EQ(reinterpret_cast<std::uintptr_t>(pieces.back()->data()) % 64, 0u);
    pieces.back()->data()[bytes - 1] = 1;
  }
  for (std::size_t i = 0; i < pieces.size(); ++i) pieces[(i * 3) % pieces.size()].reset();
  EXPECT_EQ(base::pool_stats().live, before);
  for (int i = 0; i < 3; ++i) WeightMemory(1'000'000).data()[0] = 1;
  EXPECT_EQ(base::pool_stats().live, before);
}

}  // namespace
}  // namespace metal_candle::cpu
