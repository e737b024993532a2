#include "backend/cpu/kernels/attention_rows.h"

#include <cstring>

#include "backend/cpu/kernels/attention_product.h"
#include "backend/cpu/vm/native_bf16.h"
#include "backend/cpu/vm/targets.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "backend/cpu/kernels/attention_rows.cpp"
#include <hwy/foreach_target.h>

#include <hwy/highway.h>

HWY_BEFORE_NAMESPACE();
namespace metal_candle::cpu::attention::HWY_NAMESPACE {
namespace {
namespace hn = hwy::HWY_NAMESPACE;

#include "backend/cpu/kernels/vectors-inl.h"

HWY_INLINE V tanh(V x) {
  const V limited = hn::Max(k(-15.0f), hn::Min(k(15.0f), x));
  const V e = exp2(hn::Mul(limited, k(2 * kLog2e)));
  const V y = hn::Sub(k(1.0f), hn::Div(k(2.0f), hn::Add(e, k(1.0f))));
  return hn::IfThenElse(hn::Ne(x, x), x, y);
}

using D16 = hn::Rebind<std::uint16_t, D>;
constexpr D16 d16;

HWY_INLINE void store_bf16(hn::Vec<DU> rounded, std::uint16_t* p) {
  hn::StoreU(hn::DemoteTo(d16, hn::BitCast(di, rounded)), d16, p);
}

/// The score in place of its product, -inf where it is not seen; `slope` is d score / d (product·scale).
template <bool kCap, bool kSlope>
HWY_INLINE V score(const ScoreBlock& b, int row, int column, V* slope) {
  V s = hn::Mul(hn::LoadU(d, b.scores + row * kKeyBlock + column), k(b.scale));
  if constexpr (kCap) {
    const V t = tanh(s);
    if constexpr (kSlope) *slope = hn::NegMulAdd(t, t, k(1.0f));
    s = hn::Mul(t, k(b.cap));
  }
  if (b.bias[row]) s = hn::MulAdd(hn::LoadU(d, b.bias[row] + column), k(kLog2e), s);
  if (b.masked) {
    const auto position = hn::LoadU(di, b.key_positions + column);
    const auto outside =
        hn::Or(hn::Lt(position, hn::Set(di, b.sight[row].low)), hn::Gt(position, hn::Set(di, b.sight[row].high)));
    s = hn::IfThenElse(hn::RebindMask(d, outside), k(kMinusInf), s);
  }
  return s;
}

template <bool kCap>
bool softmax(const ScoreBlock& b, float* maximum, float* sums, float* factor) {
  alignas(64) float before[kSums] = {}, after[kSums] = {};
  for (int r = 0; r < b.rows; ++r) {
    V top = k(kMinusInf);
    float* s = b.scores + r * kKeyBlock;
    for (int c = b.begin; c < b.end; c += kLanes) {
      const V x = score<kCap, false>(b, r, c, nullptr);
      hn::StoreU(x, d, s + c);
      top = hn::Max(top, x);
    }
    before[r] = maximum[r];
    maximum[r] = std::max(maximum[r], hn::GetLane(hn::MaxOfLanes(d, top)));
    after[r] = maximum[r] == kMinusInf ? 0 : maximum[r];  // a row that has seen nothing: exp2(-inf - 0) = 0
  }
  alignas(64) float ratio[kSums];
  for (int c = 0; c < kSums; c += kLanes)
    hn::Store(exp2(hn::Sub(hn::Load(d, before + c), hn::Load(d, after + c))), d, ratio + c);
  bool rescale = false;
  for (int r = 0; r < b.rows; ++r) {
    float *s = b.scores + r * kKeyBlock, *sum = sums + r * kSums;
    factor[r] = ratio[r];
    rescale |= ratio[r] != 1;
    const V m = k(after[r]), f = k(ratio[r]);
    for (int part = 0; part < kSums; part += kLanes) {
      V total = hn::Mul(hn::LoadU(d, sum + part), f);
      for (int c = b.begin + part; c < b.end; c += kSums) {
        const V p = exp2(hn::Sub(hn::LoadU(d, s + c), m));
        if (b.halves) store_bf16(round_bf16(p), b.halves + r * kKeyBlock + c);
        else hn::StoreU(p, d, s + c);
        total = hn::Add(total, p);
      }
      hn::StoreU(total, d, sum + part);
    }
  }
  return rescale;
}

bool softmax_any(const ScoreBlock& b, float* maximum, float* sums, float* factor) {
  return b.cap != 0 ? softmax<true>(b, maximum, sums, factor) : softmax<false>(b, maximum, sums, factor);
}

template <bool kCap>
void softmax_grad(const ScoreBlock& b, float* gradients, const float* lse, const float* delta, float* raw) {
  for (int r = 0; r < b.rows; ++r) {
    const V l = k(lse[r] == kMinusInf ? -kMinusInf : lse[r]), shift = k(delta[r]);  // nothing seen: p = 0
    for (int c = b.begin; c < b.end; c += kLanes) {
      const auto at = r * kKeyBlock + c;
      V slope = k(1.0f);
      // Scores are summed in another order than forward: where they are large, one could come out above its row's lse.
      const V p = exp2(hn::Min(hn::Zero(d), hn::Sub(score<kCap, true>(b, r, c, &slope), l)));  // NaN stays
      V g = hn::Mul(p, hn::Sub(hn::LoadU(d, gradients + at), shift));
      if (b.masked) g = hn::IfThenZeroElse(hn::Eq(p, hn::Zero(d)), g);  // no key: its product is anything
      if (raw) hn::StoreU(g, d, raw + at);
      if constexpr (kCap) g = hn::Mul(g, slope);
      hn::StoreU(p, d, b.scores + at);
      hn::StoreU(g, d, gradients + at);
    }
  }
}

void softmax_grad_any(const ScoreBlock& b, float* gradients, const float* lse, const float* delta, float* raw) {
  b.cap != 0 ? softmax_grad<true>(b, gradients, lse, delta, raw) : softmax_grad<false>(b, gradients, lse, delta, raw);
}

void scale_rows(float* data, std::int64_t width, std::int64_t rows, const float* factor) {
  for (std::int64_t r = 0; r < rows; ++r) {
    const V f = k(factor[r]);
    for (std::int64_t c = 0; c < width; c += kLanes)
      hn::StoreU(hn::Mul(hn::LoadU(d, data + r * width + c), f), d, data + r * width + c);
  }
}

#if HWY_TARGET != HWY_SCALAR
/// Four floats from each of the rows r, r + 4, r + 8 ..: one per 128-bit block. `at` gives a row's address.
template <class At>
HWY_INLINE V load_blocks(At at, int r) {
  const hn::Full128<float> d4;
#if HWY_MAX_BYTES == 64
  const hn::Half<D> d8;
  return hn::Combine(d, hn::Combine(d8, hn::LoadU(d4, at(r + 12)), hn::LoadU(d4, at(r + 8))),
                     hn::Combine(d8, hn::LoadU(d4, at(r + 4)), hn::LoadU(d4, at(r))));
#elif HWY_MAX_BYTES == 32
  return hn::Combine(d, hn::LoadU(d4, at(r + 4)), hn::LoadU(d4, at(r)));
#else
  return hn::LoadU(d4, at(r));  // a vector is one block
#endif
}

/// kLanes rows × 4 columns: a 4 × 4 transposition in each block. `keep` is done to what is stored.
template <class At, class Keep>
HWY_INLINE void transpose_strip(At at, float* target, std::int64_t target_stride, Keep keep) {
  const hn::Repartition<double, D> dd;
  const V r0 = load_blocks(at, 0), r1 = load_blocks(at, 1), r2 = load_blocks(at, 2), r3 = load_blocks(at, 3);
  const auto a = hn::BitCast(dd, hn::InterleaveLower(d, r0, r1)), b = hn::BitCast(dd, hn::InterleaveLower(d, r2, r3));
  const auto e = hn::BitCast(dd, hn::InterleaveUpper(d, r0, r1)), f = hn::BitCast(dd, hn::InterleaveUpper(d, r2, r3));
  hn::StoreU(keep(hn::BitCast(d, hn::InterleaveLower(dd, a, b))), d, target);
  hn::StoreU(keep(hn::BitCast(d, hn::InterleaveUpper(dd, a, b))), d, target + target_stride);
  hn::StoreU(keep(hn::BitCast(d, hn::InterleaveLower(dd, e, f))), d, target + 2 * target_stride);
  hn::StoreU(keep(hn::BitCast(d, hn::InterleaveUpper(dd, e, f))), d, target + 3 * target_stride);
}
#endif

void transpose(const float* source, std::int64_t stride, std::int64_t n, std::int64_t width, float* target,
               std::int64_t target_stride, std::int64_t padded) {
  std::int64_t j = 0;
#if HWY_TARGET != HWY_SCALAR
  for (; j + kLanes <= n; j += kLanes)
    for (std::int64_t c = 0; c < width; c += 4)
      transpose_strip([=](int r) HWY_ATTR { return source + (j + r) * stride + c; }, target + c * target_stride + j,
                      target_stride, [](V v) HWY_ATTR { return v; });
  if (j < n && j + kLanes <= padded) {  // the last rows: what is missing is read from the last one, and made zero
    const int last = static_cast<int>(n - j) - 1;
    const auto there = hn::FirstN(d, static_cast<std::size_t>(n - j));
    for (std::int64_t c = 0; c < width; c += 4)
      transpose_strip([=](int r) HWY_ATTR { return source + (j + std::min(r, last)) * stride + c; },
                      target + c * target_stride + j, target_stride,
                      [there](V v) HWY_ATTR { return hn::IfThenElseZero(there, v); });
    j += kLanes;
  }
#endif
  if (j >= padded) return;
  for (std::int64_t c = 0; c < width; ++c) {
    for (std::int64_t i = j; i < n; ++i) target[c * target_stride + i] = source[i * stride + c];
    for (std::int64_t i = std::max(j, n); i < padded; ++i) target[c * target_stride + i] = 0;
  }
}

template <class T, class Read>
void load_as(const T* source, std::int64_t stride, std::int64_t n, std::int64_t d_, float* target, std::int64_t width,
             Read read) {
  const std::int64_t whole = d_ / kLanes * kLanes;
  for (std::int64_t i = 0; i < n; ++i, source += stride, target += width) {
    for (std::int64_t c = 0; c < whole; c += kLanes) hn::StoreU(read(source + c), d, target + c);
    if (whole == width) continue;
    T last[kLanes] = {};
    for (std::int64_t c = whole; c < d_; ++c) last[c - whole] = source[c];
    std::fill(target + whole, target + width, 0.0f);
    if (whole < d_) hn::StoreU(read(last), d, target + whole);
  }
}

void load(const void* source, DType dtype, std::int64_t stride, std::int64_t n, std::int64_t d_, float* target,
          std::int64_t width) {
  if (dtype == DType::f32) {
    load_as(static_cast<const float*>(source), stride, n, d_, target, width,
            [](const float* p) HWY_ATTR { return hn::LoadU(d, p); });
  } else if (dtype == DType::bf16) {
    const hn::Rebind<hwy::bfloat16_t, D> narrow;
    load_as(static_cast<const hwy::bfloat16_t*>(source), stride, n, d_, target, width,
            [narrow](const hwy::bfloat16_t* p) HWY_ATTR { return hn::PromoteTo(d, hn::LoadU(narrow, p)); });
  } else {
    const hn::Rebind<hwy::float16_t, D> narrow;
    load_as(static_cast<const hwy::float16_t*>(source), stride, n, d_, target, width,
            [narrow](const hwy::float16_t* p) HWY_ATTR { return hn::PromoteTo(d, hn::LoadU(narrow, p)); });
  }
}

void pair_rows(const std::uint16_t* source, std::int64_t stride, std::int64_t n, std::int64_t width, float* target) {
#if HWY_TARGET == HWY_AVX3
  if (multiplies_pairs()) return vm::pair_native(source, stride, n, width, target);
#endif
  for (std::int64_t i = 0; i < n; i += 2, source += 2 * stride, target += width) {
    for (std::int64_t c = 0; c < width; c += kLanes) {
      auto pair = hn::PromoteTo(du, hn::LoadU(d16, source + c));
      if (i + 1 < n) pair = hn::Or(pair, hn::ShiftLeft<16>(hn::PromoteTo(du, hn::LoadU(d16, source + stride + c))));
      hn::StoreU(hn::BitCast(d, pair), d, target + c);
    }
  }
}

void halve(const float* source, std::int64_t n, std::uint16_t* rows, float* pairs) {
#if HWY_TARGET == HWY_AVX3
  if (multiplies_pairs()) return vm::halve_native(source, n, kKeyBlock, kKeyBlock, rows, pairs);
#endif
  for (std::int64_t i = 0; i < n; i += 2, source += 2 * kKeyBlock) {
    for (std::int64_t c = 0; c < kKeyBlock; c += kLanes) {
      const auto low = round_bf16(hn::LoadU(d, source + c));
      const auto high = i + 1 < n ? round_bf16(hn::LoadU(d, source + kKeyBlock + c)) : hn::Zero(du);
      if (rows) {
        store_bf16(low, rows + i * kKeyBlock + c);
        if (i + 1 < n) store_bf16(high, rows + (i + 1) * kKeyBlock + c);
      }
      if (pairs) hn::StoreU(hn::BitCast(d, hn::Or(low, hn::ShiftLeft<16>(high))), d, pairs + i / 2 * kKeyBlock + c);
    }
  }
}

float dot(const float* a, const float* b, std::int64_t n) {
  alignas(64) float sums[kSums];
  for (int c = 0; c < kSums; c += kLanes) {
    V sum = hn::Zero(d);
    for (std::int64_t i = c; i < n; i += kSums) sum = hn::MulAdd(hn::LoadU(d, a + i), hn::LoadU(d, b + i), sum);
    hn::Store(sum, d, sums + c);
  }
  float total = 0;
  for (float s : sums) total += s;
  return total;
}

}  // namespace

const RowKernels* table() {
  static constexpr RowKernels kernels{softmax_any, softmax_grad_any, scale_rows, transpose,
                                      load,        pair_rows,        halve,      dot};
  return &kernels;
}

}  // namespace metal_candle::cpu::attention::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace metal_candle::cpu::attention {
HWY_EXPORT(table);
const RowKernels& row_kernels() {
  static const RowKernels& kernels = *HWY_DYNAMIC_DISPATCH(table)();
  return kernels;
}
}  // namespace metal_candle::cpu::attention
#endif
