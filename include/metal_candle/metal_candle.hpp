// Everything, for programs that do not mind.
#pragma once

#include "metal_candle/autograd.hpp"
#include "metal_candle/device.hpp"
#include "metal_candle/dtype.hpp"
#include "metal_candle/error.hpp"
#include "metal_candle/graph.hpp"
#include "metal_candle/lazy_tensor.hpp"
#include "metal_candle/model.hpp"
#include "metal_candle/nn.hpp"
#include "metal_candle/op_def.hpp"
#include "metal_candle/ops.hpp"
#include "metal_candle/param_tree.hpp"
#include "metal_candle/random.hpp"
#include "metal_candle/runtime.hpp"
#include "metal_candle/scope.hpp"
#include "metal_candle/shape.hpp"
#include "metal_candle/tensor.hpp"
