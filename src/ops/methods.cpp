// The methods of LazyTensor that are operations: the functions of ops.hpp under the names of their first argument.
#include "metal_candle/ops.hpp"

namespace metal_candle {

namespace mc = metal_candle;

#define MC_UNARY(name, ...) \
  LazyTensor LazyTensor::name() const { return mc::name(*this); }
#define MC_BINARY(name, ...) \
  LazyTensor LazyTensor::name(const LazyTensor& other) const { return mc::name(*this, other); }
#define MC_COMPARE(name, ...) MC_BINARY(name)
#define MC_LOGIC(name, ...) MC_BINARY(name)
#include "metal_candle/elementwise.def"

LazyTensor LazyTensor::add_scalar(Scalar s) const { return mc::add(*this, s); }
LazyTensor LazyTensor::mul_scalar(Scalar s) const { return mc::mul(*this, s); }
LazyTensor LazyTensor::logical_not() const { return mc::logical_not(*this); }
LazyTensor LazyTensor::clamp(Scalar low, Scalar high) const { return mc::clamp(*this, low, high); }
LazyTensor LazyTensor::cast(DType dtype) const { return mc::cast(*this, dtype); }
LazyTensor LazyTensor::matmul(const LazyTensor& other) const { return mc::matmul(*this, other); }

LazyTensor LazyTensor::sum(std::span<const int> axes, bool keepdim) const {
  return mc::sum(*this, Axes(axes.begin(), axes.end()), keepdim);
}
LazyTensor LazyTensor::sum(int axis, bool keepdim) const { return mc::sum(*this, {axis}, keepdim); }
LazyTensor LazyTensor::mean(int axis, bool keepdim) const { return mc::mean(*this, {axis}, keepdim); }
LazyTensor LazyTensor::max(int axis, bool keepdim) const { return mc::max(*this, {axis}, keepdim); }
LazyTensor LazyTensor::min(int axis, bool keepdim) const { return mc::min(*this, {axis}, keepdim); }
LazyTensor LazyTensor::argmax(int axis, bool keepdim) const { return mc::argmax(*this, axis, keepdim); }

LazyTensor LazyTensor::reshape(const Shape& shape) const { return mc::reshape(*this, shape.dims()); }
LazyTensor LazyTensor::transpose(int a, int b) const { return mc::transpose(*this, a, b); }
LazyTensor LazyTensor::permute(std::span<const int> axes) const {
  return mc::permute(*this, Axes(axes.begin(), axes.end()));
}
LazyTensor LazyTensor::slice(int axis, std::int64_t begin, std::int64_t end, std::int64_t step) const {
  return mc::slice(*this, axis, begin, end, step);
}
LazyTensor LazyTensor::expand(const Shape& shape) const { return mc::expand(*this, shape); }
LazyTensor LazyTensor::squeeze(int axis) const { return mc::squeeze(*this, axis); }
LazyTensor LazyTensor::unsqueeze(int axis) const { return mc::unsqueeze(*this, axis); }

}  // namespace metal_candle
