// Samples of ops as checks use them: drawn in one float type, the same numbers every time.
#pragma once

#include <random>
#include <vector>

#include "metal_candle/op_def.hpp"
#include "metal_candle/tensor.hpp"

namespace metal_candle::ops {

/// Values of any type from doubles, rounded as the library rounds.
Tensor tensor_of(const std::vector<double>& values, const Shape& shape, DType dtype);

/// One call of an op. Inputs are data, or numbers made with `scalar`.
struct Sample {
  Tensors inputs;
  Attrs attrs;
};

class Samples : public SampleSink {
 public:
  explicit Samples(DType float_type, std::uint64_t seed = 1) : float_type_(float_type), random_(seed) {}
  LazyTensor normal(const Shape& shape, double scale = 1) override;
  LazyTensor uniform(const Shape& shape, double low, double high) override;
  /// In [low, high).
  LazyTensor integers(const Shape& shape, std::int64_t low, std::int64_t high, DType dtype = DType::i32) override;
  void add(Tensors inputs, Attrs attrs = {}) override;

  std::vector<Sample> taken;

 private:
  DType float_type_;
  std::mt19937_64 random_;
};

/// What `op` is tested on, its floats being of `float_type`.
std::vector<Sample> samples_of(const OpDef& op, DType float_type, std::uint64_t seed = 1);

}  // namespace metal_candle::ops
