// Operands as the elementwise ops get them: checked, promoted, cast where types differ; numbers stay weak.
//
// An op on two tensors of one shape and type takes the short way: one comparison, one node, no memory but the node's.
#pragma once

#include <array>
#include <span>

#include "graph/node.h"
#include "graph/record.h"
#include "metal_candle/op_def.hpp"

namespace metal_candle::ops {

/// What an elementwise op computes in and gives.
enum class Domain : std::uint8_t {
  numeric,  // any number; the result has its type
  floats,   // floats; the rest becomes f32
  compare,  // anything; the result is bool
  logic,    // bools; the rest is compared with zero
};

LazyTensor unary(const OpDef& op, Domain domain, const LazyTensor& x);
LazyTensor binary(const OpDef& op, Domain domain, const LazyTensor& x, const LazyTensor& z);
LazyTensor binary(const OpDef& op, Domain domain, const LazyTensor& x, Scalar z);
LazyTensor binary(const OpDef& op, Domain domain, Scalar x, const LazyTensor& z);

/// The type rules again, for calls that come through `record`: nothing is promoted there.
void infer_unary(const OpCall& call, InferResult& result, Domain domain);
void infer_binary(const OpCall& call, InferResult& result, Domain domain);

/// The type in which a tensor of `dtype` meets a number.
DType weak_type(DType dtype, Scalar s);
/// `s` as a number of that type; throws where an integer does not fit.
Scalar scalar_as(const OpDef& op, Scalar s, DType dtype);
/// `s` as a 0-d tensor of a fixed type.
LazyTensor typed_scalar(const OpDef& op, Scalar s, DType dtype);

/// Throws UserError when a handle is empty or the number of inputs is another.
void require_inputs(const OpCall& call, std::size_t count);
void require_defined(const OpDef& op, std::span<const LazyTensor> inputs);
/// Broadcasts `with` into `shape`; false where they do not fit.
bool broadcast_into(Shape& shape, const Shape& with);

/// Handles lent to a call that takes a span: reference counts are not touched.
template <std::size_t N>
class Borrowed {
 public:
  template <class... T>
  explicit Borrowed(const T&... t) : handles_{LazyTensor::adopt(t.node())...} {}
  ~Borrowed() {
    for (LazyTensor& h : handles_) h.detach();
  }
  Borrowed(const Borrowed&) = delete;
  Borrowed& operator=(const Borrowed&) = delete;
  operator std::span<const LazyTensor>() const { return handles_; }  // NOLINT: it stands for one

 private:
  std::array<LazyTensor, N> handles_;
};
template <class... T>
Borrowed(const T&...) -> Borrowed<sizeof...(T)>;

}  // namespace metal_candle::ops
