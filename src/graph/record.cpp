#include "graph/record.h"

#include <fmt/format.h>

#include "base/free_list.h"
#include "graph/limits.h"
#include "graph/node.h"
#include "metal_candle/error.hpp"
#include "metal_candle/scope.hpp"

namespace metal_candle {
namespace {

thread_local RecordHook record_hook = nullptr;
thread_local bool literal_scope = false;
thread_local const CalledAs* called_as = nullptr;

const OpDef kScalarDef{.name = "scalar",
                       .kind = OpKind::scalar,
                       .infer = no_infer,
                       .decompose = nullptr,
                       .vjp = NoGrad{},
                       .samples = nullptr};
const OpDef kOutputDef{.name = "output",
                       .kind = OpKind::output,
                       .infer = no_infer,
                       .decompose = nullptr,
                       .vjp = NoGrad{},
                       .samples = nullptr};

void set_scalar(Node* n, Scalar s) {
  n->scalar_flags =
      static_cast<std::uint8_t>((s.integral ? Node::kScalarInt : 0) | (literal_scope ? Node::kScalarLiteral : 0));
  if (s.integral) n->scalar_i = s.i;
  else n->scalar_f = s.f;
}

Node* keep(const LazyTensor& t) {
  LazyTensor copy = t;
  return copy.detach();
}

LazyTensor finish(Node* n) {
  n->scope = Scope::current();
  LazyTensor t = LazyTensor::adopt(n);
  if (record_hook) [[unlikely]]
    record_hook(t);
  return t;
}

// What is made of nothing is data, but in a gradient, where nobody sees it.
void set_inputs(Node* n, std::span<const LazyTensor> inputs) {
  for (std::size_t i = 0; i < inputs.size(); ++i) {
    n->origins.add(inputs[i].node()->origins);
    n->input(static_cast<int>(i)).store(keep(inputs[i]), std::memory_order_relaxed);
  }
  if (n->origins.none() && !literal_scope) n->origins = Origins::fresh();
}

void check_inputs(const OpDef& op, std::span<const LazyTensor> inputs) {
  for (const LazyTensor& t : inputs)
    if (!t.defined()) fail_argument({op, inputs, {}}, "an input is an empty handle");
  if (inputs.size() > 255) fail_argument({op, {}, {}}, "more than 255 inputs");
}

std::string scope_name() { return Scope::current() ? *Scope::current() : std::string(); }

std::vector<const LazyTensor*> pointers(std::span<const LazyTensor> tensors) {
  std::vector<const LazyTensor*> out;
  for (const LazyTensor& t : tensors) out.push_back(&t);
  return out;
}

/// As the caller knows it: a number made a tensor is still a number.
std::string written(const LazyTensor& t) {
  if (!t.defined()) return "none";
  Scalar number(0);
  bool literal = false;
  if (as_scalar(t, number, literal)) return shown(number);
  return fmt::format("{}{}", name(t.dtype()), t.shape().str());
}

[[noreturn]] void fail(ErrorKind kind, const OpCall& call, const std::string& why) {
  const std::string function(called_as ? called_as->function() : call.op.name);
  std::string text;
  if (const std::string* scope = Scope::current()) text += *scope + ": ";
  text += function + ": " + why;
  const char* before = " (inputs: ";
  for (const LazyTensor* t : called_as ? called_as->inputs() : pointers(call.inputs)) {
    text += before + written(*t);
    before = ", ";
  }
  if (*before == ',') text += ")";
  throw UserError(kind, text, function, scope_name());
}

[[noreturn]] void fail_size(const OpDef& op, std::span<const LazyTensor> inputs, DType dtype, const Shape& shape) {
  fail(size_of(dtype) == 0 ? ErrorKind::dtype : ErrorKind::shape, {op, inputs, {}}, uncountable(dtype, shape));
}

}  // namespace

void fail_shape(const OpCall& call, const std::string& why) { fail(ErrorKind::shape, call, why); }
void fail_dtype(const OpCall& call, const std::string& why) { fail(ErrorKind::dtype, call, why); }
void fail_argument(const OpCall& call, const std::string& why) { fail(ErrorKind::argument, call, why); }

void CalledAs::enter() {
  if (!called_as) called_as = this;
}
CalledAs::~CalledAs() {
  if (called_as == this) called_as = nullptr;
}
std::vector<const LazyTensor*> CalledAs::inputs() const {
  std::vector<const LazyTensor*> all = pointers(inputs_);
  for (const LazyTensor* t : few_)
    if (t) all.push_back(t);
  return all;
}

LiteralScope::LiteralScope() : outer_(literal_scope) { literal_scope = true; }
LiteralScope::~LiteralScope() { literal_scope = outer_; }
bool literals_on() { return literal_scope; }

RecordHook exchange_record_hook(RecordHook hook) { return std::exchange(record_hook, hook); }

LazyTensor record_typed(const OpDef& op, DType dtype, const Shape& shape, std::span<const LazyTensor> inputs,
                        const Attrs* attrs) {
  if (!countable(dtype, shape)) [[unlikely]]
    fail_size(op, inputs, dtype, shape);
  Node* n = Node::make(&op, dtype, static_cast<int>(inputs.size()));
  n->shape = shape;
  if (attrs && attrs->size() > 0) n->attrs = new (base::FreeList<Attrs>::get()) Attrs(*attrs);
  set_inputs(n, inputs);
  return finish(n);
}

LazyTensor record_with_scalar(const OpDef& op, DType dtype, const LazyTensor& a, Scalar s, bool scalar_first) {
  Node* n = Node::make(&op, dtype, 2);
  n->shape = a.node()->shape;
  n->origins = a.node()->origins;
  n->inputs[scalar_first ? 1 : 0].store(keep(a), std::memory_order_relaxed);
  set_scalar(n, s);
  n->scalar_flags |= Node::kScalarOperand;
  return finish(n);
}

namespace {

/// What an op lacks that somebody would call later, where nobody knows who recorded it; null: it is whole.
const char* missing(const OpDef& op) {
  if (!op.infer) return "its OpDef has no infer";
  if (!op.decompose && (op.kind == OpKind::composite || op.vjp.decomposed())) return "its OpDef has no decompose";
  if (op.cpu && !(op.cpu->run && op.cpu->tasks)) return "its kernel has no run or no tasks";
  return nullptr;
}

InferResult infer_of(const OpDef& op, std::span<const LazyTensor> inputs, const Attrs& attrs) {
  if (const char* const what = missing(op)) [[unlikely]]
    throw UserError(ErrorKind::argument, fmt::format("{}: {}", op.name, what), std::string(op.name));
  InferResult result;
  op.infer(OpCall{op, inputs, attrs}, result);
  const int most = static_cast<int>(result.types.size());
  if (result.count < 1 || result.count > most)
    throw UserError(ErrorKind::argument,
                    fmt::format("{}: its infer gives {} outputs, an op has 1 to {}", op.name, result.count, most),
                    std::string(op.name));
  return result;
}

}  // namespace

Tensors decomposed(const OpCall& call, const std::string* scope) {
  const auto type = [](DType dtype, const Shape& shape) { return std::string(name(dtype)) + shape.str(); };
  const auto fail = [&](const std::string& what) {
    const std::string op(call.op.name), where = scope ? *scope : std::string();
    throw UserError(ErrorKind::shape, (where.empty() ? where : where + ": ") + op + ": its decomposition gives " + what,
                    op, where);
  };
  Tensors values = call.op.decompose(call);
  const InferResult promised = infer_of(call.op, call.inputs, call.attrs);
  if (values.empty()) fail("nothing");
  if (static_cast<int>(values.size()) != promised.count)
    fail(fmt::format("{} results where its infer says {}", values.size(), promised.count));
  for (std::size_t k = 0; k < values.size(); ++k) {
    if (!values[k].defined()) fail("an empty handle");
    const TensorType& wanted = promised.types[k];
    if (values[k].dtype() != wanted.dtype || values[k].shape() != wanted.shape)
      fail(type(values[k].dtype(), values[k].shape()) + " where its infer says " + type(wanted.dtype, wanted.shape));
  }
  return values;
}

LazyTensor record(const OpDef& op, std::span<const LazyTensor> inputs, const Attrs& attrs) {
  check_inputs(op, inputs);
  const InferResult result = infer_of(op, inputs, attrs);
  if (result.count != 1)
    throw UserError(ErrorKind::argument,
                    fmt::format("{} has {} outputs; record_all is for those", op.name, result.count),
                    std::string(op.name));
  return record_typed(op, result.types[0].dtype, result.types[0].shape, inputs, &attrs);
}

Tensors record_all(const OpDef& op, std::span<const LazyTensor> inputs, const Attrs& attrs) {
  check_inputs(op, inputs);
  const InferResult result = infer_of(op, inputs, attrs);
  if (result.count == 1) return {record_typed(op, result.types[0].dtype, result.types[0].shape, inputs, &attrs)};
  // The node with several outputs is never a tensor itself; every output is a node that names it. So output 1 can still
  // be asked for after output 0 was evaluated.
  for (int k = 0; k < result.count; ++k) {
    const TensorType& type = result.types[static_cast<std::size_t>(k)];
    if (!countable(type.dtype, type.shape)) fail_size(op, inputs, type.dtype, type.shape);
  }
  Node* main = Node::make(&op, result.types[0].dtype, static_cast<int>(inputs.size()));
  main->shape = result.types[0].shape;
  if (attrs.size() > 0) main->attrs = new (base::FreeList<Attrs>::get()) Attrs(attrs);
  set_inputs(main, inputs);
  main->scope = Scope::current();
  const LazyTensor holder = LazyTensor::adopt(main);
  Tensors outputs;
  for (int k = 0; k < result.count; ++k) {
    const TensorType& type = result.types[static_cast<std::size_t>(k)];
    const Attrs which{k};
    outputs.push_back(record_typed(kOutputDef, type.dtype, type.shape, {&holder, 1}, &which));
  }
  return outputs;
}

LazyTensor scalar(Scalar value) {
  if (beyond_int64(value)) fail_argument({kScalarDef, {}, {}}, "the number " + shown(value) + " does not fit i64");
  Node* n = Node::make(&kScalarDef, value.integral ? DType::i64 : DType::f64, 0);
  set_scalar(n, value);
  return finish(n);
}

bool as_scalar(const LazyTensor& t, Scalar& out, bool& literal) {
  const Node* n = t.node();
  if (!n || n->op->kind != OpKind::scalar) return false;
  out = (n->scalar_flags & Node::kScalarInt) ? Scalar(n->scalar_i) : Scalar(n->scalar_f);
  literal = (n->scalar_flags & Node::kScalarLiteral) != 0;
  return true;
}

}  // namespace metal_candle
