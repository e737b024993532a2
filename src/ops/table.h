// The op table: every op of the library by name, and what the compiler needs to know of the primitive ones.
//
// Primitive ops and their attributes:
//   elementwise  inputs broadcast to the output's shape by numpy's rules and have one dtype (where: the condition is bool)
//     code < Elementwise::kCount      from elementwise.def
//     where(cond, a, b)  logical_not(a)  cast(a){dtype}   full(scalar){dtype, dims...}   iota(){dtype, axis, dims...}
//     random_uniform / random_normal (key){dtype, dims...}: key is i64, 0-d or broadcastable to dims with a last extent
//       of 1; the counter is the element's row-major index
//     identity(a): stop_gradient, checkpoint marks
//   reduce(a){axes ascending...}      reduced axes stay with extent 1; argmax and argmin have one axis and give i32
//   view      reshape{dims} permute{axes} expand{dims} slice{begin.., step.., extent..}   (steps positive)
//   gather    take(table [v, ...], indices): indices.shape + table.shape[1:];  take_along_axis(a, indices){axis}
//   matmul(a [.., m, k], b [.., k, n]): batch extents broadcast; dtypes equal, or i8 and u8 in any pair
#pragma once

#include "metal_candle/elementwise.hpp"
#include "metal_candle/op_def.hpp"

namespace metal_candle::ops {

enum Code : std::uint16_t {
  // clang-format off
  kWhere = 200, kLogicalNot, kCast, kFull, kIota, kRandomUniform, kRandomNormal, kIdentity,  // elementwise
  kSum = 0, kMax, kMin, kProd, kArgMax, kArgMin,                                             // reduce
  kReshape = 0, kPermute, kExpand, kSlice,                                                   // view
  kTake = 0, kTakeAlongAxis,                                                                 // gather
  // clang-format on
};

const OpDef& elementwise_def(Elementwise op);
extern const OpDef where_def, logical_not_def, cast_def, full_def, iota_def, random_uniform_def, random_normal_def,
    identity_def;
extern const OpDef sum_def, max_def, min_def, prod_def, argmax_def, argmin_def;
extern const OpDef reshape_def, permute_def, expand_def, slice_def;
extern const OpDef take_def, take_along_axis_def;
extern const OpDef matmul_def;
// kernel ops (each computed by a kernel of its own)
extern const OpDef concat_def, pad_def, cumsum_def, sort_def, topk_def, scatter_add_def, set_rows_def,
    dynamic_slice_def, dynamic_update_slice_def, rotate_def, attention_def, attention_grad_def,
    linear_cross_entropy_def, linear_cross_entropy_grad_def;
// composite ops (decomposed before anything else happens)
extern const OpDef clamp_def, mean_def, var_def, logsumexp_def, softmax_def, log_softmax_def, rms_norm_def,
    layer_norm_def, rope_def, lora_def, cross_entropy_def;

/// All of them, for tests and docs.
std::span<const OpDef* const> all();

}  // namespace metal_candle::ops
