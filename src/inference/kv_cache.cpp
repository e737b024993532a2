#include "inference/kv_cache.h"

#include <algorithm>
#include <bit>
#include <iterator>

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
      tensors_(2 * static_cast<std::size_t>(config.layers)) {}

void KvCache::reserve(std::int64_t positions) {
  if (positions <= capacity_) return;
  const auto wanted = static_cast<std::int64_t>(std::bit_ceil(static_cast<std::uint64_t>(std::max(positions, kLeast))));
  const std::int64_t before = capacity_, now = std::max(positions, std::min(wanted, most_));
  const auto grown = [&](const Tensor& old) -> Tensor {
    const Shape shape{slots_ * now, row_[0], row_[1]};
    if (before == 0) return Tensor::zeros(shape, dtype_);
    const LazyTensor apart = reshape(old, {slots_, before, row_[0] * row_[1]});
    return reshape(pad(apart, {0, 0, 0}, {0, now - before, 0}), shape.dims()).eval();
  };
  // One tensor at a time: the old and the new of everything need not fit side by side.
  for (Tensor& t : tensors_) t = grown(t);
  capacity_ = now;
  std::vector<std::int32_t> offsets;
  for (std::int64_t i = 0; i <= slots_; ++i) offsets.push_back(static_cast<std::int32_t>(i * capacity_));
  offsets_ = Tensor::from(offsets, {slots_ + 1});
}

void KvCache::move_to(std::vector<Tensor>& list) {
  list.insert(list.end(), std::make_move_iterator(tensors_.begin()), std::make_move_iterator(tensors_.end()));
  tensors_.clear();
}

void KvCache::take(std::span<Tensor> after) {
  tensors_.assign(std::make_move_iterator(after.begin()), std::make_move_iterator(after.end()));
}

}  // namespace metal_candle::inference
