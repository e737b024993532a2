// LazyTensor: a handle on a computation that has a shape and a dtype, and may not have been computed yet.
//
//   auto x = mc::Tensor::from<float>({1, 2, 3, 4}, {2, 2});
//   mc::LazyTensor y = mc::softmax(x * 0.5f, -1);   // records; shapes and dtypes are checked here
//   mc::Tensor now = y.eval();                      // computes
//
// Handles are cheap to copy and may be used from any thread, like shared_ptr. Tensors recorded on different threads
// combine freely; there is no graph object to pass around. A handle that has been evaluated is a leaf for everything
// recorded from it later.
#pragma once

#include <atomic>
#include <concepts>
#include <cstdint>
#include <initializer_list>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "metal_candle/device.hpp"
#include "metal_candle/dtype.hpp"
#include "metal_candle/shape.hpp"

namespace metal_candle {

class Node;
class Tensor;
struct Sorted;

/// A host number as an operand. In C++ arithmetic it is a *slot*: its value is no part of a plan, so a new value never
/// compiles anything. Inside a `LiteralScope` (rules, decompositions, gradients) it is structure and may be folded.
struct Scalar {
  double f = 0;
  std::int64_t i = 0;
  bool integral = false;

  Scalar(double value) : f(value) {}  // NOLINT: implicit by intent, here and below
  Scalar(float value) : f(value) {}   // NOLINT
  template <class T>
  requires std::is_integral_v<T> Scalar(T value)
      : f(static_cast<double>(value)), i(static_cast<std::int64_t>(value)), integral(true) {}  // NOLINT
};

class LazyTensor {
 public:
  /// Empty; only assignment, destruction and `defined` are legal.
  LazyTensor() = default;
  LazyTensor(const LazyTensor& other) noexcept : node_(other.node_) { retain(node_); }
  LazyTensor(LazyTensor&& other) noexcept : node_(std::exchange(other.node_, nullptr)) {}
  LazyTensor& operator=(LazyTensor other) noexcept {
    std::swap(node_, other.node_);
    return *this;
  }
  ~LazyTensor() {
    if (node_) release(node_);
  }

  static LazyTensor from_tensor(const Tensor& tensor);
  /// Copies `values` into a new dense tensor; throws UserError when their number is not the shape's.
  template <class T>
  static LazyTensor from_slice(std::span<const T> values, const Shape& shape);

  bool defined() const { return node_ != nullptr; }
  /// Neither whether there is a tensor nor what it holds: `defined()`, or `eval().item<bool>()`.
  explicit operator bool() const = delete;
  DType dtype() const;
  const Shape& shape() const;
  int rank() const { return shape().rank(); }
  /// Extent of an axis, counted from either end.
  std::int64_t dim(int axis) const { return shape().dim(axis); }
  std::int64_t numel() const { return shape().numel(); }
  Device device() const;
  /// Whether the values exist or are under way; an evaluated tensor is a leaf.
  bool is_evaluated() const;
  /// Name of the operation that made it ("leaf" for data).
  std::string_view op_name() const;

  /// Computes and waits. Throws what the computation threw; see `eval` in runtime.hpp for several roots at once.
  Tensor eval() const;

  // Named methods: the elementwise table, then the rest. Free functions of the same names are in ops.hpp.
#define MC_UNARY(name, ...) LazyTensor name() const;
#define MC_BINARY(name, ...)                      \
  LazyTensor name(const LazyTensor& other) const; \
  LazyTensor name(Scalar other) const;
#define MC_COMPARE(name, ...) MC_BINARY(name)
#define MC_LOGIC(name, ...) LazyTensor name(const LazyTensor& other) const;
#include "metal_candle/elementwise.def"
  LazyTensor add_scalar(Scalar s) const;
  LazyTensor mul_scalar(Scalar s) const;
  LazyTensor logical_not() const;
  LazyTensor clamp(Scalar low, Scalar high) const;
  LazyTensor cast(DType dtype) const;
  LazyTensor matmul(const LazyTensor& other) const;
  LazyTensor powi(int exponent) const;
  LazyTensor pow(std::same_as<int> auto exponent) const { return powi(exponent); }
  LazyTensor sum(const Axes& axes = {}, bool keepdim = false) const;
  LazyTensor mean(const Axes& axes = {}, bool keepdim = false) const;
  LazyTensor max(const Axes& axes = {}, bool keepdim = false) const;
  LazyTensor min(const Axes& axes = {}, bool keepdim = false) const;
  LazyTensor prod(const Axes& axes = {}, bool keepdim = false) const;
  LazyTensor var(const Axes& axes = {}, bool keepdim = false, int correction = 1) const;
  LazyTensor logsumexp(const Axes& axes = {}, bool keepdim = false) const;
  LazyTensor argmax(int axis, bool keepdim = false) const;
  LazyTensor argmax() const;
  LazyTensor argmin(int axis, bool keepdim = false) const;
  LazyTensor argmin() const;
  LazyTensor cumsum(int axis) const;
  Sorted sort(int axis = -1, bool descending = false) const;
  Sorted topk(std::int64_t k) const;
  LazyTensor take(const LazyTensor& indices) const;
  LazyTensor softmax(int axis = -1) const;
  LazyTensor log_softmax(int axis = -1) const;
  LazyTensor rms_norm(double eps = 1e-5) const;
  LazyTensor rms_norm(const LazyTensor& weight, double eps = 1e-5) const;
  LazyTensor layer_norm(double eps = 1e-5) const;
  LazyTensor layer_norm(const LazyTensor& weight, const LazyTensor& bias, double eps = 1e-5) const;
  /// One extent may be -1 and is inferred.
  LazyTensor reshape(std::initializer_list<std::int64_t> dims) const;
  LazyTensor reshape(const Shape& shape) const;
  LazyTensor flatten(int first = 0, int last = -1) const;
  LazyTensor transpose(int a = -2, int b = -1) const;
  LazyTensor permute(const Axes& axes) const;
  LazyTensor slice(int axis, std::int64_t begin, std::int64_t end, std::int64_t step = 1) const;
  /// An extent of -1 stays as it is.
  LazyTensor expand(std::initializer_list<std::int64_t> dims) const;
  LazyTensor expand(const Shape& shape) const;
  LazyTensor squeeze(int axis) const;
  LazyTensor unsqueeze(int axis) const;

  // For the rooms of the library and for writers of new ops.
  Node* node() const { return node_; }
  /// Takes over one reference.
  static LazyTensor adopt(Node* node) {
    LazyTensor t;
    t.node_ = node;
    return t;
  }
  static LazyTensor share(Node* node) {
    retain(node);
    return adopt(node);
  }
  /// Gives the reference away.
  Node* detach() { return std::exchange(node_, nullptr); }

 protected:
  Node* node_ = nullptr;

 private:
  // The count is a node's first member (asserted in graph/node.h), so that copying a handle needs no call.
  static std::atomic<std::uint32_t>& refs(Node* node) noexcept {
    return *reinterpret_cast<std::atomic<std::uint32_t>*>(node);
  }
  static void retain(Node* node) noexcept {
    if (node) refs(node).fetch_add(1, std::memory_order_relaxed);
  }
  static void release(Node* node) noexcept {
    if (refs(node).fetch_sub(1, std::memory_order_acq_rel) == 1) destroy(node);
  }
  static void destroy(Node* node) noexcept;
};

/// For those who know the old crate: there is no graph to add a tensor to, so this is `from_tensor`.
inline LazyTensor add_tensor_to_graph(const Tensor& tensor) { return LazyTensor::from_tensor(tensor); }

/// While it lives, scalars recorded on this thread are literals: part of a plan's structure, folded by rules.
class LiteralScope {
 public:
  LiteralScope();
  ~LiteralScope();
  LiteralScope(const LiteralScope&) = delete;
  LiteralScope& operator=(const LiteralScope&) = delete;

 private:
  bool outer_;
};

}  // namespace metal_candle
