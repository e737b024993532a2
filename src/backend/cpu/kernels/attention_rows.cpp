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

/// By e^2|x| - 1, which keeps the digits of a small x: a cap multiplies what they lose.
HWY_INLINE V tanh(V x) {
  const Power e = power_of_two(hn::Mul(at_most(k(15.0f), hn::Abs(x)), k(2 * kLog2e)));
  const V y = hn::MulAdd(hn::Mul(e.p, e.f), e.whole, hn::Sub(e.whole, k(1.0f)));
  return hn::CopySign(hn::Div(y, hn::Add(y, k(2.0f))), x);
}

using D16 = hn::Rebind<std::uint16_t, D>;
constexpr D16 d16;

HWY_INLINE void store_bf16(hn::Vec<DU> rounded, std::uint16_t* p) {
  hn::StoreU(hn::DemoteTo(d16, hn::BitCast(di, rounded)), d16, p);
}

/// A row's scores in place of its products, -inf where they are not seen. What a block says of them is copied: stores to
/// rows would make the compiler read it again.
template <bool kCap, bool kMasked>
struct Scores {
  V scale, cap;
  const float* bias;
  const std::int32_t* positions;
  hn::Vec<DI> low, high;

  HWY_INLINE Scores(const ScoreBlock& b, int row)
      : scale(k(b.scale)),
        cap(k(b.cap)),
        bias(b.bias[row]),
        positions(b.key_positions),
        low(hn::Set(di, b.sight[row].low)),
        high(hn::Set(di, b.sight[row].high)) {}

  /// `slope` is d score / d (product·scale), where there is a cap.
  HWY_INLINE V at(int column, V product, V* slope = nullptr) const {
    V s = hn::Mul(product, scale);
    if constexpr (kCap) {
      const V t = tanh(s);
      if (slope) *slope = hn::NegMulAdd(t, t, k(1.0f));
      s = hn::Mul(t, cap);
    }
    if (bias) s = hn::MulAdd(hn::LoadU(d, bias + column), k(kLog2e), s);
    if constexpr (kMasked) {
      const auto position = hn::LoadU(di, positions + column);
      const auto outside = hn::Or(hn::Lt(position, low), hn::Gt(position, high));
      s = hn::IfThenElse(hn::RebindMask(d, outside), k(kMinusInf), s);
    }
    return s;
  }
};

/// Scores of a row from column `begin` to `end`, and the largest of them.
template <bool kCap, bool kMasked>
HWY_INLINE float scores_of(const ScoreBlock& b, int row, int begin, int end) {
  const Scores<kCap, kMasked> scores(b, row);
  float* const s = b.scores + row * kKeyBlock;
  V top = k(kMinusInf);
  for (int c = begin; c < end; c += kLanes) {
    const V x = scores.at(c, hn::LoadU(d, s + c));
    hn::StoreU(x, d, s + c);
    top = hn::Max(top, x);
  }
  return hn::GetLane(hn::MaxOfLanes(d, top));
}

/// exp2(score - maximum) of a row, added up; to `halves`, if kHalves.
template <bool kHalves>
HWY_INLINE void powers_of(float* s, std::uint16_t* halves, int begin, int end, V maximum, V factor, float* sum) {
  for (int part = 0; part < kSums; part += kLanes) {
    V total = hn::Zero(d);
    for (int c = begin + part; c < end; c += kSums) {
      const V p = exp2(hn::Sub(hn::LoadU(d, s + c), maximum));
      if constexpr (kHalves) store_bf16(round_bf16(p), halves + c);
      else hn::StoreU(p, d, s + c);
      total = hn::Add(total, p);
    }
    hn::StoreU(hn::MulAdd(hn::LoadU(d, sum + part), factor, total), d, sum + part);
  }
}

template <bool kCap, bool kMasked>
bool softmax(const ScoreBlock& b, float* maximum, float* sums, float* factor) {
  const int rows = b.rows, begin = b.begin, end = b.end;
  float* const s = b.scores;
  std::uint16_t* const halves = b.halves;
  alignas(64) float before[kSums] = {}, after[kSums] = {};
  for (int r = 0; r < rows; ++r) {
    before[r] = maximum[r];
    maximum[r] = std::max(maximum[r], scores_of<kCap, kMasked>(b, r, begin, end));
    after[r] = maximum[r] == kMinusInf ? 0 : maximum[r];  // a row that has seen nothing: exp2(-inf - 0) = 0
  }
  alignas(64) float ratio[kSums];
  for (int c = 0; c < kSums; c += kLanes)
    hn::Store(exp2(hn::Sub(hn::Load(d, before + c), hn::Load(d, after + c))), d, ratio + c);
  bool rescale = false;
  for (int r = 0; r < rows; ++r) {
    factor[r] = ratio[r];
    rescale |= ratio[r] != 1;
    const std::int64_t row = r * kKeyBlock;
    if (halves) powers_of<true>(s + row, halves + row, begin, end, k(after[r]), k(ratio[r]), sums + r * kSums);
    else powers_of<false>(s + row, nullptr, begin, end, k(after[r]), k(ratio[r]), sums + r * kSums);
  }
  return rescale;
}

bool softmax_any(const ScoreBlock& b, float* maximum, float* sums, float* factor) {
  if (b.cap != 0)
    return b.masked ? softmax<true, true>(b, maximum, sums, factor) : softmax<true, false>(b, maximum, sums, factor);
  return b.masked ? softmax<false, true>(b, maximum, sums, factor) : softmax<false, false>(b, maximum, sums, factor);
}

template <bool kCap, bool kMasked>
void softmax_grad(const ScoreBlock& b, float* gradients, const float* lse, const float* delta, float* raw) {
  const int rows = b.rows, begin = b.begin, end = b.end;
  for (int r = 0; r < rows; ++r) {
    const Scores<kCap, kMasked> scores(b, r);
    const std::int64_t row = r * kKeyBlock;
    float *const s = b.scores + row, *const gradient = gradients + row, *const to = raw ? raw + row : nullptr;
    const V l = k(lse[r] == kMinusInf ? -kMinusInf : lse[r]), shift = k(delta[r]);  // nothing seen: p = 0
    for (int c = begin; c < end; c += kLanes) {
      V slope = k(1.0f);
      const V score = scores.at(c, hn::LoadU(d, s + c), &slope);
      // Scores are summed in another order than forward: where they are large, one could come out above its row's lse.
      const V p = exp2(at_most(hn::Zero(d), hn::Sub(score, l)));
      V g = hn::Mul(p, hn::Sub(hn::LoadU(d, gradient + c), shift));
      if constexpr (kMasked) g = hn::IfThenZeroElse(hn::Eq(p, hn::Zero(d)), g);  // no key: its product is anything
      if (to) hn::StoreU(g, d, to + c);
      if constexpr (kCap) g = hn::Mul(g, slope);
      hn::StoreU(p, d, s + c);
      hn::StoreU(g, d, gradient + c);
    }
  }
}

void softmax_grad_any(const ScoreBlock& b, float* gradients, const float* lse, const float* delta, float* raw) {
  if (b.cap != 0)
    return b.masked ? softmax_grad<true, true>(b, gradients, lse, delta, raw)
                    : softmax_grad<true, false>(b, gradients, lse, delta, raw);
  b.masked ? softmax_grad<false, true>(b, gradients, lse, delta, raw)
           : softmax_grad<false, false>(b, gradients, lse, delta, raw);
}

/// 16 sums become 8, 4, 2, 1 by adding halves, however long vectors are.
void totals(const float* sums, std::int64_t rows, float* totals) {
  alignas(64) float folded[kSums];
  for (std::int64_t r = 0; r < rows; ++r, sums += kSums) {
    std::copy(sums, sums + kSums, folded);
    for (int half = kSums / 2; half > 0; half /= 2)
      for (int i = 0; i < half; ++i) folded[i] += folded[i + half];
    totals[r] = folded[0];
  }
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
  static constexpr RowKernels kernels{softmax_any, softmax_grad_any, totals, scale_rows, transpose,
                                      load,        pair_rows,        halve,  dot};
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
