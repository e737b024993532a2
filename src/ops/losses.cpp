// cross_entropy over the last axis. With m the row's maximum, z = x - m and s = Σ exp(z), a row's loss is
//   log s - (1 - l)·z[target] - l/v·Σ z                 (l: label smoothing)
// and its gradient (exp(z)/s - l/v - (1 - l)·[j = target])·g. Everything is relative to the maximum, so large logits
// lose no digits. The loss gathers one element a row, the gradient compares with the column number: both are one row
// program that reads the logits once and scatters nothing. 16-bit logits compute in f32, and the loss stays f32.
#include "ops/arguments.h"
#include "ops/reduce.h"
#include "ops/table.h"

namespace metal_candle {
namespace ops {
namespace {

// cross_entropy{ignore_index, label_smoothing, reduction}(logits [.., v], targets [..])
Reduction reduction_of(const Attrs& attrs) { return static_cast<Reduction>(attrs[2]); }

void infer_cross_entropy(const OpCall& c, InferResult& r) {
  const LazyTensor &logits = c.inputs[0], &targets = c.inputs[1];
  if (!is_float(logits.dtype())) fail_dtype(c, "logits must be of a float type");
  if (!is_integer(targets.dtype())) fail_dtype(c, "targets must be integers");
  if (logits.rank() < 1 || targets.rank() != logits.rank() - 1) fail_shape(c, "logits are [.., v] and targets [..]");
  for (int i = 0; i < targets.rank(); ++i)
    if (targets.shape()[i] != logits.shape()[i]) fail_shape(c, "logits are [.., v] and targets [..]");
  r.add(compute_type(logits.dtype()), reduction_of(c.attrs) == Reduction::none ? targets.shape() : Shape{});
}

/// What both directions need; row values keep a last extent of 1.
struct Rows {
  LazyTensor top, z, e, total;  // max, x - max, exp(z), Σ e
  LazyTensor targets, counts;   // i64; whether the row is not ignored
  LazyTensor number;            // of rows that count, when the reduction is a mean
  double smoothing, classes;

  Rows(std::span<const LazyTensor> inputs, const Attrs& attrs)
      : smoothing(attrs.real(1)), classes(static_cast<double>(inputs[0].dim(-1))) {
    const LazyTensor wide = widened(inputs[0]);
    top = max_or_lowest(wide, {-1});
    z = wide - top;
    e = exp(z);
    total = sum(e, {-1}, true);
    targets = unsqueeze(to_type(inputs[1], DType::i64), -1);
    counts = not_equal(targets, attrs[0]);
    // Counted from the targets as they came, apart from the row program: its elementwise end divides by the number.
    if (reduction_of(attrs) == Reduction::mean) number = sum(cast(not_equal(inputs[1], attrs[0]), wide.dtype()));
  }
};

// A target that is neither ignored nor a class must become an index error, also where it is negative.
LazyTensor checked_targets(const Rows& rows, std::int64_t classes) {
  return where(rows.counts, where(less(rows.targets, 0), Scalar(classes), rows.targets), Scalar(0));
}

Tensors decompose_cross_entropy(const OpCall& c) {
  const LazyTensor &logits = c.inputs[0], &targets = c.inputs[1];
  const Rows rows(c.inputs, c.attrs);
  const LazyTensor picked = take_along_axis(logits, checked_targets(rows, logits.dim(-1)), -1);
  const LazyTensor at_target = widened(picked) - rows.top;
  LazyTensor loss;
  if (rows.smoothing == 0) {
    loss = log(rows.total) - at_target;
  } else {
    const LazyTensor spread = sum(rows.z, {-1}, true) * (rows.smoothing / rows.classes);
    loss = log(rows.total) - at_target * (1 - rows.smoothing) - spread;
  }
  loss = where(rows.counts, loss, Scalar(0.0));
  switch (reduction_of(c.attrs)) {
    case Reduction::none: return {reshape(loss, targets.shape().dims())};
    case Reduction::sum: return {sum(loss)};
    case Reduction::mean: break;
  }
  return {sum(loss) / rows.number};
}

Tensors cross_entropy_vjp(const VjpCall& c) {
  if (!c.needs[0]) return Tensors(2);
  const LazyTensor& logits = c.inputs[0];
  const Rows rows(c.inputs, c.attrs);
  LazyTensor g = c.grads[0];
  if (reduction_of(c.attrs) == Reduction::none) g = unsqueeze(g, -1);
  if (reduction_of(c.attrs) == Reduction::mean) g = g / rows.number;

  const LazyTensor is_target = equal(iota(logits.shape(), logits.rank() - 1), to_type(rows.targets, DType::i32));
  const double floor = rows.smoothing / rows.classes;
  // The row's factors first, so that an element costs one multiplication and one difference.
  const LazyTensor picked = take_along_axis(logits, checked_targets(rows, logits.dim(-1)), -1);
  g = with_checked(where(rows.counts, g, Scalar(0.0)), picked);
  const LazyTensor expected = rows.smoothing == 0 ? where(is_target, g, Scalar(0.0))
                                                  : where(is_target, g * (1 - rows.smoothing + floor), g * floor);
  return {to_type(rows.e * (g / rows.total) - expected, logits.dtype()), {}};
}

Attrs cross_entropy_attrs(const CrossEntropyOptions& options) {
  Attrs attrs;
  attrs.push(options.ignore_index);
  attrs.push(options.label_smoothing);
  attrs.push(static_cast<std::int64_t>(options.reduction));
  return attrs;
}

void sample_cross_entropy(SampleSink& s) {
  for (const auto reduction : {Reduction::none, Reduction::mean, Reduction::sum})
    for (const double smoothing : {0.0, 0.1}) {
      const auto attrs = cross_entropy_attrs({.ignore_index = 3, .label_smoothing = smoothing, .reduction = reduction});
      s.add({s.normal({6, 11}), s.integers({6}, 0, 11)}, attrs);
      s.add({s.normal({2, 4, 5}, 10), s.integers({2, 4}, 0, 5, DType::i64)}, attrs);
    }
}

}  // namespace

constinit const OpDef cross_entropy_def{.name = "cross_entropy",
                                        .kind = OpKind::composite,
                                        .infer = infer_cross_entropy,
                                        .decompose = decompose_cross_entropy,
                                        .vjp = cross_entropy_vjp,
                                        .samples = sample_cross_entropy};

}  // namespace ops

LazyTensor cross_entropy(const LazyTensor& logits, const LazyTensor& targets, const CrossEntropyOptions& options) {
  const CalledAs named("cross_entropy", logits, targets);
  if (!(options.label_smoothing >= 0 && options.label_smoothing <= 1))
    fail_argument({ops::cross_entropy_def, {}, {}}, "label smoothing must lie in 0..1");
  return record(ops::cross_entropy_def, {logits, targets}, ops::cross_entropy_attrs(options));
}

}  // namespace metal_candle
