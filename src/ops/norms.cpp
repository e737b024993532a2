// rms_norm and layer_norm over the last axis. Forward and backward are row programs: the statistics are row values, the
// rest is elementwise; gradients of weight and bias are sums over rows of what the same pass has in hand. The
// statistics are written once and used by both directions, so that a plan which holds both computes them once.
#include "ops/arguments.h"
#include "ops/table.h"

namespace metal_candle {
namespace ops {
namespace {

LazyTensor row_mean(const LazyTensor& x) { return mean(x, {-1}, true); }

// Sum over all rows, in the type of the parameter whose gradient it is.
LazyTensor over_rows(const LazyTensor& x, const LazyTensor& parameter) {
  return to_type(sum(as_rows(x), {0}), parameter.dtype());
}

void check_parameter(const OpCall& c, const LazyTensor& p, const char* what) {
  if (p.rank() != 1 || p.dim(0) != c.inputs[0].dim(-1))
    fail_shape(c, std::string("the ") + what + " must have the extent of the last axis");
  if (!is_float(p.dtype())) fail_dtype(c, std::string("the ") + what + " must be of a float type");
}

// ---- rms_norm{eps}(x [, weight]) ------------------------------------------------------------------------------------

LazyTensor inverse_rms(const LazyTensor& wide, const Attrs& attrs) {
  return rsqrt(row_mean(square(wide)) + attrs.real(0));
}

void infer_rms_norm(const OpCall& c, InferResult& r) {
  const LazyTensor& x = c.inputs[0];
  if (x.rank() == 0) fail_shape(c, "there is no axis to normalise");
  DType dtype = float_type(x.dtype());
  if (c.inputs.size() == 2) {
    check_parameter(c, c.inputs[1], "weight");
    dtype = promote(dtype, c.inputs[1].dtype());
  }
  r.add(dtype, x.shape());
}

// The normalised values are rounded to x's type before the weight comes in, as the models' reference code does.
Tensors decompose_rms_norm(const OpCall& c) {
  const LazyTensor& x = c.inputs[0];
  const LazyTensor wide = widened(x);
  const LazyTensor n = to_type(wide * inverse_rms(wide, c.attrs), float_type(x.dtype()));
  return {c.inputs.size() == 2 ? n * c.inputs[1] : n};
}

Tensors rms_norm_vjp(const VjpCall& c) {
  const LazyTensor& x = c.inputs[0];
  const bool weighted = c.inputs.size() == 2;
  const LazyTensor wide = widened(x), g = widened(c.grads[0]);
  const LazyTensor inverse = inverse_rms(wide, c.attrs);
  Tensors out(c.inputs.size());
  if (c.needs[0]) {
    // Of x, which is kept anyway, and a number a row: the normalised values need not be.
    const LazyTensor gn = weighted ? g * widened(c.inputs[1]) : g;
    out[0] = to_type((gn - wide * (row_mean(gn * wide) * inverse * inverse)) * inverse, x.dtype());
  }
  if (weighted && c.needs[1]) out[1] = over_rows(g * (wide * inverse), c.inputs[1]);
  return out;
}

void sample_rms_norm(SampleSink& s) {
  Attrs eps;
  eps.push(1e-5);
  s.add({s.normal({9})}, eps);
  s.add({s.normal({4, 64}), s.normal({64})}, eps);
  s.add({s.normal({2, 3, 33}, 10), s.normal({33})}, eps);
  Attrs large;
  large.push(0.5);
  s.add({s.normal({5, 1}), s.normal({1})}, large);
}

// ---- layer_norm{eps, weight?, bias?}(x [, weight] [, bias]) ---------------------------------------------------------

struct LayerNormInputs {
  LazyTensor x, weight, bias;
  int weight_at = -1, bias_at = -1;
  LayerNormInputs(std::span<const LazyTensor> inputs, const Attrs& attrs) : x(inputs[0]) {
    int next = 1;
    if (attrs[1]) weight = inputs[static_cast<std::size_t>(weight_at = next++)];
    if (attrs[2]) bias = inputs[static_cast<std::size_t>(bias_at = next)];
  }
};

struct Centred {
  LazyTensor values, inverse;  // x - mean, 1/sqrt(variance + eps)
  Centred(const LazyTensor& x, const Attrs& attrs) {
    const LazyTensor wide = widened(x);
    values = wide - row_mean(wide);
    inverse = rsqrt(row_mean(square(values)) + attrs.real(0));
  }
};

void infer_layer_norm(const OpCall& c, InferResult& r) {
  const LayerNormInputs in(c.inputs, c.attrs);
  if (in.x.rank() == 0) fail_shape(c, "there is no axis to normalise");
  DType dtype = float_type(in.x.dtype());
  if (in.weight.defined()) {
    check_parameter(c, in.weight, "weight");
    dtype = promote(dtype, in.weight.dtype());
  }
  if (in.bias.defined()) {
    check_parameter(c, in.bias, "bias");
    dtype = promote(dtype, in.bias.dtype());
  }
  r.add(dtype, in.x.shape());
}

Tensors decompose_layer_norm(const OpCall& c) {
  const LayerNormInputs in(c.inputs, c.attrs);
  const Centred centred(in.x, c.attrs);
  LazyTensor y = centred.values * centred.inverse;
  DType dtype = float_type(in.x.dtype());
  if (in.weight.defined()) {
    y = y * widened(in.weight);
    dtype = promote(dtype, in.weight.dtype());
  }
  if (in.bias.defined()) {
    y = y + widened(in.bias);
    dtype = promote(dtype, in.bias.dtype());
  }
  return {to_type(y, dtype)};
}

Tensors layer_norm_vjp(const VjpCall& c) {
  const LayerNormInputs in(c.inputs, c.attrs);
  const auto needed = [&](int at) { return at >= 0 && c.needs[static_cast<std::size_t>(at)]; };
  const Centred centred(in.x, c.attrs);
  const LazyTensor n = centred.values * centred.inverse, g = widened(c.grads[0]);
  Tensors out(c.inputs.size());
  if (c.needs[0]) {
    const LazyTensor gn = in.weight.defined() ? g * widened(in.weight) : g;
    out[0] = to_type((gn - row_mean(gn) - n * row_mean(gn * n)) * centred.inverse, in.x.dtype());
  }
  if (needed(in.weight_at)) out[static_cast<std::size_t>(in.weight_at)] = over_rows(g * n, in.weight);
  if (needed(in.bias_at)) out[static_cast<std::size_t>(in.bias_at)] = over_rows(g, in.bias);
  return out;
}

Attrs layer_norm_attrs(double eps, bool weight, bool bias) {
  Attrs attrs;
  attrs.push(eps);
  attrs.push(std::int64_t{weight});
  attrs.push(std::int64_t{bias});
  return attrs;
}

void sample_layer_norm(SampleSink& s) {
  s.add({s.normal({17})}, layer_norm_attrs(1e-5, false, false));
  s.add({s.normal({4, 64}), s.normal({64}), s.normal({64})}, layer_norm_attrs(1e-5, true, true));
  s.add({s.normal({2, 3, 33}, 10), s.normal({33})}, layer_norm_attrs(1e-6, true, false));
  s.add({s.normal({3, 8}), s.normal({8})}, layer_norm_attrs(1e-2, false, true));
}

}  // namespace

constinit const OpDef rms_norm_def{.name = "rms_norm",
                                   .kind = OpKind::composite,
                                   .infer = infer_rms_norm,
                                   .decompose = decompose_rms_norm,
                                   .vjp = rms_norm_vjp,
                                   .samples = sample_rms_norm};
constinit const OpDef layer_norm_def{.name = "layer_norm",
                                     .kind = OpKind::composite,
                                     .infer = infer_layer_norm,
                                     .decompose = decompose_layer_norm,
                                     .vjp = layer_norm_vjp,
                                     .samples = sample_layer_norm};

}  // namespace ops

LazyTensor rms_norm(const LazyTensor& x, double eps) {
  Attrs attrs;
  attrs.push(eps);
  return record(ops::rms_norm_def, {x}, attrs);
}
LazyTensor rms_norm(const LazyTensor& x, const LazyTensor& weight, double eps) {
  if (!weight.defined()) return rms_norm(x, eps);
  Attrs attrs;
  attrs.push(eps);
  return record(ops::rms_norm_def, {x, weight}, attrs);
}
LazyTensor layer_norm(const LazyTensor& x, const LazyTensor& weight, const LazyTensor& bias, double eps) {
  const Attrs attrs = ops::layer_norm_attrs(eps, weight.defined(), bias.defined());
  if (weight.defined() && bias.defined()) return record(ops::layer_norm_def, {x, weight, bias}, attrs);
  if (weight.defined() || bias.defined())
    return record(ops::layer_norm_def, {x, weight.defined() ? weight : bias}, attrs);
  return record(ops::layer_norm_def, {x}, attrs);
}
LazyTensor LazyTensor::rms_norm(double eps) const { return metal_candle::rms_norm(*this, eps); }
LazyTensor LazyTensor::rms_norm(const LazyTensor& weight, double eps) const {
  return metal_candle::rms_norm(*this, weight, eps);
}
LazyTensor LazyTensor::layer_norm(double eps) const { return metal_candle::layer_norm(*this, {}, {}, eps); }
LazyTensor LazyTensor::layer_norm(const LazyTensor& weight, const LazyTensor& bias, double eps) const {
  return metal_candle::layer_norm(*this, weight, bias, eps);
}

}  // namespace metal_candle
