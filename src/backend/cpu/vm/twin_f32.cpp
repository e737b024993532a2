// Two results of one operand in one pass: silu(x) · c and silu'(x) · (b · d), the two gradients of a gated layer, or its
// result and one of them. One exponential serves both. The same lane functions as one by one, hence the
// same bits.
#include "backend/cpu/vm/targets.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "backend/cpu/vm/twin_f32.cpp"
#include "hwy/foreach_target.h"

#include "backend/cpu/vm/expressions-inl.h"
#include "backend/cpu/vm/kernel_parts.h"

HWY_BEFORE_NAMESPACE();
namespace metal_candle::cpu::vm::HWY_NAMESPACE {
namespace {

struct Two {
  F value, slope;
};

struct SiluTwin {
  Input<true> a, b, c, d;
  static HWY_INLINE SiluTwin of(const Instr& in, const Frame& f) {
    return {{in.a, f}, {in.b, f}, {in.c, f}, {in.extra->state, f}};
  }
  HWY_INLINE Two all(int i) const {
    const F x = a.all(i);
    return {Lanes<Op_silu>::apply(x) * c.all(i), Lanes<Op_silu_grad>::apply(x) * (b.all(i) * d.all(i))};
  }
  HWY_INLINE Two near(int i, F& far) const {
    const F x = a.all(i);
    F same = far;
    return {Lanes<Op_silu>::near(x, far) * c.all(i), Lanes<Op_silu_grad>::near(x, same) * (b.all(i) * d.all(i))};
  }
  HWY_INLINE Two some(int i, int n) const {
    const F x = a.some(i, n);
    return {Lanes<Op_silu>::apply(x) * c.some(i, n), Lanes<Op_silu_grad>::apply(x) * (b.some(i, n) * d.some(i, n))};
  }
  HWY_INLINE void next() {
    a.next();
    b.next();
    c.next();
    d.next();
  }
};

HWY_NOINLINE Two part_of_both(SiluTwin e, int c, int n) { return e.some(c, n); }
HWY_NOINLINE void partial_both(SiluTwin e, float* first, float* second, int c, int n) {
  const Two y = e.some(c, n);
  store_some(y.value, first + c, static_cast<std::size_t>(n));
  store_some(y.slope, second + c, static_cast<std::size_t>(n));
}

/// Columns c to c + 4 vectors, all of them before any is stored: a result may replace an operand.
HWY_INLINE void four_of_both(const SiluTwin& e, int c, Two* y) {
  const int n = static_cast<int>(hn::Lanes(df));
  if constexpr (Lanes<Op_silu>::quick) {
    F far = k(0);
    for (int i = 0; i < 4; ++i) y[i] = e.near(c + i * n, far);
    if (HWY_LIKELY(hn::AllFalse(df, (far > k(kFar)).m))) return;
    // One by one: see `four`.
    y[0] = part_of_both(e, c, n);
    y[1] = part_of_both(e, c + n, n);
    y[2] = part_of_both(e, c + 2 * n, n);
    y[3] = part_of_both(e, c + 3 * n, n);
  } else {
    for (int i = 0; i < 4; ++i) y[i] = e.all(c + i * n);
  }
}

/// Asks for the operands of a row that comes from memory as it goes along.
struct Ahead {
  static constexpr int kBytes = 4096;
  const float* p[3];
  HWY_INLINE Ahead(const SiluTwin& e, bool any)
      : p{e.a.p, e.b.row != 0 ? e.b.p : nullptr, e.d.row != 0 ? e.d.p : nullptr} {
    if (!any) p[0] = p[1] = p[2] = nullptr;
  }
  HWY_INLINE void four(int c) const {
    constexpr int kLines = 16 * static_cast<int>(hn::MaxLanes(df));
    for (const float* q : p) {
      if (q == nullptr) continue;
      const char* line = reinterpret_cast<const char*>(q + c) + kBytes;
      for (int at = 0; at < kLines; at += 64) __builtin_prefetch(line + at, 0, 3);
    }
  }
};

template <bool kPast>
HWY_INLINE void put(F x, float* out) {
  if constexpr (kPast) hn::Stream(x.v, df, out);
  else store(x, out);
}

/// One row from column c on, past the caches or not.
template <bool kPast>
HWY_INLINE void twin_row(const SiluTwin& e, float* first, float* second, int c, int cols, bool ahead) {
  const int n = static_cast<int>(hn::Lanes(df));
  const Ahead next(e, ahead);
  Two y[4];
  for (; c + 4 * n <= cols; c += 4 * n) {
    next.four(c);
    four_of_both(e, c, y);
    for (int i = 0; i < 4; ++i) put<kPast>(y[i].value, first + c + i * n);
    for (int i = 0; i < 4; ++i) put<kPast>(y[i].slope, second + c + i * n);
  }
  for (; c + n <= cols; c += n) {
    y[0] = e.all(c);
    put<kPast>(y[0].value, first + c);
    put<kPast>(y[0].slope, second + c);
  }
  if (c < cols) partial_both(e, first, second, c, cols - c);
}

void silu_twin(const Instr& in, const Frame& f) {
  SiluTwin e = SiluTwin::of(in, f);
  float *first = at<float>(in.out, f), *second = at<float>(in.extra->kept, f);
  const auto first_row = pitch(in.out, f), second_row = pitch(in.extra->kept, f);
  const int rows = f.rows, cols = f.cols;
  const unsigned flags = in.out.flags;
  for (int r = 0; r < rows; ++r) {
    const int head = head_of(first, 4, cols);
    if ((flags & kStream) && head == head_of(second, 4, cols)) {
      if (head > 0) partial_both(e, first, second, 0, head);
      twin_row<true>(e, first, second, head, cols, flags & kFetch);
    } else {
      twin_row<false>(e, first, second, 0, cols, flags & kFetch);
    }
    first = step(first, first_row);
    second = step(second, second_row);
    e.next();
  }
}

}  // namespace

void fill_twin_f32(VectorKernels& table) { table.silu_twin = silu_twin; }

}  // namespace metal_candle::cpu::vm::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace metal_candle::cpu::vm {
HWY_EXPORT(fill_twin_f32);
void fill_twin_f32(VectorKernels& table) { HWY_DYNAMIC_DISPATCH(fill_twin_f32)(table); }
}  // namespace metal_candle::cpu::vm
#endif
