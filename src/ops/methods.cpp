// The methods of LazyTensor that are operations: the functions of ops.hpp under the names of their first argument.
#include "metal_candle/ops.hpp"

namespace metal_candle {

namespace mc = metal_candle;

#define MC_UNARY(name, ...) \
  LazyTensor LazyTensor::name() const { return mc::name(*this); }
#define MC_BINARY(name, ...)                                                                    \
  LazyTensor LazyTensor::name(const LazyTensor& other) const { return mc::name(*this, other); } \
  LazyTensor LazyTensor::name(Scalar other) const { return mc::name(*this, other); }
#define MC_COMPARE(name, ...) MC_BINARY(name)
#define MC_LOGIC(name, ...) \
  LazyTensor LazyTensor::name(const LazyTensor& other) const { return mc::name(*this, other); }
#include "metal_candle/elementwise.def"

LazyTensor LazyTensor::add_scalar(Scalar s) const { return mc::add(*this, s); }
LazyTensor LazyTensor::mul_scalar(Scalar s) const { return mc::mul(*this, s); }
LazyTensor LazyTensor::logical_not() const { return mc::logical_not(*this); }
LazyTensor LazyTensor::clamp(Scalar low, Scalar high) const { return mc::clamp(*this, low, high); }
LazyTensor LazyTensor::cast(DType dtype) const { return mc::cast(*this, dtype); }
LazyTensor LazyTensor::matmul(const LazyTensor& other) const { return mc::matmul(*this, other); }

#define MC_REDUCTION(name) \
  LazyTensor LazyTensor::name(const Axes& axes, bool keepdim) const { return mc::name(*this, axes, keepdim); }
MC_REDUCTION(sum)
MC_REDUCTION(mean)
MC_REDUCTION(max)
MC_REDUCTION(min)
MC_REDUCTION(prod)
MC_REDUCTION(logsumexp)
#undef MC_REDUCTION
LazyTensor LazyTensor::var(const Axes& axes, bool keepdim, int correction) const {
  return mc::var(*this, axes, keepdim, correction);
}
LazyTensor LazyTensor::argmax(int axis, bool keepdim) const { return mc::argmax(*this, axis, keepdim); }
LazyTensor LazyTensor::argmax() const { return mc::argmax(*this); }
LazyTensor LazyTensor::argmin(int axis, bool keepdim) const { return mc::argmin(*this, axis, keepdim); }
LazyTensor LazyTensor::argmin() const { return mc::argmin(*this); }
LazyTensor LazyTensor::cumsum(int axis) const { return mc::cumsum(*this, axis); }
LazyTensor LazyTensor::powi(int exponent) const { return mc::powi(*this, exponent); }

Sorted LazyTensor::sort(int axis, bool descending) const { return mc::sort(*this, axis, descending); }
Sorted LazyTensor::topk(std::int64_t k) const { return mc::topk(*this, k); }
LazyTensor LazyTensor::take(const LazyTensor& indices) const { return mc::take(*this, indices); }

LazyTensor LazyTensor::reshape(std::initializer_list<std::int64_t> dims) const { return mc::reshape(*this, dims); }
LazyTensor LazyTensor::reshape(const Shape& shape) const { return mc::reshape(*this, shape.dims()); }
LazyTensor LazyTensor::flatten(int first, int last) const { return mc::flatten(*this, first, last); }
LazyTensor LazyTensor::transpose(int a, int b) const { return mc::transpose(*this, a, b); }
LazyTensor LazyTensor::permute(const Axes& axes) const { return mc::permute(*this, axes); }
LazyTensor LazyTensor::slice(int axis, std::int64_t begin, std::int64_t end, std::int64_t step) const {
  return mc::slice(*this, axis, begin, end, step);
}
LazyTensor LazyTensor::expand(std::initializer_list<std::int64_t> dims) const { return mc::expand(*this, dims); }
LazyTensor LazyTensor::expand(const Shape& shape) const { return mc::expand(*this, shape); }
LazyTensor LazyTensor::squeeze(int axis) const { return mc::squeeze(*this, axis); }
LazyTensor LazyTensor::unsqueeze(int axis) const { return mc::unsqueeze(*this, axis); }

}  // namespace metal_candle
