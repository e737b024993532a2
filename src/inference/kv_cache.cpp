#include "inference/kv_cache.h"

#include <algorithm>
#include <bit>

#include "metal_candle/runtime.hpp"

namespace metal_candle::inference {
namespace {

constexpr std::int64_t kLeast = 256;

}  // namespace

KvCache::KvCache(const ModelConfig& config, DType dtype, std::int64_t slots)
    : slots_(slots),
      most_(config.context()),
      row_{config.key_heads, config.head_width},
      dtype_(dtype),
      keys_(static_cast<std::size_t>(config.layers)),
      values_(keys_.size()) {}

void KvCache::reserve(std::int64_t positions) {
  if (positions <= capacity_) return;
  const auto wanted = static_cast<std::int64_t>(std::bit_ceil(static_cast<std::uint64_t>(std::max(positions, kLeast))));
  const std::int64_t before = capacity_, now = std::max(positions, std::min(wanted, most_));
  const auto grown = [&](const LazyTensor& old) -> LazyTensor {
    const Shape shape{slots_ * now, row_[0], row_[1]};
    if (before == 0) return Tensor::zeros(shape, dtype_);
    const LazyTensor apart = reshape(old, {slots_, before, row_[0] * row_[1]});
    return reshape(pad(apart, {0, 0, 0}, {0, now - before, 0}), shape.dims()).eval();
  };
  // One tensor at a time: the old and the new of everything need not fit side by side.
  for (auto* list : {&keys_, &values_})
    for (LazyTensor& t : *list) t = grown(t);
  capacity_ = now;
  std::vector<std::int32_t> offsets;
  for (std::int64_t i = 0; i <= slots_; ++i) offsets.push_back(static_cast<std::int32_t>(i * capacity_));
  offsets_ = Tensor::from(offsets, {slots_ + 1});
}

nn::KeyValues KvCache::view(LazyTensor rows, LazyTensor lengths) const {
  return {.keys = keys_,
          .values = values_,
          .rows = std::move(rows),
          .key_offsets = offsets_,
          .key_lengths = std::move(lengths)};
}

std::vector<LazyTensor> KvCache::tensors() const {
  std::vector<LazyTensor> all(keys_);
  all.insert(all.end(), values_.begin(), values_.end());
  return all;
}

void KvCache::take(nn::KeyValues&& after) {
  keys_ = std::move(after.keys);
  values_ = std::move(after.values);
}

}  // namespace metal_candle::inference
