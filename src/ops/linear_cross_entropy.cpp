// linear_cross_entropy: cross_entropy(x·w, targets) whose logits exist a block at a time. With p = softmax(x·w), l the
// label smoothing and t the target, a row has
//   loss = lse - (1 - l)·logit[t] - l/v·Σ logits        u = d loss/d x = p·wᵀ - (1 - l)·w[:, t] - l/v·Σ_j w[:, j]
// The forward pass makes u on its way, if anybody will read it; the gradient of x is then a row scaled. That of w,
// where wanted, computes the logits once more.
#include "ops/linear_cross_entropy.h"

#include <limits>

#include "ops/arguments.h"
#include "ops/operands.h"
#include "ops/table.h"

namespace metal_candle {
namespace ops {
namespace {

void check(const OpCall& c) {
  const LazyTensor &x = c.inputs[0], &w = c.inputs[1], &targets = c.inputs[2];
  if (!is_float(x.dtype()) || !is_float(w.dtype())) fail_dtype(c, "x and w must be of float types");
  if ((x.dtype() == DType::f64) != (w.dtype() == DType::f64)) fail_dtype(c, "f64 does not mix with other types");
  if (targets.dtype() != DType::i32 && targets.dtype() != DType::i64) fail_dtype(c, "targets must be i32 or i64");
  const bool matrices = x.rank() == 2 && w.rank() == 2;
  if (!matrices || x.dim(1) != w.dim(0))
    fail_shape(c, std::string("x must be [n, d] and w [d, v]") +
                      (matrices && x.dim(1) == w.dim(1) ? "; this w is [v, d], so give transpose(w)" : ""));
  if (targets.rank() != 1 || targets.dim(0) != x.dim(0)) fail_shape(c, "targets must be one per row");
  if (w.dim(1) == 0 || w.dim(1) > INT32_MAX)
    fail_shape(c, "there must be a class, and indices of classes must fit 31 bits");
}

void infer_forward(const OpCall& c, InferResult& r) {
  check(c);
  const LazyTensor& x = c.inputs[0];
  r.add(compute_type(x.dtype()), {x.dim(0)});
  r.add(compute_type(x.dtype()), {x.dim(0)});
  r.add(x.dtype(), x.shape());
}

void infer_grad(const OpCall& c, InferResult& r) {
  check(c);
  r.add(c.inputs[1].dtype(), {c.inputs[1].dim(1), c.inputs[1].dim(0)});
}

/// The same with all logits at once.
struct Dense {
  LinearCrossEntropyRule rule;
  LazyTensor x, w, logits;
  LazyTensor counts, targets;  // [n, 1]; ignored rows have class 0
  double floor;                // probability that smoothing gives every class

  Dense(std::span<const LazyTensor> in, const Attrs& attrs)
      : rule(attrs),
        x(widened(in[0])),
        w(widened(in[1])),
        logits(matmul(x, w)),
        floor(rule.smoothing / static_cast<double>(w.dim(1))) {
    const LazyTensor t = unsqueeze(to_type(in[2], DType::i64), -1);
    counts = not_equal(t, rule.ignore_index);
    // A target that is neither ignored nor a class must become an index error, also where it is negative.
    targets = where(counts, where(less(t, 0), Scalar(w.dim(1)), t), Scalar(0));
  }
  /// softmax minus what was expected, 0 in ignored rows.
  LazyTensor error(const LazyTensor& p) const {
    const LazyTensor is_target = equal(iota(logits.shape(), 1, DType::i64), targets);
    const LazyTensor expected = where(is_target, Scalar(1 - rule.smoothing + floor), full({}, floor, p.dtype()));
    return where(counts, p - expected, Scalar(0.0));
  }
};

Tensors decompose_forward(const OpCall& c) {
  const Dense m(c.inputs, c.attrs);
  const LazyTensor lse = logsumexp(m.logits, {1}, true);
  LazyTensor loss = lse - take_along_axis(m.logits, m.targets, 1) * (1 - m.rule.smoothing);
  if (m.rule.smoothing != 0) loss = loss - sum(m.logits, {1}, true) * m.floor;
  const LazyTensor u = matmul(m.error(exp(m.logits - lse)), transpose(m.w));
  return {squeeze(where(m.counts, loss, Scalar(0.0)), 1),
          squeeze(where(m.counts, lse, Scalar(std::numeric_limits<double>::infinity())), 1),
          to_type(u, c.inputs[0].dtype())};
}

Tensors decompose_grad(const OpCall& c) {
  const Dense m(c.inputs, c.attrs);
  const LazyTensor p = exp(m.logits - unsqueeze(c.inputs[3], 1));
  return {to_type(matmul(transpose(m.error(p) * unsqueeze(c.inputs[4], 1)), m.x), c.inputs[1].dtype())};
}

// For who differentiates the gradient, which reads lse and u: with all logits at once.
Tensors dense_vjp(const VjpCall& c) {
  const Dense m(c.inputs, c.attrs);
  const LazyTensor p = softmax(m.logits, 1), error = m.error(p);
  LazyTensor slope = full({}, 0.0, p.dtype()), dw = slope;  // d / d logits
  if (c.grads[0].defined()) slope = slope + error * unsqueeze(c.grads[0], 1);
  if (c.grads[1].defined()) slope = slope + p * unsqueeze(c.grads[1], 1);
  if (c.grads[2].defined()) {
    const LazyTensor g = widened(c.grads[2]), of_error = matmul(g, m.w);
    slope = slope + p * (of_error - sum(p * of_error, {1}, true));
    dw = matmul(transpose(g), error);
  }
  slope = where(m.counts, slope, Scalar(0.0));
  return {to_type(matmul(slope, transpose(m.w)), c.inputs[0].dtype()),
          to_type(dw + matmul(transpose(m.x), slope), c.inputs[1].dtype()),
          {}};
}

Tensors forward_vjp(const VjpCall& c) {
  if (c.grads[1].defined() || c.grads[2].defined()) return dense_vjp(c);
  Tensors out(3);
  // An ignored row has no part in the gradient whatever g is, which is infinite where a mean had nothing to count.
  const LazyTensor counts = not_equal(c.inputs[2], LinearCrossEntropyRule(c.attrs).ignore_index);
  const LazyTensor g = where(counts, c.grads[0], Scalar(0.0));
  if (c.needs[0]) out[0] = to_type(unsqueeze(g, 1) * widened(c.outputs[2]), c.inputs[0].dtype());
  if (c.needs[1])
    out[1] = transpose(
        record(linear_cross_entropy_grad_def, {c.inputs[0], c.inputs[1], c.inputs[2], c.outputs[1], g}, c.attrs));
  return out;
}

Attrs make_attrs(std::int64_t ignore_index, double smoothing) {
  Attrs a{ignore_index};
  a.push(smoothing);
  return a;
}

void sample_forward(SampleSink& s) {
  for (const double smoothing : {0.0, 0.1}) {
    s.add({s.normal({6, 8}), s.normal({8, 11}), s.integers({6}, 0, 11)}, make_attrs(3, smoothing));
    s.add({s.normal({9, 5}), transpose(s.normal({70, 5})), s.integers({9}, 0, 70, DType::i64)},
          make_attrs(-100, smoothing));
  }
}

void sample_grad(SampleSink& s) {
  for (const double smoothing : {0.0, 0.1}) {
    const Tensors in = {s.normal({6, 8}), s.normal({8, 11}), s.integers({6}, 0, 11)};
    const Attrs attrs = make_attrs(3, smoothing);
    // As the forward op gives it, but from ops that can be differentiated.
    const LazyTensor lse = logsumexp(widened(matmul(in[0], in[1])), {-1});
    const LazyTensor seen = where(equal(in[2], 3), std::numeric_limits<double>::infinity(), lse);
    s.add({in[0], in[1], in[2], seen, to_type(s.normal({6}), lse.dtype())}, attrs);
  }
}

}  // namespace

constinit const OpDef linear_cross_entropy_def{.name = "linear_cross_entropy",
                                               .kind = OpKind::kernel,
                                               .infer = infer_forward,
                                               .decompose = decompose_forward,
                                               .vjp = forward_vjp,
                                               .samples = sample_forward};
constinit const OpDef linear_cross_entropy_grad_def{.name = "linear_cross_entropy_grad",
                                                    .kind = OpKind::kernel,
                                                    .infer = infer_grad,
                                                    .decompose = decompose_grad,
                                                    .vjp = DecomposedGrad{},
                                                    .samples = sample_grad};

}  // namespace ops

LazyTensor linear_cross_entropy(const LazyTensor& x, const LazyTensor& w, const LazyTensor& targets,
                                const CrossEntropyOptions& options) {
  const CalledAs named("linear_cross_entropy", x, w, targets);
  ops::require_defined(ops::linear_cross_entropy_def, ops::Borrowed(x, w, targets));
  const OpCall call{ops::linear_cross_entropy_def, {}, {}};
  if (!(options.label_smoothing >= 0 && options.label_smoothing <= 1))
    fail_argument(call, "label smoothing must lie in 0..1");
  if (!is_integer(targets.dtype())) fail_dtype(call, "targets must be integers");
  if (x.rank() < 1 || targets.rank() != x.rank() - 1) fail_shape(call, "x must be [.., d] and targets [..]");
  const LazyTensor t = targets.dtype() == DType::i64 ? targets : ops::to_type(targets, DType::i32);
  const LazyTensor flat = t.rank() == 1 ? t : reshape(t, {t.numel()});
  const LazyTensor loss = record_all(ops::linear_cross_entropy_def, {ops::as_rows(x), w, flat},
                                     ops::make_attrs(options.ignore_index, options.label_smoothing))[0];
  switch (options.reduction) {
    case Reduction::none: return reshape(loss, targets.shape().dims());
    case Reduction::sum: return sum(loss);
    case Reduction::mean: break;
  }
  return sum(loss) / sum(cast(not_equal(flat, options.ignore_index), loss.dtype()));
}

}  // namespace metal_candle
