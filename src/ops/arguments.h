// What the structured ops ask of their arguments: the type to compute in, and axes checked by name.
#pragma once

#include <cstdint>
#include <string>

#include "metal_candle/op_def.hpp"
#include "metal_candle/ops.hpp"
#include "ops/operands.h"

namespace metal_candle::ops {

/// 16-bit floats and integers compute in f32; f64 stays.
inline DType compute_type(DType dtype) { return dtype == DType::f64 ? DType::f64 : DType::f32; }
inline LazyTensor to_type(const LazyTensor& x, DType dtype) { return x.dtype() == dtype ? x : cast(x, dtype); }
inline LazyTensor widened(const LazyTensor& x) { return to_type(x, compute_type(x.dtype())); }

/// `axis` counted from the front; an error names the op.
inline int checked_axis(const OpDef& op, const LazyTensor& x, int axis, int rank) {
  const int from_front = axis < 0 ? axis + rank : axis;
  if (from_front < 0 || from_front >= rank)
    fail_argument({op, {&x, 1}, {}},
                  "there is no axis " + std::to_string(axis) + " in a rank of " + std::to_string(rank));
  return from_front;
}
inline int checked_axis(const OpDef& op, const LazyTensor& x, int axis) {
  require_defined(op, {&x, 1});
  return checked_axis(op, x, axis, x.rank());
}

/// Places along an axis are i32.
inline void require_countable(const OpCall& c, std::int64_t extent) {
  if (extent > INT32_MAX) fail_shape(c, "the axis is too long for i32 indices");
}

/// What is to be written into `base`, in its type. A float does not become an integer on the way, nor either a bool.
inline LazyTensor as_written(const OpDef& op, const LazyTensor& base, const LazyTensor& values) {
  const LazyTensor both[] = {base, values};
  require_defined(op, both);
  const DType to = base.dtype(), from = values.dtype();
  Scalar number = 0;
  bool literal = false;
  if (as_scalar(values, number, literal)) scalar_as(op, number, to);
  else if ((is_float(from) && !is_float(to)) || (to == DType::boolean && from != to))
    fail_dtype({op, both, {}}, std::string(name(from)) + " is not written into " + std::string(name(to)) + "; cast it");
  return to_type(values, to);
}

/// g, the gradient of `taken`, which a gather gave. It is read, so that an index out of range is an error also where
/// nobody wants what was taken; nothing is less than itself.
inline LazyTensor with_checked(const LazyTensor& g, const LazyTensor& taken) {
  return where(less(taken, taken), zero_like(g), g);
}

/// [.., d] as [rows, d].
inline LazyTensor as_rows(const LazyTensor& x) {
  const std::int64_t d = x.dim(-1);
  std::int64_t rows = 1;
  for (int i = 0; i + 1 < x.rank(); ++i) rows *= x.shape()[i];
  return x.rank() == 2 ? x : reshape(x, {rows, d});
}

}  // namespace metal_candle::ops
