#include "backend/cpu/kernels/linear_cross_entropy_columns.h"

#include <limits>

#include "backend/cpu/kernels/attention_product.h"
#include "backend/cpu/vm/native_bf16.h"
#include "backend/cpu/vm/targets.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "backend/cpu/kernels/linear_cross_entropy_columns.cpp"
#include <hwy/foreach_target.h>

#include <hwy/highway.h>

HWY_BEFORE_NAMESPACE();
namespace metal_candle::cpu::cross_entropy::HWY_NAMESPACE {
namespace {
namespace hn = hwy::HWY_NAMESPACE;

#include "backend/cpu/kernels/vectors-inl.h"

/// kVectors vectors of columns, whose chains hide each other's latency.
template <int kVectors>
HWY_INLINE void softmax_vectors(const Logits& l, std::int64_t column, float* maximum, float* sums, float* factor) {
  float* const at = l.data + column;
  V top[kVectors], sum[kVectors];
  for (int v = 0; v < kVectors; ++v) top[v] = k(kMinusInf), sum[v] = hn::Zero(d);
  for (std::int64_t j = 0; j < l.classes; ++j)
    for (int v = 0; v < kVectors; ++v) top[v] = hn::Max(top[v], hn::LoadU(d, at + j * l.line + v * kLanes));
  for (int v = 0; v < kVectors; ++v) {
    float* const m = maximum + column + v * kLanes;
    const V before = hn::LoadU(d, m), now = hn::Max(before, hn::Mul(top[v], k(kLog2e)));
    hn::StoreU(now, d, m);
    top[v] = hn::IfThenElse(hn::Eq(now, k(kMinusInf)), hn::Zero(d), now);  // nothing but -inf: 2^(-inf - 0) = 0
    hn::StoreU(exp2(hn::Sub(before, top[v])), d, factor + column + v * kLanes);
  }
  for (std::int64_t j = 0; j < l.classes; ++j)
    for (int v = 0; v < kVectors; ++v) {
      float* const p = at + j * l.line + v * kLanes;
      const V e = exp2(hn::Sub(hn::Mul(hn::LoadU(d, p), k(kLog2e)), top[v]));
      hn::StoreU(e, d, p);
      sum[v] = hn::Add(sum[v], e);
    }
  for (int v = 0; v < kVectors; ++v) {
    float* const s = sums + column + v * kLanes;
    hn::StoreU(hn::MulAdd(hn::LoadU(d, s), hn::LoadU(d, factor + column + v * kLanes), sum[v]), d, s);
  }
}

void softmax(const Logits& l, float* maximum, float* sums, float* factor) {
  std::int64_t column = 0;
  for (; column + 2 * kLanes <= l.columns; column += 2 * kLanes) softmax_vectors<2>(l, column, maximum, sums, factor);
  for (; column < l.columns; column += kLanes) softmax_vectors<1>(l, column, maximum, sums, factor);
}

void pair(const Logits& l, float* pairs) {
#if HWY_TARGET == HWY_AVX3
  if (attention::multiplies_pairs()) return vm::halve_native(l.data, l.classes, l.columns, l.line, nullptr, pairs);
#endif
  for (std::int64_t j = 0; j < l.classes; j += 2)
    for (std::int64_t c = 0; c < l.columns; c += kLanes) {
      const float* const p = l.data + j * l.line + c;
      const auto low = round_bf16(hn::LoadU(d, p));
      const auto high = j + 1 < l.classes ? round_bf16(hn::LoadU(d, p + l.line)) : hn::Zero(du);
      hn::StoreU(hn::BitCast(d, hn::Or(low, hn::ShiftLeft<16>(high))), d, pairs + j / 2 * l.line + c);
    }
}

}  // namespace

const ColumnKernels* table() {
  static constexpr ColumnKernels kernels{softmax, pair};
  return &kernels;
}

}  // namespace metal_candle::cpu::cross_entropy::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace metal_candle::cpu::cross_entropy {
HWY_EXPORT(table);
const ColumnKernels& column_kernels() {
  static const ColumnKernels& kernels = *HWY_DYNAMIC_DISPATCH(table)();
  return kernels;
}
}  // namespace metal_candle::cpu::cross_entropy
#endif
