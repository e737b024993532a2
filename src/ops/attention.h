// How a recorded attention is laid out, for the op's definition and for the kernels that compute it.
//
//   attention(q, k, v, optional...) -> out, lse
//   attention_grad(q, k, v, out, lse, dout, optional...) -> dq, dk, dv [, dbias [.., h, tq, tk] where there is a bias]
//
// q [tq, h, d], k [tk, hk, d], v [tk, hk, dv]: one sequence, or several packed ones cut by offsets; or q [b, tq, h, d]
// and so on: b equally long sequences, never with offsets. out is [.., tq, h, dv] like q, lse is [h, all queries] f32
// (f64 for f64): the log of the sum of exponentials, -inf where nothing is seen. The optional inputs follow in the
// order of their bits.
#pragma once

#include <bit>
#include <cstdint>

#include "metal_candle/op_def.hpp"

namespace metal_candle::ops {

enum AttentionInput : std::int64_t {
  kQueryOffsets = 1,    // [s + 1]
  kKeyOffsets = 2,      // [s + 1]; present exactly when kQueryOffsets is
  kKeyLengths = 4,      // [s]
  kQueryPositions = 8,  // [tq] or [b, tq]
  kKeyPositions = 16,   // [tk] or [b, tk]
  kBias = 32,           // [h or 1, tq, tk] or [b or 1, h or 1, tq, tk], f32 (f64 for f64)
  kLseGrad = 64,        // of attention_grad only: like lse
};

/// Attributes {inputs, causal, window, scale, softcap}, the last two reals.
struct AttentionRule {
  std::int64_t inputs;
  bool causal;
  std::int64_t window;
  double scale, softcap;

  explicit AttentionRule(const Attrs& a)
      : inputs(a[0]), causal(a[1] != 0), window(a[2]), scale(a.real(3)), softcap(a.real(4)) {}
  Attrs attrs() const {
    Attrs a{inputs, causal, window};
    a.push(scale);
    a.push(softcap);
    return a;
  }
  bool has(AttentionInput which) const { return (inputs & which) != 0; }
  /// Place among the inputs, of which the first `fixed` are always there; -1: absent.
  int place(AttentionInput which, int fixed) const {
    if (!has(which)) return -1;
    return fixed + std::popcount(static_cast<std::uint64_t>(inputs & (which - 1)));
  }
};
inline constexpr int kAttentionInputs = 3, kAttentionGradInputs = 6;

}  // namespace metal_candle::ops
