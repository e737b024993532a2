// lora_fused: (x·a)·b·scale. Two skinny products; where it is added to x·w, the compiler makes it part of that product.
// The gradients of a and b read x and the incoming gradient as rows; x·a is the forward pass's own.
#include "graph/record.h"
#include "ops/arguments.h"
#include "ops/table.h"

namespace metal_candle {
namespace ops {
namespace {

// lora(x [.., in], a [in, r], b [r, out], scale)
void infer_lora(const OpCall& c, InferResult& r) {
  const LazyTensor &x = c.inputs[0], &a = c.inputs[1], &b = c.inputs[2];
  if (x.rank() < 1 || a.rank() != 2 || b.rank() != 2) fail_shape(c, "x must be [.., in], a [in, r] and b [r, out]");
  if (x.dim(-1) != a.dim(0)) fail_shape(c, "x and a disagree on the input width");
  if (a.dim(1) != b.dim(0)) fail_shape(c, "a and b disagree on the rank");
  Shape shape = x.shape();
  shape[shape.rank() - 1] = b.dim(1);
  const DType dtype = promote(promote(x.dtype(), a.dtype()), b.dtype());
  if (!is_float(dtype)) fail_dtype(c, "the operands must be of a float type");
  r.add(dtype, shape);
}

struct Lora {
  LazyTensor x, a, b, scale;
  DType dtype;
  explicit Lora(std::span<const LazyTensor> inputs)
      : scale(inputs[3]), dtype(promote(promote(inputs[0].dtype(), inputs[1].dtype()), inputs[2].dtype())) {
    x = to_type(inputs[0], dtype);
    a = to_type(inputs[1], dtype);
    b = to_type(inputs[2], dtype);
  }
  /// The narrow side, scaled: x·a·scale costs r/out of scaling the result.
  LazyTensor low() const { return matmul(x, a) * scale; }
};

Tensors decompose_lora(const OpCall& c) {
  const Lora in(c.inputs);
  return {matmul(in.low(), in.b)};
}

Tensors lora_vjp(const VjpCall& c) {
  const Lora in(c.inputs);
  const LazyTensor& g = c.grads[0];
  const auto typed = [&](const LazyTensor& t, int i) {
    return to_type(t, c.inputs[static_cast<std::size_t>(i)].dtype());
  };
  Tensors out(4);
  LazyTensor inner;  // d/d(x·a)
  if (c.needs[0] || c.needs[1]) inner = matmul(g, transpose(in.b)) * in.scale;
  if (c.needs[0]) out[0] = typed(matmul(inner, transpose(in.a)), 0);
  if (c.needs[1]) out[1] = typed(matmul(transpose(as_rows(in.x)), as_rows(inner)), 1);
  if (c.needs[2]) out[2] = typed(matmul(transpose(as_rows(in.low())), as_rows(g)), 2);
  return out;
}

void sample_lora(SampleSink& s) {
  s.add({s.normal({1, 16}), s.normal({16, 4}), s.normal({4, 24}), scalar(2.0)});
  s.add({s.normal({3, 5, 12}), s.normal({12, 2}), s.normal({2, 7}), scalar(0.5)});
  s.add({s.normal({9}), s.normal({9, 1}), s.normal({1, 9}), scalar(-1)});
}

}  // namespace

constinit const OpDef lora_def{.name = "lora",
                               .kind = OpKind::composite,
                               .infer = infer_lora,
                               .decompose = decompose_lora,
                               .vjp = lora_vjp,
                               .samples = sample_lora};

}  // namespace ops

LazyTensor lora_fused(const LazyTensor& x, const LazyTensor& a, const LazyTensor& b, Scalar scale) {
  const CalledAs named("lora_fused", x, a, b);
  return record(ops::lora_def, {x, a, b, scalar(scale)});
}

}  // namespace metal_candle
