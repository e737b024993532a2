// Random numbers: a hash of a key and a counter, computed where they are used and never stored unless asked for.
//
// With one key the counter is an element's row-major index. With a key a row (an extent of 1 at the end) it is the
// index within the row, so that a row's numbers do not depend on which row it is. Draws are made in f32, or
// in f64 where that is asked for.
#include <bit>

#include "metal_candle/ops.hpp"
#include "ops/operands.h"
#include "ops/primitive.h"
#include "ops/table.h"

namespace metal_candle {
namespace ops {
namespace {

void infer_random(const OpCall& c, InferResult& r) {
  require_inputs(c, 1);
  const LazyTensor& key = c.inputs[0];
  if (key.dtype() != DType::i64) fail_dtype(c, "the key must be i64");
  if (c.attrs.size() < 1 || !is_float(static_cast<DType>(c.attrs[0]))) fail_dtype(c, "the type must be a float");
  const Shape shape(c.attrs.values().subspan(1));
  bool fits = key.rank() == 0 || (key.rank() == shape.rank() && key.shape()[key.rank() - 1] == 1);
  for (int i = 0; fits && i + 1 < key.rank(); ++i) fits = key.shape()[i] == shape[i] || key.shape()[i] == 1;
  if (!fits) fail_shape(c, "the keys do not broadcast to " + shape.str());
  r.add(static_cast<DType>(c.attrs[0]), shape);
}

void sample_random(SampleSink& s) {
  s.add({scalar(42)}, {static_cast<std::int64_t>(DType::f32), 3, 5});
  s.add({s.integers({4, 1}, 0, 1000, DType::i64)}, {static_cast<std::int64_t>(DType::f32), 4, 9});
  s.add({scalar(42)}, {static_cast<std::int64_t>(DType::f64), 3, 5});
}

LazyTensor key_tensor(Key key) { return scalar(std::bit_cast<std::int64_t>(key.value)); }

LazyTensor draw(const OpDef& op, const LazyTensor& key, const Shape& shape, DType dtype = DType::f32) {
  Attrs attrs{static_cast<std::int64_t>(dtype == DType::f64 ? DType::f64 : DType::f32)};
  for (const std::int64_t extent : shape) attrs.push(extent);
  return record(op, Borrowed(key), attrs);
}

void check_probability(const OpDef& op, double p) {
  if (!(p >= 0 && p <= 1)) fail_argument({op, {}, {}}, "the probability " + std::to_string(p) + " is not from 0 to 1");
}

void require_float(const OpDef& op, DType dtype) {
  if (!is_float(dtype)) fail_dtype({op, {}, {}}, "random numbers are floats, not " + std::string(name(dtype)));
}

// A 16-bit float holds fewer digits than a draw has, and would round the largest of them up to 1.
LazyTensor below_one(const LazyTensor& u, DType dtype) {
  const LiteralScope literal;
  if (dtype == DType::f32 || dtype == DType::f64) return cast(u, dtype);
  const double steps = dtype == DType::bf16 ? 256 : 2048;
  return cast(floor(u * steps) * (1 / steps), dtype);
}

// arg max of logits + Gumbel noise, -log e with e exponential. Two draws make e: the second fills in the digits below
// the first one's last, so that the smallest e, which win, are neither zero nor equal.
LazyTensor choose(const LazyTensor& logits, const LazyTensor& keys, const LazyTensor& more_keys) {
  const LiteralScope literal;
  const OpDef& uniform = random_uniform_def;
  const LazyTensor u = draw(uniform, keys, logits.shape()) + draw(uniform, more_keys, logits.shape()) * 0x1p-24;
  const LazyTensor e = -log1p(-u);
  return argmax(cast(logits, logits.dtype() == DType::f64 ? DType::f64 : DType::f32) - log(e), -1);
}

void require_row(const LazyTensor& logits) {
  require_defined(random_uniform_def, {&logits, 1});
  if (logits.rank() == 0) fail_shape({random_uniform_def, {&logits, 1}, {}}, "there is no axis to draw from");
}

}  // namespace

constinit const OpDef random_uniform_def =
    primitive("random_uniform", OpKind::elementwise, kRandomUniform, infer_random, NoGrad{}, sample_random);
constinit const OpDef random_normal_def =
    primitive("random_normal", OpKind::elementwise, kRandomNormal, infer_random, NoGrad{}, sample_random);

}  // namespace ops

// Two rounds of splitmix64's finaliser; the order of folds matters.
Key Key::fold(std::uint64_t data) const {
  const auto mix = [](std::uint64_t z) {
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
  };
  return Key(mix(mix(value + 0x9e3779b97f4a7c15u) + data * 0xd1342543de82ef95u + 0x632be59bd9b4e019u));
}

LazyTensor rand(const Shape& shape, RandomOptions options) {
  const CalledAs named("rand");
  ops::require_float(ops::random_uniform_def, options.dtype);
  return ops::below_one(ops::draw(ops::random_uniform_def, ops::key_tensor(options.key), shape, options.dtype),
                        options.dtype);
}

LazyTensor randn(const Shape& shape, RandomOptions options) {
  const CalledAs named("randn");
  ops::require_float(ops::random_normal_def, options.dtype);
  return cast(ops::draw(ops::random_normal_def, ops::key_tensor(options.key), shape, options.dtype), options.dtype);
}

Tensor Tensor::rand(const Shape& shape, const RandomOptions& options) {
  return metal_candle::rand(shape, options).eval();
}
Tensor Tensor::randn(const Shape& shape, const RandomOptions& options) {
  return metal_candle::randn(shape, options).eval();
}

LazyTensor bernoulli(const Shape& shape, double p, Key key) {
  const CalledAs named("bernoulli");
  ops::check_probability(ops::random_uniform_def, p);
  return less(rand(shape, {.key = key}), p);
}

LazyTensor dropout(const LazyTensor& x, double p, Key key) {
  const CalledAs named("dropout", x);
  ops::require_defined(ops::random_uniform_def, {&x, 1});
  ops::check_probability(ops::random_uniform_def, p);
  if (p == 0) return is_float(x.dtype()) ? x : cast(x, float_type(x.dtype()));
  const LazyTensor dropped = bernoulli(x.shape(), p, key);
  const LazyTensor scaled = x * (p < 1 ? 1 / (1 - p) : 0.0);
  return where(dropped, zero_like(scaled), scaled);
}

LazyTensor categorical(const LazyTensor& logits, Key key) {
  const CalledAs named("categorical", logits);
  ops::require_row(logits);
  return ops::choose(logits, ops::key_tensor(key), ops::key_tensor(key.fold(1)));
}

LazyTensor categorical(const LazyTensor& logits, const LazyTensor& row_keys) {
  const CalledAs named("categorical", logits, row_keys);
  ops::require_row(logits);
  ops::require_defined(ops::random_uniform_def, {&row_keys, 1});
  const std::span<const std::int64_t> dims = logits.shape().dims();
  if (row_keys.shape() != Shape(dims.first(dims.size() - 1)))
    fail_shape({ops::random_uniform_def, {&row_keys, 1}, {}},
               "there must be one key for each row of " + logits.shape().str());
  if (row_keys.dtype() != DType::i64) fail_dtype({ops::random_uniform_def, {&row_keys, 1}, {}}, "the keys must be i64");
  const LazyTensor keys = unsqueeze(row_keys, -1);
  return ops::choose(logits, keys, -keys);
}

}  // namespace metal_candle
