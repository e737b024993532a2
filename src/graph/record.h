// Recording with no detours, for the ops that are recorded most.
#pragma once

#include <array>
#include <concepts>

#include "metal_candle/op_def.hpp"

namespace metal_candle {

/// An op whose type is known to the caller: no inference. `inputs` are kept as they are.
LazyTensor record_typed(const OpDef& op, DType dtype, const Shape& shape, std::span<const LazyTensor> inputs,
                        const Attrs* attrs = nullptr);
/// A binary elementwise op with a host number on one side; `a` has the op's computing type already.
LazyTensor record_with_scalar(const OpDef& op, DType dtype, const LazyTensor& a, Scalar s, bool scalar_first);
/// What the op's decomposition gives: what its infer promises, or a UserError that names the op and the scope.
Tensors decomposed(const OpCall& call, const std::string* scope);
/// `infer` of ops whose makers say type and shape.
inline void no_infer(const OpCall&, InferResult&) {}
/// The number behind a tensor made by `scalar`, if it is one.
bool as_scalar(const LazyTensor& t, Scalar& out, bool& literal);
/// Whether scalars are literals on this thread.
bool literals_on();

/// While one lives, errors of recording on this thread name `function` and list `inputs`, not the ops that it is made of
/// and what they get. Of several, the outermost counts: it is what the user called. Name and inputs must outlive it.
class CalledAs {
 public:
  template <std::same_as<LazyTensor>... T>
  explicit CalledAs(std::string_view function, const T&... inputs) : function_(function), few_{&inputs...} {
    enter();
  }
  CalledAs(std::string_view function, std::span<const LazyTensor> inputs) : function_(function), inputs_(inputs) {
    enter();
  }
  ~CalledAs();
  CalledAs(const CalledAs&) = delete;
  CalledAs& operator=(const CalledAs&) = delete;

  std::string_view function() const { return function_; }
  std::vector<const LazyTensor*> inputs() const;

 private:
  void enter();
  std::string_view function_;
  std::array<const LazyTensor*, 3> few_{};
  std::span<const LazyTensor> inputs_;
};

/// Called with each node as it is recorded, where set: how eager mode sees operations. Per thread.
using RecordHook = void (*)(const LazyTensor&);
RecordHook exchange_record_hook(RecordHook hook);

}  // namespace metal_candle
