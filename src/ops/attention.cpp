// attention and its gradient: one kernel op each. The decompositions below spell out the same in primitive ops, scores
// and all; they are the oracle in tests, the fallback, and what second derivatives are made of.
//
// The gradient computes the scores again from q, k and lse, so the forward pass keeps nothing but out and lse.
#include "ops/attention.h"

#include <cmath>
#include <limits>

#include "metal_candle/autograd.hpp"
#include "ops/arguments.h"
#include "ops/operands.h"
#include "ops/table.h"

namespace metal_candle {
namespace ops {
namespace {

constexpr double kMinusInf = -std::numeric_limits<double>::infinity();

struct Sizes {
  std::int64_t b = 1, tq, tk, h, hk, d, dv;
  bool batched;
  explicit Sizes(std::span<const LazyTensor> in) : batched(in[0].rank() == 4) {
    if (batched) b = in[0].dim(0);
    tq = in[0].dim(-3);
    h = in[0].dim(-2);
    d = in[0].dim(-1);
    tk = in[1].dim(-3);
    hk = in[1].dim(-2);
    dv = in[2].dim(-1);
  }
  std::int64_t group() const { return hk == 0 ? 1 : h / hk; }
};

// ---- types ---------------------------------------------------------------------------------------------------------

void check_operands(const OpCall& c) {
  const LazyTensor &q = c.inputs[0], &k = c.inputs[1], &v = c.inputs[2];
  for (const LazyTensor* t : {&q, &k, &v}) {
    if (!is_float(t->dtype())) fail_dtype(c, "q, k and v must be of float types");
    if ((t->dtype() == DType::f64) != (q.dtype() == DType::f64)) fail_dtype(c, "f64 does not mix with other types");
    if (t->rank() != q.rank() || (t->rank() != 3 && t->rank() != 4))
      fail_shape(c, "q, k and v must be [t, h, d] or [b, t, h, d]");
  }
  if (q.dim(-1) != k.dim(-1)) fail_shape(c, "queries and keys differ in width");
  if (k.dim(-3) != v.dim(-3) || k.dim(-2) != v.dim(-2)) fail_shape(c, "keys and values differ in number or heads");
  if (k.dim(-2) == 0 ? q.dim(-2) != 0 : q.dim(-2) % k.dim(-2) != 0)
    fail_shape(c, "the number of heads must be a multiple of the number of key heads");
  if (q.rank() == 4 && (q.dim(0) != k.dim(0) || q.dim(0) != v.dim(0))) fail_shape(c, "q, k and v differ in batch size");
  if (std::max(q.dim(-3), k.dim(-3)) > INT32_MAX - 1) fail_shape(c, "positions must fit 31 bits");
}

void check_optional(const OpCall& c, const AttentionRule& rule, int fixed) {
  const Sizes e(c.inputs);
  const auto input = [&](AttentionInput which) { return c.inputs[static_cast<std::size_t>(rule.place(which, fixed))]; };
  std::int64_t sequences = e.b;
  if (rule.has(kQueryOffsets) != rule.has(kKeyOffsets))
    fail_argument(c, "offsets are given for both queries and keys, or for neither");
  if (rule.has(kQueryOffsets)) {
    if (e.batched) fail_shape(c, "offsets are for packed sequences, [t, h, d]");
    if (input(kQueryOffsets).rank() != 1 || input(kQueryOffsets).dim(0) < 1 ||
        input(kQueryOffsets).shape() != input(kKeyOffsets).shape())
      fail_shape(c, "offsets must be [s + 1] for both queries and keys");
    sequences = input(kQueryOffsets).dim(0) - 1;
  }
  if (rule.has(kKeyLengths) && input(kKeyLengths).shape() != Shape{sequences})
    fail_shape(c, "key_lengths must be one per sequence");
  const auto check_positions = [&](AttentionInput which, std::int64_t t, const char* what) {
    if (rule.has(which) && input(which).shape() != (e.batched ? Shape{e.b, t} : Shape{t}))
      fail_shape(c, std::string(what) + " must be [t], or [b, t] for [b, t, h, d]");
  };
  check_positions(kQueryPositions, e.tq, "query_positions");
  check_positions(kKeyPositions, e.tk, "key_positions");
  for (const auto which : {kQueryOffsets, kKeyOffsets, kKeyLengths, kQueryPositions, kKeyPositions})
    if (rule.has(which) && input(which).dtype() != DType::i32 && input(which).dtype() != DType::i64)
      fail_dtype(c, "offsets, lengths and positions must be i32 or i64");
  if (!rule.has(kBias)) return;
  const Shape& s = input(kBias).shape();
  const int r = c.inputs[0].rank();
  if (s.rank() != r || s[r - 1] != e.tk || s[r - 2] != e.tq || (s[r - 3] != e.h && s[r - 3] != 1) ||
      (e.batched && s[0] != e.b && s[0] != 1))
    fail_shape(c, "bias must be [h or 1, tq, tk], with [b or 1] in front for [b, t, h, d]");
  if (input(kBias).dtype() != compute_type(c.inputs[0].dtype())) fail_dtype(c, "bias must be f32 (f64 for f64)");
}

void infer_attention(const OpCall& c, InferResult& r) {
  check_operands(c);
  check_optional(c, AttentionRule(c.attrs), kAttentionInputs);
  const LazyTensor& q = c.inputs[0];
  const Sizes e(c.inputs);
  Shape out = q.shape();
  out[out.rank() - 1] = e.dv;
  r.add(q.dtype(), out);
  r.add(compute_type(q.dtype()), {e.h, e.b * e.tq});
}

void infer_attention_grad(const OpCall& c, InferResult& r) {
  const AttentionRule rule(c.attrs);
  for (std::size_t i = 0; i < 3; ++i) r.add(c.inputs[i].dtype(), c.inputs[i].shape());
  const Sizes e(c.inputs);
  if (rule.has(kBias))
    r.add(compute_type(c.inputs[0].dtype()), e.batched ? Shape{e.b, e.h, e.tq, e.tk} : Shape{e.h, e.tq, e.tk});
}

// ---- in primitive ops ----------------------------------------------------------------------------------------------

/// Who sees whom, as integers that broadcast to [b, tq, tk]: positions, numbers of sequences, room in use.
class Places {
 public:
  Places(std::span<const LazyTensor> inputs, const AttentionRule& rule, int fixed)
      : in_(inputs), rule_(rule), fixed_(fixed), e_(inputs) {}

  LazyTensor seen() const {
    LazyTensor key_index, query_index, sequence_ok, used, queries;
    if (rule_.has(kQueryOffsets)) {
      const LazyTensor qo = get(kQueryOffsets), ko = get(kKeyOffsets);
      const LazyTensor sq = sequence_of(qo, e_.tq), sk = sequence_of(ko, e_.tk);
      const std::int64_t last = qo.dim(0) - 2;
      sequence_ok = logical_and(equal(column(sq), row(sk)), less_equal(column(sq), last));
      const auto sizes = [](const LazyTensor& o) { return slice(o, 0, 1, o.dim(0)) - slice(o, 0, 0, o.dim(0) - 1); };
      const LazyTensor at = last < 0 ? LazyTensor{} : minimum(sq, last);
      if (last < 0) return expand(reshape(less(zeros({1}, DType::i32), 0), {1, 1, 1}), {1, e_.tq, e_.tk});
      used = column(take(rule_.has(kKeyLengths) ? get(kKeyLengths) : sizes(ko), at));
      queries = column(take(sizes(qo), at));
      query_index = column(iota({e_.tq}, 0, DType::i64) - take(qo, at));
      key_index = row(iota({e_.tk}, 0, DType::i64) - take(ko, minimum(sk, last)));
    } else {
      used = rule_.has(kKeyLengths) ? reshape(get(kKeyLengths), {e_.b, 1, 1}) : full({1, 1, 1}, e_.tk, DType::i64);
      queries = full({1, 1, 1}, e_.tq, DType::i64);
      query_index = column(iota({e_.tq}, 0, DType::i64));
      key_index = row(iota({e_.tk}, 0, DType::i64));
    }
    LazyTensor seen = less(key_index, used);
    if (sequence_ok.defined()) seen = logical_and(seen, sequence_ok);
    const LazyTensor qp =
        rule_.has(kQueryPositions) ? reshape(get(kQueryPositions), {e_.b, e_.tq, 1}) : used - queries + query_index;
    const LazyTensor kp = rule_.has(kKeyPositions) ? reshape(get(kKeyPositions), {e_.b, 1, e_.tk}) : key_index;
    if (rule_.causal) seen = logical_and(seen, less_equal(kp, qp));
    if (rule_.window > 0)
      seen = logical_and(seen, logical_and(less(qp - kp, rule_.window), less(kp - qp, rule_.window)));
    return expand(seen, {rule_.has(kKeyLengths) || e_.batched ? e_.b : 1, e_.tq, e_.tk});
  }

 private:
  LazyTensor get(AttentionInput which) const {
    return to_type(in_[static_cast<std::size_t>(rule_.place(which, fixed_))], DType::i64);
  }
  static LazyTensor column(const LazyTensor& x) { return reshape(x, {1, x.dim(0), 1}); }
  static LazyTensor row(const LazyTensor& x) { return reshape(x, {1, 1, x.dim(0)}); }
  /// Number of the sequence each of n tokens belongs to.
  static LazyTensor sequence_of(const LazyTensor& offsets, std::int64_t n) {
    const LazyTensor ends = reshape(slice(offsets, 0, 1, offsets.dim(0)), {1, offsets.dim(0) - 1});
    return sum(cast(greater_equal(reshape(iota({n}, 0, DType::i64), {n, 1}), ends), DType::i64), {1});
  }

  std::span<const LazyTensor> in_;
  const AttentionRule& rule_;
  int fixed_;
  Sizes e_;
};

/// Everything as [b, hk, group, t, ..].
struct Dense {
  AttentionRule rule;
  Sizes e;
  LazyTensor q, k, v;
  LazyTensor scores;  // -inf where nothing is seen
  LazyTensor slope;   // d score / d (q·k·scale), where that is not 1

  Dense(std::span<const LazyTensor> inputs, const Attrs& attrs, int fixed) : rule(attrs), e(inputs) {
    q = by_head(inputs[0], e.tq, e.h);
    k = by_head(inputs[1], e.tk, e.hk);
    v = by_head(inputs[2], e.tk, e.hk);
    scores = matmul(q, transpose(k)) * rule.scale;
    if (rule.softcap > 0) {
      const LazyTensor t = tanh(scores / rule.softcap);
      slope = 1 - square(t);
      scores = t * rule.softcap;
    }
    if (rule.has(kBias)) {
      const LazyTensor& bias = inputs[static_cast<std::size_t>(rule.place(kBias, fixed))];
      const std::int64_t bb = e.batched ? bias.dim(0) : 1, bh = bias.dim(-3);
      scores =
          scores + (bh == 1 ? reshape(bias, {bb, 1, 1, e.tq, e.tk}) : reshape(bias, {bb, e.hk, e.group(), e.tq, e.tk}));
    }
    const LazyTensor seen = Places(inputs, rule, fixed).seen();
    scores = where(reshape(seen, {seen.dim(0), 1, 1, e.tq, e.tk}), scores, Scalar(kMinusInf));
  }

  LazyTensor by_head(const LazyTensor& x, std::int64_t t, std::int64_t heads) const {
    return permute(reshape(widened(x), {e.b, t, e.hk, heads == e.hk ? 1 : e.group(), x.dim(-1)}), {0, 2, 3, 1, 4});
  }
  LazyTensor from_head(const LazyTensor& x, const LazyTensor& like) const {
    return to_type(reshape(permute(x, {0, 3, 1, 2, 4}), like.shape().dims()), like.dtype());
  }
  /// [h, b·tq] to [b, hk, group, tq, 1] and back.
  LazyTensor by_row(const LazyTensor& x) const {
    return unsqueeze(permute(reshape(x, {e.hk, e.group(), e.b, e.tq}), {2, 0, 1, 3}), -1);
  }
  LazyTensor from_row(const LazyTensor& x) const {
    return reshape(permute(squeeze(x, -1), {1, 2, 0, 3}), {e.h, e.b * e.tq});
  }
};

bool nothing_to_do(std::span<const LazyTensor> in) {
  return in[0].numel() == 0 || in[1].numel() == 0 || in[2].numel() == 0;
}

Tensors decompose_attention(const OpCall& c) {
  const LazyTensor& q = c.inputs[0];
  const Sizes e(c.inputs);
  Shape shape = q.shape();
  shape[shape.rank() - 1] = e.dv;
  if (e.tk == 0 || e.b * e.tq * e.h == 0)
    return {zeros(shape, q.dtype()), full({e.h, e.b * e.tq}, kMinusInf, compute_type(q.dtype()))};
  const Dense x(c.inputs, c.attrs, kAttentionInputs);
  const LazyTensor top = stop_gradient(max(x.scores, {-1}, true));
  const LazyTensor shift = where(equal(top, kMinusInf), Scalar(0.0), top);
  const LazyTensor p = exp(x.scores - shift), total = sum(p, {-1}, true);
  const LazyTensor none = equal(total, 0.0), divisor = where(none, Scalar(1.0), total);
  const LazyTensor out = matmul(p / divisor, x.v);
  return {x.from_head(out, zeros(shape, q.dtype())), x.from_row(where(none, Scalar(kMinusInf), log(divisor) + shift))};
}

Tensors decompose_attention_grad(const OpCall& c) {
  const auto& in = c.inputs;
  const AttentionRule rule(c.attrs);
  const Sizes e(in);
  if (nothing_to_do(in)) {
    Tensors none = {zeros(in[0].shape(), in[0].dtype()), zeros(in[1].shape(), in[1].dtype()),
                    zeros(in[2].shape(), in[2].dtype())};
    if (rule.has(kBias))
      none.push_back(
          zeros(e.batched ? Shape{e.b, e.h, e.tq, e.tk} : Shape{e.h, e.tq, e.tk}, compute_type(in[0].dtype())));
    return none;
  }
  const Dense x(in, c.attrs, kAttentionGradInputs);
  const LazyTensor out = x.by_head(in[3], e.tq, e.h), dout = x.by_head(in[5], e.tq, e.h), lse = x.by_row(in[4]);
  const LazyTensor p = exp(x.scores - where(equal(lse, kMinusInf), Scalar(0.0), lse));
  LazyTensor delta = sum(dout * out, {-1}, true);
  if (rule.has(kLseGrad)) delta = delta - x.by_row(in.back());
  const LazyTensor ds = p * (matmul(dout, transpose(x.v)) - delta);
  const LazyTensor weights = (x.slope.defined() ? ds * x.slope : ds) * rule.scale;
  const auto per_key = [&](const LazyTensor& w, const LazyTensor& rows) {
    return sum(matmul(transpose(w), rows), {2}, true);
  };
  Tensors grads = {x.from_head(matmul(weights, x.k), in[0]), x.from_head(per_key(weights, x.q), in[1]),
                   x.from_head(per_key(p, dout), in[2])};
  if (rule.has(kBias))
    grads.push_back(e.batched ? reshape(ds, {e.b, e.h, e.tq, e.tk}) : reshape(ds, {e.h, e.tq, e.tk}));
  return grads;
}

// ---- gradient ------------------------------------------------------------------------------------------------------

Tensors attention_vjp(const VjpCall& c) {
  AttentionRule rule(c.attrs);
  Tensors in(c.inputs.begin(), c.inputs.begin() + kAttentionInputs);
  in.push_back(c.outputs[0]);
  in.push_back(c.outputs[1]);
  in.push_back(c.grads[0].defined() ? to_type(c.grads[0], c.outputs[0].dtype())
                                    : zeros(c.outputs[0].shape(), c.outputs[0].dtype()));
  in.insert(in.end(), c.inputs.begin() + kAttentionInputs, c.inputs.end());
  if (c.grads[1].defined()) {
    rule.inputs |= kLseGrad;
    in.push_back(to_type(c.grads[1], c.outputs[1].dtype()));
  }
  const Tensors made = record_all(attention_grad_def, in, rule.attrs());
  Tensors out(c.inputs.size());
  for (std::size_t i = 0; i < 3; ++i)
    if (c.needs[i]) out[i] = made[i];
  const int bias = rule.place(kBias, kAttentionInputs);
  if (bias < 0 || !c.needs[static_cast<std::size_t>(bias)]) return out;
  const Shape& shape = c.inputs[static_cast<std::size_t>(bias)].shape();
  Axes shared;
  for (int axis = 0; axis < shape.rank(); ++axis)
    if (shape[axis] == 1 && made[3].shape()[axis] != 1) shared.push_back(axis);
  out[static_cast<std::size_t>(bias)] = shared.empty() ? made[3] : sum(made[3], shared, true);
  return out;
}

// ---- samples -------------------------------------------------------------------------------------------------------

/// Scores, and what is added to them, are f32 or f64.
LazyTensor bias_like_scores(const LazyTensor& t) { return t.dtype() == DType::f64 ? t : cast(t, DType::f32); }

AttentionRule sample_rule(std::int64_t inputs, bool causal = true, std::int64_t window = 0, double softcap = 0) {
  AttentionRule rule(Attrs{0, 0, 0, 0, 0});
  rule.inputs = inputs;
  rule.causal = causal;
  rule.window = window;
  rule.scale = 0.35;
  rule.softcap = softcap;
  return rule;
}

LazyTensor integers(std::initializer_list<std::int32_t> values) {
  return LazyTensor::from_slice<std::int32_t>(std::span(values.begin(), values.size()),
                                              {static_cast<std::int64_t>(values.size())});
}

void sample_attention(SampleSink& s) {
  const auto qkv = [&](std::int64_t tq, std::int64_t tk) -> Tensors {
    return {s.normal({tq, 4, 8}), s.normal({tk, 2, 8}), s.normal({tk, 2, 6})};
  };
  const auto with = [](Tensors t, std::initializer_list<LazyTensor> more) {
    t.insert(t.end(), more);
    return t;
  };
  s.add(qkv(7, 7), sample_rule(0).attrs());
  s.add(qkv(5, 9), sample_rule(0, false).attrs());
  s.add(qkv(11, 11), sample_rule(0, true, 4, 2.0).attrs());
  s.add(with(qkv(5, 9), {bias_like_scores(s.normal({1, 5, 9}))}), sample_rule(kBias, false).attrs());
  s.add(with(qkv(9, 12), {integers({0, 4, 4, 9}), integers({0, 6, 8, 12}), integers({5, 1, 4})}),
        sample_rule(kQueryOffsets | kKeyOffsets | kKeyLengths).attrs());
  s.add({s.normal({2, 6, 2, 4}), s.normal({2, 6, 2, 4}), s.normal({2, 6, 2, 4}),
         bias_like_scores(s.normal({2, 2, 6, 6}))},
        sample_rule(kBias, true, 0, 1.5).attrs());
}

// out and lse are made by the op itself: any others would be no attention's.
void sample_attention_grad(SampleSink& s) {
  const auto add = [&](Tensors t, AttentionRule rule, const Tensors& optional = {}) {
    Tensors forward = t;
    forward.insert(forward.end(), optional.begin(), optional.end());
    const Tensors made = record_all(attention_def, forward, rule.attrs());
    t.insert(t.end(), made.begin(), made.end());
    t.push_back(s.normal(made[0].shape()));
    t.insert(t.end(), optional.begin(), optional.end());
    s.add(t, rule.attrs());
  };
  add({s.normal({7, 4, 8}), s.normal({7, 2, 8}), s.normal({7, 2, 6})}, sample_rule(0));
  add({s.normal({2, 5, 2, 4}), s.normal({2, 5, 2, 4}), s.normal({2, 5, 2, 4})}, sample_rule(kBias, true, 3, 2.0),
      {bias_like_scores(s.normal({1, 2, 5, 5}))});
}

}  // namespace

constinit const OpDef attention_def{.name = "attention",
                                    .kind = OpKind::kernel,
                                    .infer = infer_attention,
                                    .decompose = decompose_attention,
                                    .vjp = attention_vjp,
                                    .samples = sample_attention};
constinit const OpDef attention_grad_def{.name = "attention_grad",
                                         .kind = OpKind::kernel,
                                         .infer = infer_attention_grad,
                                         .decompose = decompose_attention_grad,
                                         .vjp = DecomposedGrad{},
                                         .samples = sample_attention_grad};

}  // namespace ops

namespace {

/// A bias as the op takes it: [.., h or 1, tq, tk] numbers, shorter ones broadcast; true in a mask means seen.
LazyTensor attention_bias(const LazyTensor& bias, const LazyTensor& q, const LazyTensor& k) {
  const DType dtype = ops::compute_type(q.dtype());
  LazyTensor b = bias;
  if (b.dtype() == DType::boolean) b = where(b, Scalar(0.0), full({}, ops::kMinusInf, dtype));
  b = ops::to_type(b, dtype);
  while (b.rank() < q.rank()) b = unsqueeze(b, 0);
  if (b.rank() != q.rank()) return b;  // the op will say what is wrong
  Shape shape = b.shape();
  const int r = shape.rank();
  if (shape[r - 2] == 1) shape[r - 2] = q.dim(-3);
  if (shape[r - 1] == 1) shape[r - 1] = k.dim(-3);
  return shape == b.shape() ? b : expand(b, shape);
}

}  // namespace

LazyTensor attention(const LazyTensor& q, const LazyTensor& k, const LazyTensor& v, const AttentionOptions& o) {
  Tensors given{q, k, v};
  for (const LazyTensor* t :
       {&o.query_offsets, &o.key_offsets, &o.key_lengths, &o.query_positions, &o.key_positions, &o.bias})
    if (t->defined()) given.push_back(*t);
  const CalledAs named("attention", given);
  Tensors in(given.begin(), given.begin() + ops::kAttentionInputs);
  ops::require_defined(ops::attention_def, in);
  const OpCall call{ops::attention_def, in, {}};
  if (o.window < 0 || o.softcap < 0 || !std::isfinite(o.softcap) || !std::isfinite(o.scale))
    fail_argument(call, "window and softcap must not be negative, scale and softcap finite");
  ops::check_operands(call);
  ops::AttentionRule rule(Attrs{0, o.causal, o.window, 0, 0});
  rule.scale = o.scale != 0 ? o.scale : 1 / std::sqrt(static_cast<double>(std::max<std::int64_t>(1, q.dim(-1))));
  rule.softcap = o.softcap;
  const auto add = [&](ops::AttentionInput which, const LazyTensor& x) {
    if (!x.defined()) return;
    rule.inputs |= which;
    in.push_back(x);
  };
  const auto positions = [&](const LazyTensor& p, const LazyTensor& of) {
    return p.defined() && q.rank() == 4 && p.rank() == 1 ? expand(unsqueeze(p, 0), {of.dim(0), p.dim(0)}) : p;
  };
  add(ops::kQueryOffsets, o.query_offsets);
  // Self-attention needs to say it only once.
  const bool said = o.key_offsets.defined() || !o.query_offsets.defined() || q.dim(0) != k.dim(0);
  add(ops::kKeyOffsets, said ? o.key_offsets : o.query_offsets);
  add(ops::kKeyLengths, o.key_lengths);
  add(ops::kQueryPositions, positions(o.query_positions, q));
  add(ops::kKeyPositions, positions(o.key_positions, k));
  if (o.bias.defined()) add(ops::kBias, attention_bias(o.bias, q, k));
  return record_all(ops::attention_def, in, rule.attrs())[0];
}

}  // namespace metal_candle
