// CompiledFunction: a function of tensors that is recorded once.
//
//   mc::CompiledFunction step([&](const auto& in) { return std::vector{in[0] + mc::matmul(in[1], w)}; }, {.donate = {0}});
//   std::vector<mc::Tensor> out = step({state, x});   // records and plans
//   out = step({out[0], y});                          // binds y to the plan and runs it
//
// Evaluation finds plans by itself, so this is never needed. It saves what evaluation does before it runs a known plan:
// recording, numbering and comparing every node, which small steps of large models feel (a decoded token of 1,400 nodes).
//
// The function is called once for each kind of inputs (dtypes, shapes, strides, which are frozen); the last few kinds are
// kept. What it records with must be its inputs or the same at every call: tensors that it captures are kept and read
// again, and so are the values of numbers. What varies has to be an input. While it is called, its inputs have no values:
// to evaluate what depends on them throws. It may be called from any thread, several at a time; copies are the same
// function. Under EagerMode it is called each time, with the inputs themselves.
#pragma once

#include <functional>
#include <memory>
#include <vector>

#include "metal_candle/tensor.hpp"

namespace metal_candle {

struct CompileOptions {
  /// Inputs, by number, whose buffers results may take over, as with EvalOptions::donate.
  std::vector<int> donate = {};
};

class CompiledFunction {
 public:
  using Function = std::function<std::vector<LazyTensor>(const std::vector<LazyTensor>& inputs)>;

  /// Empty; only assignment and destruction are legal.
  CompiledFunction() = default;
  explicit CompiledFunction(Function function, CompileOptions options = {});
  explicit operator bool() const { return state_ != nullptr; }

  /// The function's results, computed together. Throws what the function or the computation threw.
  std::vector<Tensor> operator()(const std::vector<Tensor>& inputs) const;
  /// The same into a list whose memory is used again; `inputs` may not lie in it.
  void run(const std::vector<Tensor>& inputs, std::vector<Tensor>& results) const;

 private:
  struct State;
  std::shared_ptr<State> state_;
};

}  // namespace metal_candle
