// Making leaf nodes over storage, for the rooms that produce tensors.
#pragma once

#include "graph/node.h"
#include "metal_candle/tensor.hpp"

namespace metal_candle {

/// The op of data; nodes that were computed keep the op that computed them.
extern const OpDef leaf_def;
/// A leaf over `storage` (takes over one reference), dense when layout is null.
Tensor make_leaf(Storage* storage, DType dtype, const Shape& shape, const Layout* layout = nullptr);
/// An uninitialised dense tensor that the caller fills before anybody else sees it.
Tensor make_dense(DType dtype, const Shape& shape);

}  // namespace metal_candle
