// Gradients: graph in, graph out. The result is lazy and is planned together with the forward pass.
//
//   auto loss = mc::mean(mc::square(mc::matmul(x, w) - y));
//   auto g    = mc::grad(loss, {w});             // one LazyTensor per parameter
//   mc::eval({loss, g[0]});
//
// A parameter that the loss does not depend on gets zeros. An evaluated tensor is data, as after `stop_gradient`: its
// history is gone. But if such tensors may be the loss's only way to a parameter, `grad` throws UserError instead of
// answering zero. Which data a tensor came from is remembered roughly, a few bits for each: one that came from dozens
// of tensors may have come from any, and wants a `stop_gradient` where a parameter beside it is not used. A number
// (`scalar`) has no gradient: operations keep its value, not the handle.
#pragma once

#include <functional>
#include <utility>
#include <vector>

#include "metal_candle/lazy_tensor.hpp"
#include "metal_candle/param_tree.hpp"

namespace metal_candle {

/// d loss / d parameter for each parameter. `loss` has exactly one element of a float type.
std::vector<LazyTensor> grad(const LazyTensor& loss, const std::vector<LazyTensor>& parameters);
ParamTree grad(const LazyTensor& loss, const ParamTree& parameters);

/// Calls `f` on the parameters; returns its loss and the gradients.
std::pair<LazyTensor, ParamTree> value_and_grad(const std::function<LazyTensor(const ParamTree&)>& f,
                                                const ParamTree& parameters);

/// Vector-Jacobian product: Σ_k cotangents[k]·d outputs[k]/d inputs[i], for each input.
std::vector<LazyTensor> vjp(const std::vector<LazyTensor>& outputs, const std::vector<LazyTensor>& cotangents,
                            const std::vector<LazyTensor>& inputs);

/// The same values; gradients stop here.
LazyTensor stop_gradient(const LazyTensor& x);

/// f(inputs), whose intermediate values are not kept for the backward pass but computed again there.
LazyTensor checkpoint(const std::function<LazyTensor(const std::vector<LazyTensor>&)>& f,
                      const std::vector<LazyTensor>& inputs);

}  // namespace metal_candle
