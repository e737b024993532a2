#include "graph/tensor.h"

#include <fmt/format.h>

#include <cmath>
#include <cstring>
#include <limits>
#include <ostream>

#include "graph/limits.h"
#include "graph/record.h"
#include "metal_candle/error.hpp"

namespace metal_candle {
namespace {

// Calls f with a null pointer of the C++ type of `dtype`.
template <class F>
auto dispatch(DType dtype, F f) {
  switch (dtype) {
    case DType::f32: return f(static_cast<float*>(nullptr));
    case DType::f64: return f(static_cast<double*>(nullptr));
    case DType::f16: return f(static_cast<f16*>(nullptr));
    case DType::bf16: return f(static_cast<bf16*>(nullptr));
    case DType::i8: return f(static_cast<std::int8_t*>(nullptr));
    case DType::u8: return f(static_cast<std::uint8_t*>(nullptr));
    case DType::i32: return f(static_cast<std::int32_t*>(nullptr));
    case DType::i64: return f(static_cast<std::int64_t*>(nullptr));
    case DType::boolean: break;
  }
  return f(static_cast<bool*>(nullptr));
}

template <class To, class From>
To convert(From value) {
  if constexpr (std::is_same_v<To, From>) return value;
  else if constexpr (std::is_same_v<From, f16> || std::is_same_v<From, bf16>)
    return convert<To>(static_cast<float>(value));
  else if constexpr (std::is_same_v<To, bool>) return value != From(0);
  else if constexpr (std::is_same_v<To, f16> || std::is_same_v<To, bf16>) return To(static_cast<float>(value));
  else if constexpr (std::is_integral_v<To> && std::is_floating_point_v<From>) {
    // As `cast` does: through i32 to types of eight bits; what does not fit becomes the smallest number there.
    using Wide = std::conditional_t<(sizeof(To) < 4), std::int32_t, To>;
    constexpr auto low = static_cast<From>(std::numeric_limits<Wide>::min());
    constexpr auto high = -low;  // 2^(bits-1) exactly
    return static_cast<To>(value >= low && value < high ? static_cast<Wide>(value) : std::numeric_limits<Wide>::min());
  } else return static_cast<To>(value);
}

// Visits every element in row-major order; f gets the element's offset.
template <class F>
void walk(const Shape& shape, const Shape& strides, std::int64_t offset, F f) {
  const std::int64_t n = shape.numel();
  std::int64_t index[Shape::kMaxRank] = {};
  for (std::int64_t i = 0; i < n; ++i) {
    f(offset);
    for (int d = shape.rank() - 1; d >= 0; --d) {
      offset += strides[d];
      if (++index[d] < shape[d]) break;
      offset -= strides[d] * shape[d];
      index[d] = 0;
    }
  }
}

[[noreturn]] void fail(ErrorKind kind, const char* function, const std::string& why) {
  throw UserError(kind, std::string(function) + ": " + why, function);
}

void check_size(DType dtype, const Shape& shape) {
  if (!countable(dtype, shape))
    fail(size_of(dtype) == 0 ? ErrorKind::dtype : ErrorKind::shape, "Tensor", uncountable(dtype, shape));
}

Shape strides_of(const Node& n) { return n.layout ? n.layout->strides : contiguous_strides(n.shape); }

}  // namespace

const OpDef leaf_def{
    .name = "leaf", .kind = OpKind::leaf, .infer = no_infer, .decompose = nullptr, .vjp = NoGrad{}, .samples = nullptr};

Tensor make_leaf(Storage* storage, DType dtype, const Shape& shape, const Layout* layout) {
  Node* n = Node::make(&leaf_def, dtype, 0);
  n->shape = shape;
  n->device = storage->device;
  n->origins = Origins::fresh();
  if (layout) n->layout = Layout::make(layout->strides, layout->offset);
  n->storage.store(storage, std::memory_order_release);
  return Tensor(LazyTensor::adopt(n));
}

Tensor make_dense(DType dtype, const Shape& shape) {
  check_size(dtype, shape);
  return make_leaf(Storage::make(static_cast<std::size_t>(shape.numel()) * size_of(dtype)), dtype, shape);
}

Tensor::Tensor(LazyTensor evaluated) : LazyTensor(std::move(evaluated)) {
  if (!is_evaluated()) fail(ErrorKind::argument, "Tensor", "the handle has not been evaluated; call eval()");
}

Tensor Tensor::copy_in(const void* data, std::size_t count, DType dtype, const Shape& shape) {
  if (static_cast<std::int64_t>(count) != shape.numel())
    fail(ErrorKind::shape, "Tensor::from", fmt::format("{} values do not fill shape {}", count, shape.str()));
  Tensor t = make_dense(dtype, shape);
  if (count > 0) std::memcpy(t.node()->storage.load()->data, data, count * size_of(dtype));
  return t;
}

Tensor Tensor::from(const std::vector<bool>& values, const Shape& shape) {
  std::unique_ptr<bool[]> flat(new bool[values.size()]);
  for (std::size_t i = 0; i < values.size(); ++i) flat[i] = values[i];
  return copy_in(flat.get(), values.size(), DType::boolean, shape);
}

Tensor Tensor::full(const Shape& shape, Scalar value, DType dtype) {
  if (!fit_number(dtype, value))
    fail(ErrorKind::argument, "Tensor::full", fmt::format("the number {} does not fit {}", shown(value), name(dtype)));
  Tensor t = make_dense(dtype, shape);
  dispatch(dtype, [&](auto* type) {
    using T = std::remove_pointer_t<decltype(type)>;
    const T v = value.integral ? convert<T>(value.i) : convert<T>(value.f);
    auto* out = static_cast<T*>(t.node()->storage.load()->data);
    std::fill(out, out + shape.numel(), v);
  });
  return t;
}
Tensor Tensor::zeros(const Shape& shape, DType dtype) { return full(shape, 0, dtype); }
Tensor Tensor::ones(const Shape& shape, DType dtype) { return full(shape, 1, dtype); }

Tensor Tensor::arange(Scalar begin, Scalar end, Scalar step, DType dtype) {
  if (step.f == 0) fail(ErrorKind::argument, "arange", "the step is 0");
  for (const Scalar& s : {begin, end, step})
    if (beyond_int64(s)) fail(ErrorKind::argument, "arange", "the number " + shown(s) + " does not fit i64");
  const bool integral = begin.integral && step.integral;
  const double count = integral && end.integral ? static_cast<double>(count_of(begin.i, end.i, step.i))
                                                : std::ceil((end.f - begin.f) / step.f);
  if (!(count < 4e18)) fail(ErrorKind::argument, "arange", "too many elements");
  const Shape shape{count > 0 ? static_cast<std::int64_t>(count) : 0};
  Tensor t = make_dense(dtype, shape);
  dispatch(dtype, [&](auto* type) {
    using T = std::remove_pointer_t<decltype(type)>;
    auto* out = static_cast<T*>(t.node()->storage.load()->data);
    const auto first = static_cast<std::uint64_t>(begin.i), by = static_cast<std::uint64_t>(step.i);
    for (std::int64_t i = 0; i < shape[0]; ++i)
      out[i] = integral ? convert<T>(static_cast<std::int64_t>(first + static_cast<std::uint64_t>(i) * by))
                        : convert<T>(begin.f + static_cast<double>(i) * step.f);
  });
  return t;
}

Tensor Tensor::from_external(const void* data, const Shape& shape, DType dtype, std::shared_ptr<void> owner) {
  check_size(dtype, shape);
  const auto bytes = static_cast<std::size_t>(shape.numel()) * size_of(dtype);
  if (!data && bytes > 0)
    fail(ErrorKind::argument, "from_external", "null pointer for a tensor of " + std::to_string(bytes) + " bytes");
  // Never written through: a storage with an owner is not donated and not updated in place.
  return make_leaf(Storage::make_external(const_cast<void*>(data), bytes, std::move(owner)), dtype, shape);
}

namespace {

const Node& held(const Node* node) {
  if (!node) throw UserError(ErrorKind::argument, "an empty tensor handle was used");
  return *node;
}
Storage* storage_of(const Node* node) { return held(node).storage.load(std::memory_order_acquire); }

}  // namespace

Shape Tensor::strides() const { return strides_of(held(node())); }

bool Tensor::is_contiguous() const {
  const Layout* layout = held(node()).layout;
  if (!layout) return true;
  std::int64_t expected = 1;
  for (int i = shape().rank() - 1; i >= 0; --i) {
    if (shape()[i] != 1 && layout->strides[i] != expected) return false;
    expected *= shape()[i];
  }
  return true;
}

void Tensor::wait() const { storage_of(node())->wait(); }

bool Tensor::is_ready() const {
  return storage_of(node())->state.load(std::memory_order_acquire) != Storage::State::pending;
}

const void* Tensor::raw_data() const {
  wait();
  const Storage* s = storage_of(node());
  const std::int64_t offset = held(node()).layout ? held(node()).layout->offset : 0;
  return static_cast<const char*>(s->data) + offset * static_cast<std::int64_t>(size_of(dtype()));
}

void Tensor::check_dtype(DType asked) const {
  if (asked != dtype())
    throw UserError(ErrorKind::dtype,
                    fmt::format("Tensor: it holds {}{}, not {}; cast it", name(dtype()), shape().str(), name(asked)));
}

void Tensor::copy_out(void* to, DType as) const {
  const void* from = raw_data();
  const Shape strides = this->strides();
  dispatch(dtype(), [&](auto* from_type) {
    using From = std::remove_pointer_t<decltype(from_type)>;
    const auto* in = static_cast<const From*>(from);
    dispatch(as, [&](auto* to_type) {
      using To = std::remove_pointer_t<decltype(to_type)>;
      auto* out = static_cast<To*>(to);
      walk(shape(), strides, 0, [&](std::int64_t at) { *out++ = convert<To>(in[at]); });
    });
  });
}

std::vector<double> Tensor::to_f64() const {
  std::vector<double> out(static_cast<std::size_t>(numel()));
  copy_out(out.data(), DType::f64);
  return out;
}

Tensor Tensor::copy() const {
  Tensor t = make_dense(dtype(), shape());
  copy_out(t.node()->storage.load()->data, dtype());
  return t;
}

Tensor& Tensor::freeze() {
  storage_of(node())->frozen = true;
  return *this;
}
bool Tensor::is_frozen() const { return storage_of(node())->frozen; }

namespace {

std::string number(double v) { return v != v ? "nan" : fmt::format("{:.6g}", v); }  // a NaN's sign says nothing
std::string number(std::int64_t v) { return std::to_string(v); }

template <class T>
void print(std::string& out, const std::vector<T>& v, const Shape& shape, const DType dtype, int axis, std::size_t& at,
           std::size_t step) {
  if (axis == shape.rank()) {
    out += dtype != DType::boolean ? number(v[at]) : v[at] != 0 ? "true" : "false";
    return;
  }
  step /= static_cast<std::size_t>(shape[axis]);
  out += "[";
  for (std::int64_t i = 0; i < shape[axis]; ++i) {
    if (shape[axis] > 8 && i == 3) {
      out += ", ...";
      at += step * static_cast<std::size_t>(shape[axis] - 6);
      i = shape[axis] - 3;
    }
    if (i > 0) out += ", ";
    const std::size_t here = at;
    print(out, v, shape, dtype, axis + 1, at, step);
    at = here + step;
  }
  out += "]";
}

}  // namespace

std::string Tensor::str() const {
  std::string out;
  const auto all = [&](const auto& values) {
    std::size_t at = 0;
    print(out, values, shape(), dtype(), 0, at, values.size());
  };
  if (numel() == 0) {
    out = "[]";
  } else if (is_float(dtype())) {
    all(to_f64());
  } else {
    std::vector<std::int64_t> values(static_cast<std::size_t>(numel()));
    copy_out(values.data(), DType::i64);
    all(values);
  }
  return out + fmt::format("  {} {}", name(dtype()), shape().str());
}

std::ostream& operator<<(std::ostream& out, const Tensor& tensor) { return out << tensor.str(); }

}  // namespace metal_candle
