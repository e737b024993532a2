// What an operation is. The library's own ops and ones added from outside are described the same way.
//
//   const mc::OpDef kScaleAndShift{
//       .name = "scale_and_shift", .kind = mc::OpKind::composite,
//       .infer = [](const mc::OpCall& c, mc::InferResult& r) { r.add(c.inputs[0].dtype(), c.inputs[0].shape()); },
//       .decompose = [](const mc::OpCall& c) -> mc::Tensors { return {c.inputs[0] * 2 + 1}; },
//       .vjp = mc::DecomposedGrad{},
//       .samples = [](mc::SampleSink& s) { s.add({s.normal({3, 4})}); }};
//   mc::LazyTensor y = mc::record(kScaleAndShift, {x});
//
// An OpDef must outlive every tensor recorded with it; a namespace-scope constant does.
#pragma once

#include <array>
#include <concepts>
#include <cstdint>
#include <initializer_list>
#include <span>
#include <string_view>
#include <vector>

#include "metal_candle/lazy_tensor.hpp"

namespace metal_candle {

struct OpDef;
using Tensors = std::vector<LazyTensor>;

/// Structural attributes: a short list of integers, part of the plan key. Floating-point attributes go in by bits.
class Attrs {
 public:
  static constexpr int kInline = 6;
  Attrs() = default;
  Attrs(std::initializer_list<std::int64_t> values) {
    for (auto v : values) push(v);
  }
  void push(std::integral auto value) {
    if (size_ < kInline) inline_[size_++] = static_cast<std::int64_t>(value);
    else push_slow(static_cast<std::int64_t>(value));
  }
  void push(double value) { push(std::bit_cast<std::int64_t>(value)); }
  std::int64_t operator[](int i) const { return data()[i]; }
  double real(int i) const { return std::bit_cast<double>(data()[i]); }
  int size() const { return size_; }
  const std::int64_t* data() const { return size_ <= kInline ? inline_ : more_.data(); }
  std::span<const std::int64_t> values() const { return {data(), static_cast<std::size_t>(size_)}; }
  std::vector<std::int64_t> shape_from(int begin, int count) const { return {data() + begin, data() + begin + count}; }

 private:
  void push_slow(std::int64_t value);
  std::int64_t inline_[kInline] = {};
  int size_ = 0;
  std::vector<std::int64_t> more_;
};

/// How the compiler may treat an op.
enum class OpKind : std::uint8_t {
  leaf,         // data
  scalar,       // a 0-d host value
  elementwise,  // one value in, one out; from the table, plus where, cast, full, iota and the random generators
  reduce,       // over axes, which stay with extent 1
  view,         // a new layout of the same buffer
  gather,       // reads its first input at places that its second one names
  matmul,
  kernel,     // computed by a kernel of its own
  composite,  // always replaced by its decomposition
  output,     // output k of a kernel op with several
};

/// A call of an op: what infer, decompose and samples see.
struct OpCall {
  const OpDef& op;
  std::span<const LazyTensor> inputs;
  const Attrs& attrs;
};

struct TensorType {
  DType dtype = DType::f32;
  Shape shape;
};

/// Types of the outputs, at most four.
struct InferResult {
  std::array<TensorType, 4> types;
  int count = 0;
  void add(DType dtype, const Shape& shape) {  // more than there is room for are counted, and refused by `record`
    if (count < static_cast<int>(types.size())) types[static_cast<std::size_t>(count)] = {dtype, shape};
    ++count;
  }
};
using Infer = void (*)(const OpCall&, InferResult&);
using Decompose = Tensors (*)(const OpCall&);

/// A call seen from its gradient. `grads` holds one gradient per output (an undefined handle means zero);
/// `needs[i]` says whether input i's gradient is wanted. Return one tensor per input, undefined for zero.
struct VjpCall {
  const OpDef& op;
  std::span<const LazyTensor> inputs;
  std::span<const LazyTensor> outputs;
  std::span<const LazyTensor> grads;
  const Attrs& attrs;
  std::span<const bool> needs;
};
/// The gradient column says one of three things; it has no default, so it cannot be forgotten.
struct NoGrad {};          // flat, or not differentiable: stops gradients
struct DecomposedGrad {};  // differentiate the decomposition
class Vjp {
 public:
  using Fn = Tensors (*)(const VjpCall&);
  constexpr Vjp(NoGrad) : kind_(Kind::none) {}                // NOLINT
  constexpr Vjp(DecomposedGrad) : kind_(Kind::decomposed) {}  // NOLINT
  constexpr Vjp(Fn fn) : kind_(Kind::function), fn_(fn) {}    // NOLINT
  template <class F>
  requires std::is_convertible_v<F, Fn>
  constexpr Vjp(F f) : Vjp(static_cast<Fn>(f)) {}  // NOLINT
  constexpr bool none() const { return kind_ == Kind::none; }
  constexpr bool decomposed() const { return kind_ == Kind::decomposed; }
  Tensors operator()(const VjpCall& call) const { return fn_(call); }

 private:
  enum class Kind : std::uint8_t { none, decomposed, function } kind_;
  Fn fn_ = nullptr;
};

/// Collects calls on which an op is tested: against its decomposition or an oracle, in every mode and float type, and
/// its gradient against finite differences.
class SampleSink {
 public:
  virtual ~SampleSink() = default;
  virtual LazyTensor normal(const Shape& shape, double scale = 1) = 0;
  virtual LazyTensor uniform(const Shape& shape, double low, double high) = 0;
  virtual LazyTensor integers(const Shape& shape, std::int64_t low, std::int64_t high, DType dtype = DType::i32) = 0;
  virtual void add(Tensors inputs, Attrs attrs = {}) = 0;
};
using Samples = void (*)(SampleSink&);

// ---- kernels -------------------------------------------------------------------------------------------------------

/// A dense or strided array as a kernel sees it.
struct KernelTensor {
  void* data = nullptr;
  DType dtype = DType::f32;
  Shape shape;
  Shape strides;  // in elements
  template <class T>
  T* as() const {
    return static_cast<T*>(data);
  }
};
/// What a kernel of `OpKind::kernel` gets. Inputs are dense unless the kernel says that it takes strides; outputs are
/// dense; an output that nobody reads has a null pointer. An input that was recorded as a scalar is a 0-d f64 or i64.
struct KernelCall {
  std::span<const KernelTensor> inputs;
  std::span<const KernelTensor> outputs;
  const Attrs& attrs;
  void* scratch;                   // this thread's, `scratch` bytes, 64-byte aligned
  void* shared;                    // one for the call, `shared` bytes, lives through all passes
  void (*fail)(const char* what);  // reports what only the data shows (an index out of range); copies, returns
};
/// A CPU kernel: `passes` rounds, each of `tasks` independent tasks; a round starts when the one before has ended.
/// `tasks`, `scratch` and `shared` see shapes only (pointers are null), so that results never depend on threads.
struct CpuKernel {
  void (*run)(const KernelCall&, int pass, std::int64_t task);  // may record, not evaluate nor wait: a UserError
  std::int64_t (*tasks)(const KernelCall&, int pass);
  int passes = 1;
  std::size_t (*scratch)(const KernelCall&) = nullptr;
  std::size_t (*shared)(const KernelCall&) = nullptr;
  bool takes_strides = false;
  /// Output 0 may take the place of this input when nobody else needs it; -1 for none.
  int in_place_input = -1;
  /// About how many simple operations all tasks take together, from shapes only; so little work is not worth a second
  /// thread. Without it, as many as go with reading and writing the operands.
  double (*work)(const KernelCall&) = nullptr;
};

struct OpDef {
  std::string_view name;
  OpKind kind;
  Infer infer;
  Decompose decompose;  // nullptr: the op is primitive
  Vjp vjp;
  Samples samples;  // nullptr only where a table test covers the op
  const CpuKernel* cpu = nullptr;
  std::uint16_t code = 0;  // the library's own: which elementwise op, which reduction
};

/// Records a call: infers type and shape, throws on what does not fit.
LazyTensor record(const OpDef& op, std::span<const LazyTensor> inputs, const Attrs& attrs = {});
inline LazyTensor record(const OpDef& op, std::initializer_list<LazyTensor> inputs, const Attrs& attrs = {}) {
  return record(op, std::span(inputs.begin(), inputs.size()), attrs);
}
/// The same for an op with several outputs.
Tensors record_all(const OpDef& op, std::span<const LazyTensor> inputs, const Attrs& attrs = {});
inline Tensors record_all(const OpDef& op, std::initializer_list<LazyTensor> inputs, const Attrs& attrs = {}) {
  return record_all(op, std::span(inputs.begin(), inputs.size()), attrs);
}
/// A 0-d tensor whose value is a slot (a literal inside a LiteralScope). f64 or i64; weak in promotion when used by
/// the operators, an ordinary input elsewhere.
LazyTensor scalar(Scalar value);

/// Throws UserError naming the op, its scope, and the inputs' shapes and dtypes.
[[noreturn]] void fail_shape(const OpCall& call, const std::string& why);
[[noreturn]] void fail_dtype(const OpCall& call, const std::string& why);
[[noreturn]] void fail_argument(const OpCall& call, const std::string& why);

}  // namespace metal_candle
