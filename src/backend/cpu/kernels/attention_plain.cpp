#include "backend/cpu/kernels/attention_plain.h"

#include <cmath>

namespace metal_candle::cpu::attention {
namespace {

constexpr double kMinusInf = -std::numeric_limits<double>::infinity();

struct Vector {
  const char* data;
  std::int64_t step;
  double operator[](std::int64_t i) const { return reinterpret_cast<const double*>(data)[i * step]; }
};

struct Head {
  const Problem& p;
  const Sequence& s;
  std::int64_t key_head, head;

  Vector query(const Operand& o, std::int64_t i) const { return {o.at(s.index, s.first_query + i, head), o.component}; }
  Vector key(const Operand& o, std::int64_t j) const { return {o.at(s.index, s.first_key + j, key_head), o.component}; }
  bool sees(const Sight& sight, std::int64_t j) const {
    const auto position = p.key_position(s, j);
    return position >= sight.low && position <= sight.high;
  }
  /// -inf where not seen; `slope` is d score / d (q·k).
  double score(std::int64_t i, const Sight& sight, std::int64_t j, double* slope) const {
    *slope = 0;
    if (!sees(sight, j)) return kMinusInf;
    const Vector a = query(p.q, i), b = key(p.k, j);
    double x = 0;
    for (std::int64_t c = 0; c < p.d; ++c) x += a[c] * b[c];
    x *= p.rule.scale;
    *slope = p.rule.scale;
    if (p.rule.softcap > 0) {
      const double t = std::tanh(x / p.rule.softcap);
      *slope *= 1 - t * t;
      x = p.rule.softcap * t;
    }
    if (p.bias) {
      std::int64_t stride;
      x += reinterpret_cast<const double*>(p.bias_row(s, head, i, &stride))[j * stride];
    }
    return x;
  }
};

}  // namespace

void plain_forward(const KernelCall& call, const Problem& p, const Tile& tile, std::int64_t key_head) {
  const Sequence& s = tile.sequence;
  for (std::int64_t i = tile.begin; i < tile.end; ++i)
    for (std::int64_t g = 0; g < p.group; ++g) {
      const Head h{p, s, key_head, key_head * p.group + g};
      const Sight sight = p.sight(s, i);
      const std::int64_t row = s.query_row + i;
      double* out =
          call.outputs[0].as<double>() ? call.outputs[0].as<double>() + (row * p.heads + h.head) * p.dv : nullptr;
      double top = kMinusInf, sum = 0, slope;
      for (std::int64_t j = 0; j < s.keys; ++j) top = std::max(top, h.score(i, sight, j, &slope));
      if (out) std::fill(out, out + p.dv, 0.0);
      for (std::int64_t j = 0; j < s.keys && top > kMinusInf; ++j) {
        const double e = std::exp(h.score(i, sight, j, &slope) - top);
        sum += e;
        const Vector v = h.key(p.v, j);
        for (std::int64_t c = 0; out && e > 0 && c < p.dv; ++c) out[c] += e * v[c];
      }
      for (std::int64_t c = 0; out && sum > 0 && c < p.dv; ++c) out[c] /= sum;
      if (call.outputs[1].data)
        call.outputs[1].as<double>()[h.head * p.queries + row] = sum > 0 ? top + std::log(sum) : kMinusInf;
    }
}

void plain_backward(const KernelCall& call, const Problem& p, const Sequence& s, std::int64_t key_head) {
  const Operand out = operand(call.inputs[3]), dout = operand(call.inputs[5]);
  const auto output = [&](int i, std::int64_t at) -> double* {
    auto* data = call.outputs[static_cast<std::size_t>(i)].as<double>();
    return data ? data + at : nullptr;
  };
  const auto of_row = [](const KernelTensor& t, std::int64_t head, std::int64_t row) {
    return t.as<const double>()[head * t.strides[0] + row * t.strides[1]];
  };
  for (std::int64_t j = 0; j < s.key_slots; ++j) {
    if (double* dk = output(1, ((s.key_row + j) * p.key_heads + key_head) * p.d)) std::fill(dk, dk + p.d, 0.0);
    if (double* dv = output(2, ((s.key_row + j) * p.key_heads + key_head) * p.dv)) std::fill(dv, dv + p.dv, 0.0);
  }
  for (std::int64_t g = 0; g < p.group; ++g)
    for (std::int64_t i = 0; i < s.queries; ++i) {
      const Head h{p, s, key_head, key_head * p.group + g};
      const Sight sight = p.sight(s, i);
      const std::int64_t row = s.query_row + i;
      const Vector o = h.query(out, i), g_out = h.query(dout, i);
      double* dq = output(0, (row * p.heads + h.head) * p.d);
      if (dq) std::fill(dq, dq + p.d, 0.0);
      double delta = 0, slope;
      for (std::int64_t c = 0; c < p.dv; ++c) delta += o[c] * g_out[c];
      if (p.lse_grad) delta -= of_row(*p.lse_grad, h.head, row);
      const Vector q = h.query(p.q, i);
      for (std::int64_t j = 0; j < s.keys; ++j) {
        const double x = h.score(i, sight, j, &slope);
        if (x == kMinusInf) continue;
        const double prob = std::exp(x - of_row(call.inputs[4], h.head, row));
        const Vector k = h.key(p.k, j), v = h.key(p.v, j);
        double dp = 0;
        for (std::int64_t c = 0; c < p.dv; ++c) dp += g_out[c] * v[c];
        const double ds = prob * (dp - delta);
        double* dk = output(1, ((s.key_row + j) * p.key_heads + key_head) * p.d);
        double* dv = output(2, ((s.key_row + j) * p.key_heads + key_head) * p.dv);
        for (std::int64_t c = 0; dq && c < p.d; ++c) dq[c] += ds * slope * k[c];
        for (std::int64_t c = 0; dk && c < p.d; ++c) dk[c] += ds * slope * q[c];
        for (std::int64_t c = 0; dv && c < p.dv; ++c) dv[c] += prob * g_out[c];
        if (p.bias && call.outputs[3].data) output(3, p.bias_grad_at(s, h.head, i))[j] = ds;
      }
    }
}

}  // namespace metal_candle::cpu::attention
