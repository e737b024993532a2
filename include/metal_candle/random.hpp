// Counter-based random numbers: a value depends on its key and its place, never on what was drawn before.
//
//   const mc::Key key(42);
//   auto w = mc::randn({64, 64}, {.key = key.fold(0)}) * 0.02f, b = mc::rand({64}, {.key = key.fold(1)});
//   auto kept = mc::dropout(h, 0.1, key.fold(step));                  // a key is a slot: a new one is no new plan
#pragma once

#include <cstdint>

#include "metal_candle/device.hpp"
#include "metal_candle/dtype.hpp"
#include "metal_candle/lazy_tensor.hpp"

namespace metal_candle {

/// A random key. Drawing twice from one key gives the same numbers; make more keys with `fold`.
struct Key {
  std::uint64_t value = 0;
  explicit Key(std::uint64_t seed) : value(seed) {}
  /// A key that is as good as independent of this one and of other `data`.
  Key fold(std::uint64_t data) const;
};

struct RandomOptions {
  Key key{0};
  DType dtype = DType::f32;
  Device device = {};
};

/// Uniform in [0, 1): multiples of 2^-24, in f64 of 2^-53, in bf16 of 2^-8, in f16 of 2^-11.
LazyTensor rand(const Shape& shape, RandomOptions options);
/// Standard normal.
LazyTensor randn(const Shape& shape, RandomOptions options);
/// True with probability p.
LazyTensor bernoulli(const Shape& shape, double p, Key key);
/// Drops elements with probability p and scales the rest by 1/(1-p).
LazyTensor dropout(const LazyTensor& x, double p, Key key);
/// An index (i32) along the last axis, drawn with probability softmax(logits). The second form takes one key (i64) a
/// row, of shape logits.shape()[:-1], so that a row's draw does not depend on its neighbours.
LazyTensor categorical(const LazyTensor& logits, Key key);
LazyTensor categorical(const LazyTensor& logits, const LazyTensor& row_keys);

}  // namespace metal_candle
