// The public functions: they check what they are given and run the backward pass.
#include "metal_candle/autograd.hpp"

#include <algorithm>

#include "autograd/backward.h"
#include "graph/node.h"
#include "metal_candle/error.hpp"
#include "metal_candle/ops.hpp"
#include "metal_candle/scope.hpp"

namespace metal_candle {
namespace {

[[noreturn]] void fail(ErrorKind kind, const std::string& function, const std::string& why) {
  throw UserError(kind, function + ": " + why, function, Scope::current() ? *Scope::current() : std::string());
}

void require_float(const LazyTensor& t, const std::string& function, const std::string& what) {
  if (!t.defined()) fail(ErrorKind::argument, function, what + " is an empty handle");
  if (!is_float(t.dtype()))
    fail(ErrorKind::dtype, function, what + " is " + std::string(name(t.dtype())) + "; only floats have gradients");
}

std::string counted(const char* what, std::size_t i) { return std::string(what) + " " + std::to_string(i); }

void require_parameter(const LazyTensor& t, const std::string& function, const std::string& what) {
  require_float(t, function, what);
  // Operations keep the value of a number, and know nothing of its handle.
  if (t.node()->op->kind == OpKind::scalar)
    fail(ErrorKind::argument, function, what + " is a number, which has no gradient; make it a Tensor");
}

bool may_come_from(const std::vector<Origins>& lost, const LazyTensor& t) {
  return std::any_of(lost.begin(), lost.end(), [&](const Origins& o) { return o.may_include(t.node()->origins); });
}

// Gradients of the wanted tensors, zeros where there are none. called(i) is what errors call the i-th.
template <class Called>
Tensors gradients(const std::string& function, std::span<const LazyTensor> outputs,
                  std::span<const LazyTensor> cotangents, std::span<const LazyTensor> wanted, const Called& called) {
  const autograd::BackwardResult result = autograd::backward({outputs, cotangents, wanted});
  Tensors grads = result.grads;
  for (std::size_t i = 0; i < grads.size(); ++i) {
    if (grads[i].defined()) continue;
    for (std::size_t j = 0; j < i && !grads[i].defined(); ++j)
      if (wanted[j].node() == wanted[i].node()) grads[i] = grads[j];
    if (grads[i].defined()) continue;
    if (!result.reached[i] && may_come_from(result.lost, wanted[i]))
      fail(ErrorKind::argument, function,
           "there is no way to " + called(i) +
               ", but a tensor on the way was evaluated before grad and has lost its history; take grad first, or use "
               "stop_gradient of that tensor if it is data");
    grads[i] = zero_like(wanted[i]);
  }
  return grads;
}

template <class Called>
Tensors gradients_of_loss(const LazyTensor& loss, std::span<const LazyTensor> parameters, const Called& called) {
  require_float(loss, "grad", "the loss");
  if (loss.numel() != 1)
    fail(ErrorKind::shape, "grad", "the loss has shape " + loss.shape().str() + " and must be one number");
  for (std::size_t i = 0; i < parameters.size(); ++i) require_parameter(parameters[i], "grad", called(i));
  const Scope scope("grad");
  const LazyTensor one = ones(loss.shape(), loss.dtype());
  return gradients("grad", {&loss, 1}, {&one, 1}, parameters, called);
}

}  // namespace

std::vector<LazyTensor> grad(const LazyTensor& loss, const std::vector<LazyTensor>& parameters) {
  return gradients_of_loss(loss, parameters, [](std::size_t i) { return counted("parameter", i); });
}

ParamTree grad(const LazyTensor& loss, const ParamTree& parameters) {
  const auto path = [&](std::size_t i) {
    return "parameter \"" + parameters.begin()[static_cast<std::ptrdiff_t>(i)].first + '"';
  };
  return parameters.with(gradients_of_loss(loss, parameters.tensors(), path));
}

std::pair<LazyTensor, ParamTree> value_and_grad(const std::function<LazyTensor(const ParamTree&)>& f,
                                                const ParamTree& parameters) {
  if (!f) fail(ErrorKind::argument, "value_and_grad", "the function is empty");
  LazyTensor loss = f(parameters);
  ParamTree grads = grad(loss, parameters);
  return {std::move(loss), std::move(grads)};
}

std::vector<LazyTensor> vjp(const std::vector<LazyTensor>& outputs, const std::vector<LazyTensor>& cotangents,
                            const std::vector<LazyTensor>& inputs) {
  if (outputs.size() != cotangents.size())
    fail(ErrorKind::argument, "vjp",
         std::to_string(outputs.size()) + " outputs and " + std::to_string(cotangents.size()) + " cotangents");
  const auto input = [](std::size_t i) { return counted("input", i); };
  for (std::size_t i = 0; i < inputs.size(); ++i) require_parameter(inputs[i], "vjp", input(i));
  for (std::size_t i = 0; i < outputs.size(); ++i) {
    require_float(outputs[i], "vjp", counted("output", i));
    require_float(cotangents[i], "vjp", counted("cotangent", i));
    if (outputs[i].shape() != cotangents[i].shape())
      fail(ErrorKind::shape, "vjp",
           counted("output", i) + " has shape " + outputs[i].shape().str() + " and its cotangent " +
               cotangents[i].shape().str());
  }
  const Scope scope("grad");
  return gradients("vjp", outputs, cotangents, inputs, input);
}

}  // namespace metal_candle
