// Tensor: a LazyTensor that has its data (or is in flight towards it).
//
//   auto a = mc::Tensor::from<float>({1, 2, 3, 4, 5, 6}, {2, 3});
//   std::vector<float> back = (a + 1).eval().to_vector<float>();
//
// Buffers are immutable once shared: nothing here writes into an existing tensor. Accessors that read values wait for
// a tensor in flight and throw what its computation threw.
#pragma once

#include <initializer_list>
#include <memory>
#include <string>
#include <vector>

#include "metal_candle/error.hpp"
#include "metal_candle/lazy_tensor.hpp"

namespace metal_candle {

struct RandomOptions;

class Tensor : public LazyTensor {
 public:
  Tensor() = default;
  /// Wraps an evaluated handle; throws UserError for one that is not.
  explicit Tensor(LazyTensor evaluated);

  /// Copies values in; their number must be the shape's.
  template <class T>
  static Tensor from(std::span<const T> values, const Shape& shape) {
    return copy_in(values.data(), values.size(), dtype_of<T>, shape);
  }
  template <class T>
  static Tensor from(const std::vector<T>& values, const Shape& shape) {
    return from(std::span<const T>(values), shape);
  }
  static Tensor from(const std::vector<bool>& values, const Shape& shape);
  template <class T>
  static Tensor from(std::initializer_list<T> values, const Shape& shape) {
    return from(std::span<const T>(values.begin(), values.size()), shape);
  }
  template <class T>
  static Tensor scalar(T value) {
    return copy_in(&value, 1, dtype_of<T>, Shape{});
  }
  static Tensor zeros(const Shape& shape, DType dtype = DType::f32);
  static Tensor ones(const Shape& shape, DType dtype = DType::f32);
  static Tensor full(const Shape& shape, Scalar value, DType dtype = DType::f32);
  /// begin, begin + step, ... up to but without end.
  static Tensor arange(Scalar begin, Scalar end, Scalar step = 1, DType dtype = DType::i64);
  /// Random numbers in a buffer at once; `rand` and `randn` (random.hpp) record the same.
  static Tensor rand(const Shape& shape, const RandomOptions& options);
  static Tensor randn(const Shape& shape, const RandomOptions& options);
  /// Dense row-major memory that somebody else owns; `owner` is kept alive as long as any tensor uses it. The memory
  /// must not change while the tensor lives.
  static Tensor from_external(const void* data, const Shape& shape, DType dtype, std::shared_ptr<void> owner);

  /// Element strides; a view of other data need not be dense.
  Shape strides() const;
  bool is_contiguous() const;
  /// Waits, then gives the first element's address. T must match the dtype. Elements lie at `strides()`.
  template <class T>
  const T* data() const {
    check_dtype(dtype_of<T>);
    return static_cast<const T*>(raw_data());
  }
  const void* raw_data() const;
  /// The only element, converted; throws UserError when there is not exactly one.
  template <class T>
  T item() const;
  /// All elements in row-major order; T must match the dtype.
  template <class T>
  std::vector<T> to_vector() const;
  /// All elements in row-major order as f64, whatever the dtype.
  std::vector<double> to_f64() const;
  /// A dense copy with its own buffer.
  Tensor copy() const;
  /// Marks the buffer as constant for good: a matmul may keep a packed form of it beside it. Returns itself.
  Tensor& freeze();
  bool is_frozen() const;
  /// Waits for a tensor in flight; throws what its computation threw.
  void wait() const;
  bool is_ready() const;
  /// Values, nested and shortened in the middle, with shape and dtype.
  std::string str() const;

 private:
  friend class LazyTensor;
  static Tensor copy_in(const void* data, std::size_t count, DType dtype, const Shape& shape);
  void check_dtype(DType asked) const;
  void copy_out(void* to, DType as) const;
};

std::ostream& operator<<(std::ostream& out, const Tensor& tensor);

template <class T>
LazyTensor LazyTensor::from_slice(std::span<const T> values, const Shape& shape) {
  return Tensor::from(values, shape);
}

template <class T>
T Tensor::item() const {
  if (numel() != 1) throw UserError(ErrorKind::shape, "item: a tensor of shape " + shape().str() + " is not one value");
  T value{};
  copy_out(&value, dtype_of<T>);
  return value;
}

template <class T>
std::vector<T> Tensor::to_vector() const {
  check_dtype(dtype_of<T>);
  if constexpr (std::is_same_v<T, bool>) {
    std::unique_ptr<bool[]> flat(new bool[static_cast<std::size_t>(numel())]);
    copy_out(flat.get(), DType::boolean);
    return std::vector<T>(flat.get(), flat.get() + numel());
  } else {
    std::vector<T> out(static_cast<std::size_t>(numel()));
    copy_out(out.data(), dtype_of<T>);
    return out;
  }
}

}  // namespace metal_candle
