// Does an op do what it says? For ops that are added from outside the library, in their own tests:
//
//   EXPECT_EQ(mc::check_op(kSwiglu), "");
//   EXPECT_EQ(mc::check_op(kLeakySum, {.dtype = mc::DType::f32}), "");  // its kernel knows f32 only
#pragma once

#include <string>

#include "metal_candle/op_def.hpp"

namespace metal_candle {

struct OpCheck {
  /// What the samples' floats are: f64, or f32 for an op that knows no f64. Differences are sharper in f64.
  DType dtype = DType::f64;
};

/// Runs the op's samples and says what is wrong, a line each; empty: nothing is.
/// - Planned, op by op (`EagerMode`) and with all compiler passes off (`PassesOff`) it gives the same results, to rounding,
///   of the types and shapes that `infer` named; and where it has a kernel and a decomposition, so do both of them.
/// - Unless it says `NoGrad`, its gradient is what central differences of its results show, at every float input. (A
///   sample that lies on a kink shows no slope there; an input that gets no gradient by intent is made by `scalar`.)
/// An op without samples is wrong, and so is one that throws. Samples are the same at every call. Any thread may call.
std::string check_op(const OpDef& op, const OpCheck& options = {});

}  // namespace metal_candle
