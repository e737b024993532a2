#include "inference/kv_cache.h"

#include <gtest/gtest.h>

#include "metal_candle/runtime.hpp"
#include "tests/support/tiny_models.h"

namespace metal_candle::test {
namespace {

TEST(KvCache, GrowsAndKeepsWhatItHas) {
  ModelConfig config = ModelConfig::from_json(tiny_case("llama").config);
  config.max_positions = 3000;
  inference::KvCache cache(config, DType::f32, 2);
  cache.reserve(10);
  EXPECT_EQ(cache.capacity(), 256);
  const LazyTensor places = ints({cache.row(0, 3), cache.row(1, 255)});
  std::vector<Tensor> list;
  cache.move_to(list);
  for (Tensor& t : list) t = set_rows(t, places, randn({2, 2, 6}, {.key = Key(3)})).eval();
  const auto rows = [](const LazyTensor& t, std::int64_t at) { return slice(t, 0, at, at + 1).eval().to_f64(); };
  const auto first = rows(list[3], 3), second = rows(list[3], 256 + 255);
  cache.take(list);

  cache.reserve(257);
  EXPECT_EQ(cache.capacity(), 512);
  EXPECT_EQ(cache.row(1, 255), 512 + 255);
  EXPECT_EQ(cache.tensors()[3].shape(), Shape({1024, 2, 6}));
  EXPECT_EQ(rows(cache.tensors()[3], 3), first);
  EXPECT_EQ(rows(cache.tensors()[3], 512 + 255), second);
  EXPECT_EQ(cache.offsets().to_vector<std::int32_t>(), (std::vector<std::int32_t>{0, 512, 1024}));
  cache.reserve(2500);
  EXPECT_EQ(cache.capacity(), 3000);  // never more than the context
}

}  // namespace
}  // namespace metal_candle::test
