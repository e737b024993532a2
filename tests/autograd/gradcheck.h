// Gradients against central differences in f64. Both sides are evaluated by the plain reference evaluator, so that what
// is tested is the rules alone; that plans compute the same is the runtime's tests' affair, and `evaluate_test` here.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "metal_candle/op_def.hpp"

namespace metal_candle::test {

/// Ops of the library that have gradients and samples.
std::vector<const OpDef*> differentiable();

/// Outputs from inputs. Only f64 inputs are varied; outputs of other types are ignored.
using Function = std::function<Tensors(const Tensors&)>;

/// A call of an op: those of its outputs that have gradients.
Function call_of(const OpDef& op, const Attrs& attrs);

/// Compares the gradient of a random weighted sum of all outputs, element by element. Where a value is a sum of small
/// and large parts, only what an element changes counts, so that exp(88) beside exp(0) hides nothing.
void check_gradients(const Function& f, const Tensors& inputs, const std::string& what);

/// The gradient of a weighted sum of f's f64 outputs as a function of f's f64 inputs.
Function gradient_of(const Function& f);

}  // namespace metal_candle::test
