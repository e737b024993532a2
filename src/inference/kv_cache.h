// The keys and values of sequences in progress: for each layer one tensor of `slots` times `capacity` rows. It grows by
// doubling; how much of it is in use is data, so a plan lasts until it grows.
#pragma once

#include <span>

#include "metal_candle/model.hpp"

namespace metal_candle::inference {

class KvCache {
 public:
  KvCache(const ModelConfig& config, DType dtype, std::int64_t slots);

  std::int64_t slots() const { return slots_; }
  std::int64_t capacity() const { return capacity_; }
  /// Makes room for `positions` tokens in each slot, keeping what is there.
  void reserve(std::int64_t positions);
  /// The row of a slot's token.
  std::int32_t row(std::int64_t slot, std::int64_t position) const {
    return static_cast<std::int32_t>(slot * capacity_ + position);
  }
  /// Where each slot's rows begin, [slots + 1] i32.
  const Tensor& offsets() const { return offsets_; }
  const std::vector<Tensor>& tensors() const { return tensors_; }
  /// Appends the tensors, a layer each, all keys first, and lets go of them, so that they can be donated. `take` brings
  /// those back that a pass made of them.
  void move_to(std::vector<Tensor>& list);
  void take(std::span<Tensor> after);

 private:
  std::int64_t slots_, capacity_ = 0, most_;
  Shape row_;  // [key heads, width]
  DType dtype_;
  std::vector<Tensor> tensors_;  // keys, then values
  Tensor offsets_;
};

}  // namespace metal_candle::inference
