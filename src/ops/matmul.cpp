// Matrix products. Batch extents broadcast inside the op: nothing is expanded or copied for them. Transposes, here and
// in the gradients, are views.
#include "metal_candle/ops.hpp"
#include "ops/operands.h"
#include "ops/table.h"

namespace metal_candle {
namespace ops {
namespace {

const Attrs kNoAttrs{};

Shape batch_of(const Shape& shape) { return Shape(shape.dims().first(static_cast<std::size_t>(shape.rank() - 2))); }

Shape product_shape(const OpCall& c) {
  const Shape &a = c.inputs[0].shape(), &b = c.inputs[1].shape();
  if (a.rank() < 2 || b.rank() < 2) fail_shape(c, "both sides must be matrices");
  const std::int64_t columns = a[a.rank() - 1], rows = b[b.rank() - 2];
  if (columns != rows)
    fail_shape(c, "the inner extents differ: " + std::to_string(columns) + " and " + std::to_string(rows));
  Shape shape = batch_of(a);
  if (!broadcast_into(shape, batch_of(b))) fail_shape(c, "the batch extents do not broadcast");
  shape.push_back(a[a.rank() - 2]);
  shape.push_back(b[b.rank() - 1]);
  return shape;
}

bool is_byte(DType dtype) { return dtype == DType::i8 || dtype == DType::u8; }

void infer_matmul(const OpCall& c, InferResult& r) {
  require_inputs(c, 2);
  const DType a = c.inputs[0].dtype(), b = c.inputs[1].dtype();
  const bool bytes = is_byte(a) && is_byte(b);
  if (a != b && !bytes) fail_dtype(c, "the types differ");
  if (a == DType::boolean) fail_dtype(c, "the type must be a number's");
  r.add(bytes ? DType::i32 : a, product_shape(c));
}

LazyTensor as_matrix(const LazyTensor& x) { return reshape(x, {-1, x.dim(-1)}); }

// xᵀ·g over all rows at once where the second side has no batch: one product instead of one a batch entry and a sum.
LazyTensor right_gradient(const LazyTensor& a, const LazyTensor& b, const LazyTensor& g) {
  const bool one_matrix = b.rank() == 2 && a.rank() > 2 && a.numel() > 0 && g.numel() > 0;
  if (one_matrix) return matmul(transpose(as_matrix(a)), as_matrix(g));
  return matmul(transpose(a), g);
}

Tensors matmul_vjp(const VjpCall& c) {
  const LazyTensor &a = c.inputs[0], &b = c.inputs[1], &g = c.grads[0];
  Tensors out(2);
  if (c.needs[0]) out[0] = matmul(g, transpose(b));  // autograd sums a batch that was broadcast
  if (c.needs[1]) out[1] = right_gradient(a, b, g);
  return out;
}

void sample_matmul(SampleSink& s) {
  s.add({s.normal({3, 5}), s.normal({5, 4})});
  s.add({s.normal({1, 7}), s.normal({7, 1})});
  s.add({s.normal({2, 3, 5}), s.normal({5, 4})});
  s.add({s.normal({3, 5}), s.normal({2, 5, 4})});
  s.add({s.normal({2, 1, 3, 5}), s.normal({4, 5, 2})});
  s.add({s.normal({17, 33}), s.normal({33, 19})});
}

/// Checkpoints store weights as [out, in]; one that looks so is told of.
void require_layout(const LazyTensor& x, const LazyTensor& w) {
  if (!x.defined() || !w.defined() || x.rank() == 0 || w.rank() < 2) return;  // matmul says what is wrong
  const std::int64_t in = x.dim(-1);
  if (in == w.dim(-2)) return;
  std::string why = "the weight must be [in, out] with an `in` of " + std::to_string(in);
  if (in == w.dim(-1)) why += "; this one is [out, in], so give transpose(weight)";
  fail_shape({matmul_def, {}, {}}, why);
}

}  // namespace

constinit const OpDef matmul_def{.name = "matmul",
                                 .kind = OpKind::matmul,
                                 .infer = infer_matmul,
                                 .decompose = nullptr,
                                 .vjp = matmul_vjp,
                                 .samples = sample_matmul};

}  // namespace ops

LazyTensor matmul(const LazyTensor& a, const LazyTensor& b) {
  ops::require_defined(ops::matmul_def, ops::Borrowed(a, b));
  const bool row = a.rank() == 1, column = b.rank() == 1;
  if (row || column) {
    const CalledAs named("matmul", a, b);
    const LazyTensor y = matmul(row ? unsqueeze(a, 0) : a, column ? unsqueeze(b, 1) : b);
    const LazyTensor without_row = row ? squeeze(y, -2) : y;
    return column ? squeeze(without_row, -1) : without_row;
  }
  const bool bytes = ops::is_byte(a.dtype()) && ops::is_byte(b.dtype());
  const DType both = promote(a.dtype(), b.dtype()), of = both == DType::boolean ? DType::u8 : both;
  if (!bytes && (a.dtype() != of || b.dtype() != of)) {
    const CalledAs named("matmul", a, b);
    return matmul(cast(a, of), cast(b, of));
  }
  const DType dtype = bytes ? DType::i32 : of;
  const ops::Borrowed inputs(a, b);
  return record_typed(ops::matmul_def, dtype, ops::product_shape({ops::matmul_def, inputs, ops::kNoAttrs}), inputs);
}

LazyTensor linear(const LazyTensor& x, const LazyTensor& w, const LazyTensor& bias) {
  const CalledAs named = bias.defined() ? CalledAs("linear", x, w, bias) : CalledAs("linear", x, w);
  ops::require_layout(x, w);
  LazyTensor y = matmul(x, w);
  if (!bias.defined()) return y;
  Shape shape = y.shape();
  if (!ops::broadcast_into(shape, bias.shape()) || shape != y.shape()) {
    fail_shape({ops::matmul_def, {}, {}}, "the bias does not broadcast to " + y.shape().str());
  }
  return y + bias;
}

}  // namespace metal_candle
