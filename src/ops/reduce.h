// What reductions share with the ops that are made of them.
#pragma once

#include <span>

#include "metal_candle/op_def.hpp"
#include "metal_candle/ops.hpp"

namespace metal_candle::ops {

enum class Extents { all, larger_than_one };

/// The named axes (none: all of them) from the front, ascending; checked.
Attrs reduced_axes(const OpDef& op, const LazyTensor& x, const Axes& axes, Extents extents);
/// `shape` with extent 1 on the axes.
Shape reduced_shape(Shape shape, std::span<const std::int64_t> axes);
/// How many elements are reduced to one.
std::int64_t reduced_count(const Shape& shape, std::span<const std::int64_t> axes);
/// Drops the named axes of a reduction's result, which have extent 1, unless they are to be kept.
LazyTensor drop_axes(const LazyTensor& reduced, const Axes& axes, bool keepdim);
/// What sums and products are made of: bools and 8-bit integers as i32.
LazyTensor counted(const LazyTensor& x);
/// The maximum, its axes kept; of nothing at all the lowest number there is, where `max` complains.
LazyTensor max_or_lowest(const LazyTensor& x, const Axes& axes);
/// For infer: one input, and attributes from `first_attr` on that are axes of it in ascending order.
void check_axes(const OpCall& call, std::size_t first_attr = 0);

}  // namespace metal_candle::ops
