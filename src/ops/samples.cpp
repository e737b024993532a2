#include "ops/samples.h"

#include <cmath>
#include <numbers>

namespace metal_candle::ops {
namespace {

template <class T>
Tensor converted(const std::vector<double>& values, const Shape& shape) {
  std::vector<T> typed;
  typed.reserve(values.size());
  for (const double v : values) {
    if constexpr (std::is_same_v<T, f16> || std::is_same_v<T, bf16>) typed.push_back(T(static_cast<float>(v)));
    else typed.push_back(static_cast<T>(v));
  }
  return Tensor::from(typed, shape);
}

// The distributions of <random> differ between standard libraries; this does not.
double unit(std::mt19937_64& random) { return static_cast<double>(random() >> 11) * 0x1p-53; }

}  // namespace

Tensor tensor_of(const std::vector<double>& values, const Shape& shape, DType dtype) {
  switch (dtype) {
    case DType::f32: return converted<float>(values, shape);
    case DType::f64: return converted<double>(values, shape);
    case DType::f16: return converted<f16>(values, shape);
    case DType::bf16: return converted<bf16>(values, shape);
    case DType::i8: return converted<std::int8_t>(values, shape);
    case DType::u8: return converted<std::uint8_t>(values, shape);
    case DType::i32: return converted<std::int32_t>(values, shape);
    case DType::i64: return converted<std::int64_t>(values, shape);
    case DType::boolean: return Tensor::from(std::vector<bool>(values.begin(), values.end()), shape);
  }
  return {};
}

LazyTensor Samples::normal(const Shape& shape, double scale) {
  std::vector<double> values(static_cast<std::size_t>(shape.numel()));
  for (double& v : values) {
    const double radius = std::sqrt(-2 * std::log(1 - unit(random_)));
    v = scale * radius * std::cos(2 * std::numbers::pi * unit(random_));
  }
  return tensor_of(values, shape, float_type_);
}

LazyTensor Samples::uniform(const Shape& shape, double low, double high) {
  std::vector<double> values(static_cast<std::size_t>(shape.numel()));
  for (double& v : values) v = low + (high - low) * unit(random_);
  return tensor_of(values, shape, float_type_);
}

LazyTensor Samples::integers(const Shape& shape, std::int64_t low, std::int64_t high, DType dtype) {
  std::vector<double> values(static_cast<std::size_t>(shape.numel()));
  for (double& v : values) v = static_cast<double>(low) + std::floor(static_cast<double>(high - low) * unit(random_));
  return tensor_of(values, shape, dtype);
}

void Samples::add(Tensors inputs, Attrs attrs) { taken.push_back({std::move(inputs), std::move(attrs)}); }

std::vector<Sample> samples_of(const OpDef& op, DType float_type, std::uint64_t seed) {
  Samples sink(float_type, seed);
  if (op.samples) op.samples(sink);
  return std::move(sink.taken);
}

}  // namespace metal_candle::ops
