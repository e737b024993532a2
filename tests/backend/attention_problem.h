// Problems for the attention kernels, and what must come out of them: a direct transcription of the definition in f64.
#pragma once

#include <cmath>
#include <random>

#include "backend/cpu/kernels/attention.h"
#include "kernel_harness.h"
#include "ops/attention.h"

namespace metal_candle::cpu::test {

using ops::AttentionRule;

struct Part {
  std::int64_t queries, slots, used;
};

struct Case {
  std::vector<Part> parts{{5, 5, 5}};
  bool batched = false;  // [b, t, h, d]; parts must be equal but for `used`
  std::int64_t heads = 2, key_heads = 1, d = 8, dv = 8;
  bool causal = true;
  std::int64_t window = 0;
  double softcap = 0, scale = 0.4;
  bool lengths = false, query_positions = false, key_positions = false;  // positions: a ring buffer's
  int bias_heads = 0;
  std::int64_t spare = 0;  // tokens behind the last sequence
  DType dtype = DType::f32;
  bool lse_grad = false;
  unsigned seed = 1;
};

/// A case's inputs, and what must come out.
struct Problem {
  Case c;
  std::vector<Array> inputs;  // q, k, v, optional
  AttentionRule rule{Attrs{0, 0, 0, 0, 0}};
  std::int64_t tq, tk;
  std::vector<std::int64_t> q0, k0;
  std::mt19937 random;

  Values normal(std::int64_t n) {
    std::normal_distribution<double> dist;
    Values v(static_cast<std::size_t>(n));
    for (double& x : v) x = dist(random);
    return v;
  }
  bool ragged() const { return !c.batched && (c.parts.size() > 1 || c.spare > 0); }
  Shape shape(std::int64_t tokens, std::int64_t h, std::int64_t d) const {
    if (!c.batched) return {tokens, h, d};
    const auto b = static_cast<std::int64_t>(c.parts.size());
    return {b, tokens / b, h, d};
  }

  explicit Problem(const Case& test) : c(test), random(test.seed) {
    q0 = k0 = {0};
    for (const Part& p : c.parts) {
      q0.push_back(q0.back() + p.queries);
      k0.push_back(k0.back() + p.slots);
    }
    tq = q0.back() + c.spare;
    tk = k0.back() + c.spare;
    inputs.emplace_back(c.dtype, shape(tq, c.heads, c.d), normal(tq * c.heads * c.d));
    inputs.emplace_back(c.dtype, shape(tk, c.key_heads, c.d), normal(tk * c.key_heads * c.d));
    inputs.emplace_back(c.dtype, shape(tk, c.key_heads, c.dv), normal(tk * c.key_heads * c.dv));
    std::int64_t mask = 0;
    const auto sequences = static_cast<std::int64_t>(c.parts.size());
    if (ragged()) {
      mask |= ops::kQueryOffsets | ops::kKeyOffsets;
      inputs.emplace_back(DType::i32, Shape{sequences + 1}, Values(q0.begin(), q0.end()));
      inputs.emplace_back(DType::i32, Shape{sequences + 1}, Values(k0.begin(), k0.end()));
    }
    if (c.lengths) {
      mask |= ops::kKeyLengths;
      Values used;
      for (const Part& p : c.parts) used.push_back(static_cast<double>(p.used));
      inputs.emplace_back(DType::i32, Shape{sequences}, used);
    }
    add_positions(mask);
    if (c.bias_heads) {
      mask |= ops::kBias;
      Shape s = c.batched ? Shape{1, c.bias_heads, tq / sequences, tk / sequences} : Shape{c.bias_heads, tq, tk};
      Values values = normal(s.numel());
      for (double& x : values)
        if (x > 1.3) x = -kInf;
      inputs.emplace_back(c.dtype == DType::f64 ? DType::f64 : DType::f32, s, values);
    }
    Attrs a{mask, c.causal, c.window};
    a.push(c.scale);
    a.push(c.softcap);
    rule = AttentionRule(a);
  }

  void add_positions(std::int64_t& mask) {
    const auto b = static_cast<std::int64_t>(c.parts.size());
    const auto add = [&](ops::AttentionInput bit, const Values& v) {
      mask |= bit;
      const auto n = static_cast<std::int64_t>(v.size());
      inputs.emplace_back(DType::i32, c.batched ? Shape{b, n / b} : Shape{n}, v);
    };
    Values q(static_cast<std::size_t>(tq), 7), k(static_cast<std::size_t>(tk), 7);
    for (std::size_t i = 0; i < c.parts.size(); ++i) {
      const Part& p = c.parts[i];
      for (std::int64_t j = 0; j < p.slots; ++j)  // written round and round: the newest are in the middle
        k[static_cast<std::size_t>(k0[i] + j)] =
            static_cast<double>(100 + (j + p.slots / 3) % std::max<std::int64_t>(1, p.slots));
      for (std::int64_t j = 0; j < p.queries; ++j)
        q[static_cast<std::size_t>(q0[i] + j)] =
            static_cast<double>(c.key_positions ? 100 + p.slots - p.queries + j : 3 * j);
    }
    if (c.query_positions) add(ops::kQueryPositions, q);
    if (c.key_positions) add(ops::kKeyPositions, k);
  }

  /// Score of a pair of a part, all conventions spelt out; -inf where not seen.
  double score(const std::vector<Values>& in, std::size_t part, std::int64_t h, std::int64_t i, std::int64_t j) const {
    const Part& p = c.parts[part];
    const std::int64_t used = c.lengths ? p.used : p.slots, row = q0[part] + i, key = k0[part] + j;
    if (j >= used) return -kInf;
    const auto b = static_cast<std::int64_t>(c.parts.size());
    std::int64_t qp = used - p.queries + i, kp = j;
    if (c.query_positions)
      qp = static_cast<std::int64_t>(inputs[static_cast<std::size_t>(rule.place(ops::kQueryPositions, 3))].get(row));
    if (c.key_positions)
      kp = static_cast<std::int64_t>(inputs[static_cast<std::size_t>(rule.place(ops::kKeyPositions, 3))].get(key));
    if (c.causal && kp > qp) return -kInf;
    if (c.window > 0 && (qp - kp >= c.window || kp - qp >= c.window)) return -kInf;
    double x = 0;
    for (std::int64_t e = 0; e < c.d; ++e)
      x += in[0][static_cast<std::size_t>((row * c.heads + h) * c.d + e)] *
           in[1][static_cast<std::size_t>((key * c.key_heads + h / (c.heads / c.key_heads)) * c.d + e)];
    x *= c.scale;
    if (c.softcap > 0) x = c.softcap * std::tanh(x / c.softcap);
    if (c.bias_heads) {
      const std::int64_t bh = c.bias_heads == 1 ? 0 : h;
      const std::int64_t at = c.batched ? (bh * (tq / b) + i) * (tk / b) + j : (bh * tq + row) * tk + key;
      x += in.back()[static_cast<std::size_t>(at)];
    }
    return x;
  }

  std::vector<Values> input_values() const {
    std::vector<Values> v;
    for (const Array& a : inputs) v.push_back(a.values());
    return v;
  }

  /// out [tq, h, dv] and lse [h, tq] by the definition.
  std::pair<Values, Values> expected(const std::vector<Values>& in) const {
    Values out(static_cast<std::size_t>(tq * c.heads * c.dv), 0.0), lse(static_cast<std::size_t>(c.heads * tq), -kInf);
    for (std::size_t part = 0; part < c.parts.size(); ++part)
      for (std::int64_t h = 0; h < c.heads; ++h)
        for (std::int64_t i = 0; i < c.parts[part].queries; ++i) {
          double top = -kInf, sum = 0;
          Values s;
          for (std::int64_t j = 0; j < c.parts[part].slots; ++j) s.push_back(score(in, part, h, i, j));
          for (double x : s) top = std::max(top, x);
          if (top == -kInf) continue;
          for (double& x : s) sum += x = std::exp(x - top);
          const std::int64_t row = q0[part] + i;
          lse[static_cast<std::size_t>(h * tq + row)] = top + std::log(sum);
          for (std::int64_t j = 0; j < c.parts[part].slots; ++j)
            for (std::int64_t e = 0; e < c.dv; ++e)
              out[static_cast<std::size_t>((row * c.heads + h) * c.dv + e)] +=
                  s[static_cast<std::size_t>(j)] / sum *
                  in[2]
                    [static_cast<std::size_t>(((k0[part] + j) * c.key_heads + h / (c.heads / c.key_heads)) * c.dv + e)];
        }
    return {out, lse};
  }

  std::vector<Array> forward(bool backwards = false) {
    std::vector<Array> out;
    out.emplace_back(c.dtype, shape(tq, c.heads, c.dv));
    out.emplace_back(c.dtype == DType::f64 ? DType::f64 : DType::f32, Shape{c.heads, tq});
    run_kernel(attention_kernel, inputs, out, rule.attrs(), backwards);
    return out;
  }

  /// dq, dk, dv [, dbias] for the given gradients of out and lse.
  std::vector<Array> backward(const Array& dout, const Array* dlse, bool backwards = false, unsigned skip = 0) {
    std::vector<Array> in(inputs.begin(), inputs.begin() + 3), made = forward(), out;
    in.insert(in.end(), made.begin(), made.end());
    in.push_back(dout);
    in.insert(in.end(), inputs.begin() + 3, inputs.end());
    AttentionRule r = rule;
    if (dlse) {
      r.inputs |= ops::kLseGrad;
      in.push_back(*dlse);
    }
    for (int i = 0; i < 3; ++i) out.emplace_back(c.dtype, inputs[static_cast<std::size_t>(i)].shape);
    if (c.bias_heads) {
      const auto b = static_cast<std::int64_t>(c.parts.size());
      out.emplace_back(in.back().dtype == DType::f64 ? DType::f64 : DType::f32,
                       c.batched ? Shape{b, c.heads, tq / b, tk / b} : Shape{c.heads, tq, tk});
    }
    run_kernel(attention_grad_kernel, in, out, r.attrs(), backwards, skip);
    return out;
  }
  Array random_dout() { return {c.dtype, shape(tq, c.heads, c.dv), normal(tq * c.heads * c.dv)}; }
  Array random_dlse() {
    return {c.dtype == DType::f64 ? DType::f64 : DType::f32, Shape{c.heads, tq}, normal(tq * c.heads)};
  }
};

/// Every kind of call: ragged, batched, grouped, windowed, biased, positions of a ring buffer, nothing to see.
inline std::vector<Case> cases() {
  std::vector<Case> all;
  const auto add = [&](Case c) {
    c.seed = static_cast<unsigned>(all.size() + 1);
    all.push_back(c);
  };
  add({});
  add({.parts = {{1, 1, 1}}, .heads = 1});
  add({.parts = {{7, 7, 7}}, .causal = false});
  add({.parts = {{70, 70, 70}}, .heads = 3, .d = 16, .dv = 16});
  add({.parts = {{130, 130, 130}}, .heads = 6, .key_heads = 2, .d = 20, .dv = 12});
  add({.parts = {{33, 200, 200}}, .heads = 3, .key_heads = 3, .d = 5, .dv = 3});
  add({.parts = {{9, 5, 5}}});  // more queries than keys: the first see nothing
  add({.parts = {{6, 0, 0}}});
  add({.parts = {{0, 6, 6}}});
  add({.parts = {{5, 5, 5}, {0, 3, 3}, {70, 90, 90}, {4, 0, 0}, {1, 129, 129}}, .heads = 4, .key_heads = 2});
  add({.parts = {{5, 9, 6}, {3, 70, 66}, {2, 4, 0}}, .lengths = true, .spare = 3});
  add({.parts = {{40, 100, 77}, {40, 100, 100}, {40, 100, 10}},
       .batched = true,
       .heads = 4,
       .key_heads = 2,
       .lengths = true});
  add({.parts = {{150, 150, 150}}, .window = 20});
  add({.parts = {{150, 150, 150}}, .window = 70, .softcap = 2});
  add({.parts = {{90, 90, 90}}, .causal = false, .window = 9});
  add({.parts = {{80, 80, 80}}, .softcap = 1.5});
  add({.parts = {{80, 80, 80}}, .bias_heads = 1});
  add({.parts = {{20, 80, 80}}, .causal = false, .softcap = 3, .bias_heads = 2});
  add({.parts = {{20, 30, 30}, {20, 30, 30}}, .batched = true, .bias_heads = 2});
  add({.parts = {{20, 30, 30}, {7, 9, 9}}, .bias_heads = 1});
  add({.parts = {{3, 150, 150}, {2, 10, 10}}, .query_positions = true, .key_positions = true});
  add({.parts = {{60, 150, 140}, {60, 150, 90}},
       .batched = true,
       .window = 25,
       .lengths = true,
       .query_positions = true,
       .key_positions = true});
  add({.parts = {{60, 150, 150}}, .query_positions = true});
  add({.parts = {{1, 300, 300}, {1, 65, 65}, {1, 64, 64}}, .heads = 8, .key_heads = 1, .d = 64, .dv = 64});
  add({.parts = {{5, 20, 20}}, .heads = 130, .key_heads = 1});
  add({.parts = {{80, 80, 80}}, .softcap = 1e4});  // far above the scores, whose digits stay
  return all;
}

}  // namespace metal_candle::cpu::test
