// The loop over a block that all elementwise f32 kernels share: whole vectors, then what is left of the row. With
// kStream the results go past the caches, in whole aligned vectors.
#if defined(MC_VM_ROWS_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef MC_VM_ROWS_INL_H_
#undef MC_VM_ROWS_INL_H_
#else
#define MC_VM_ROWS_INL_H_
#endif

#include "hwy/cache_control.h"

#include "backend/cpu/vm/instr.h"
#include "backend/cpu/vm/math-inl.h"

HWY_BEFORE_NAMESPACE();
namespace metal_candle::cpu::vm::HWY_NAMESPACE {

MC_INLINE F widened_bf16(const std::uint16_t* p) {
  const hn::RebindToUnsigned<DF> du;
  return F(hn::BitCast(df, hn::ShiftLeft<16>(hn::PromoteTo(du, hn::LoadU(hn::Rebind<std::uint16_t, DF>(), p)))));
}
MC_INLINE F some_widened_bf16(const std::uint16_t* p, int n) {
  std::uint16_t some[HWY_MAX_BYTES / 4] = {};
  for (int i = 0; i < n; ++i) some[i] = p[i];
  return widened_bf16(some);
}

/// Where an operand is, and how to read it: V along the columns, S once a row. With kHalves an operand that walks may be
/// bf16 in memory.
template <bool kWalks, bool kHalves = false>
struct Input {
  const float* p;
  std::int64_t row;
  HWY_INLINE Input(const Operand& o, const Frame& f) : p(at<const float>(o, f)), row(pitch(o, f)) {}
  HWY_INLINE F all(int c) const { return load(p + c); }
  HWY_INLINE F some(int c, int n) const { return load_some(p + c, static_cast<std::size_t>(n)); }
  HWY_INLINE void next() { p = step(p, row); }
};
template <>
struct Input<true, true> {
  const char* p;
  std::int64_t row;
  bool half;
  HWY_INLINE Input(const Operand& o, const Frame& f)
      : p(at<const char>(o, f)), row(pitch(o, f)), half((o.flags & kHalf) != 0) {}
  HWY_INLINE F all(int c) const {
    if (half) return widened_bf16(reinterpret_cast<const std::uint16_t*>(p) + c);
    return load(reinterpret_cast<const float*>(p) + c);
  }
  HWY_INLINE F some(int c, int n) const {
    if (half) return some_widened_bf16(reinterpret_cast<const std::uint16_t*>(p) + c, n);
    return load_some(reinterpret_cast<const float*>(p) + c, static_cast<std::size_t>(n));
  }
  HWY_INLINE void next() { p = step(p, row); }
};
template <bool kHalves>
struct Input<false, kHalves> {
  const float* p;
  std::int64_t row;
  F value;
  HWY_INLINE Input(const Operand& o, const Frame& f) : p(at<const float>(o, f)), row(pitch(o, f)), value(k(*p)) {}
  HWY_INLINE F all(int) const { return value; }
  HWY_INLINE F some(int, int) const { return value; }
  HWY_INLINE void next() {
    p = step(p, row);
    value = k(*p);
  }
};

/// Elements before p is aligned to a whole vector, at most `cols`.
MC_INLINE int head_of(const void* p, int size, int cols) {
  const auto past = reinterpret_cast<std::uintptr_t>(p) % (4 * hn::Lanes(df));
  const int head = past == 0 ? 0 : static_cast<int>((4 * hn::Lanes(df) - past)) / size;
  return head < cols ? head : cols;
}

/// The first n columns from c: out of line, the loop is what matters. By value: what nobody else can see need not be
/// written to memory.
template <class E>
HWY_NOINLINE F part_of(E e, int c, int n) {
  return e.some(c, n);
}
template <class E>
HWY_NOINLINE void partial(E e, float* out, int c, int n) {
  store_some(e.some(c, n), out + c, static_cast<std::size_t>(n));
}

/// Expressions that have a short way for vectors whose lanes are not far out: near(c, far).
template <class E>
inline constexpr bool kQuick = requires {
  requires E::quick;
};
inline constexpr float kFar = 87;  // so far the short ways are right

/// Columns c to c + 4 vectors of an expression.
template <class E>
HWY_INLINE void four(const E& e, int c, F* y) {
  const int n = static_cast<int>(hn::Lanes(df));
  if constexpr (kQuick<E>) {
    F far = k(0);
    for (int i = 0; i < 4; ++i) y[i] = e.near(c + i * n, far);
    if (HWY_LIKELY(hn::AllFalse(df, (far > k(kFar)).m))) return;
    // One by one, not in a loop: with constant indices the results stay in registers.
    y[0] = part_of(e, c, n);
    y[1] = part_of(e, c + n, n);
    y[2] = part_of(e, c + 2 * n, n);
    y[3] = part_of(e, c + 3 * n, n);
  } else {
    for (int i = 0; i < 4; ++i) y[i] = e.all(c + i * n);
  }
}

/// What a block asks for while it works, so that memory always has something to do.
struct Fetcher {
  const char* p;
  HWY_INLINE Fetcher(const Instr& in, const Frame& f)
      : p((in.out.flags & kFetch) && f.fetch_next ? f.fetch : nullptr) {}
  /// The lines that belong to four vectors from column c.
  HWY_INLINE void four(int c) const {
    constexpr int kBytes = 16 * static_cast<int>(hn::MaxLanes(df));
    if (p == nullptr) return;
    for (int at = 0; at < kBytes; at += 64) __builtin_prefetch(p + 4 * c + at, 0, 3);
  }
};

/// What a reduction does for the rows beside its own, a little with every four vectors: it asks for the next one and
/// stores what is left of the one before. So memory takes and gives while the processor computes.
struct Meanwhile {
  Fetcher fetcher;
  const float* from = nullptr;
  float* to = nullptr;
  F by;
  Elementwise op;
  int shift;
  HWY_INLINE Meanwhile(const Instr& in, const Frame& f)
      : fetcher(in, f), by(k(f.rest.by)), op(f.rest.op), shift(f.rest.shift) {
    if (!(in.out.flags & kRest) || f.rest.from == nullptr) return;
    const std::int64_t column = f.rest.begin + (f.col0 >> shift);
    from = f.rest.from + column;
    to = f.rest.to + column;
  }
  HWY_INLINE void four(int c) const {
    fetcher.four(c);
    if (from == nullptr) return;
    if (op == Elementwise::div) store_rest(c, [&](F x) HWY_ATTR { return x / by; });
    else if (op == Elementwise::mul) store_rest(c, [&](F x) HWY_ATTR { return x * by; });
    else store_rest(c, [&](F x) HWY_ATTR { return x - by; });
  }

 private:
  template <class Fn>
  HWY_INLINE void store_rest(int c, Fn fn) const {
    const int n = static_cast<int>(hn::Lanes(df)), i = c >> shift;
    const auto one = [&](int at) HWY_ATTR { hn::Stream(fn(load(from + at)).v, df, to + at); };
    one(i);
    if (shift < 2) one(i + n);
    if (shift < 1) one(i + 2 * n), one(i + 3 * n);
  }
};

/// `Expr` has all(c), some(c, n) and next().

template <class Expr>
HWY_NOINLINE void run_block(const Instr& in, const Frame& f) {
  Expr e = Expr::of(in, f);
  const int n = static_cast<int>(hn::Lanes(df));
  const unsigned flags = in.out.flags;
  float* out = at<float>(in.out, f);
  const auto out_row = pitch(in.out, f);
  int rows = f.rows, cols = f.cols;
  if (flags & kFlat) {
    cols += (rows - 1) * f.row_pitch;
    rows = 1;
  }
  if (flags & kPad) cols = (cols + n - 1) & -n;
  const Fetcher fetcher(in, f);
  F y[4];
  for (int r = 0; r < rows; ++r) {
    int c = 0;
    if (flags & kStream) {
      c = head_of(out, 4, cols);
      if (c > 0) partial(e, out, 0, c);
      for (; c + 4 * n <= cols; c += 4 * n) {
        fetcher.four(c);
        four(e, c, y);
        for (int i = 0; i < 4; ++i) hn::Stream(y[i].v, df, out + c + i * n);
      }
      for (; c + n <= cols; c += n) hn::Stream(e.all(c).v, df, out + c);
    } else {
      if constexpr (kQuick<Expr>) {
        for (; c + 4 * n <= cols; c += 4 * n) {
          four(e, c, y);
          for (int i = 0; i < 4; ++i) store(y[i], out + c + i * n);
        }
      }
      for (; c + n <= cols; c += n) store(e.all(c), out + c);
    }
    if (c < cols) partial(e, out, c, cols - c);
    out = step(out, out_row);
    e.next();
  }
}

/// A value of one row is one vector. That way is short, and above all it writes nothing else to memory: behind stores
/// past the caches every other store waits for its turn.
template <class Expr>
HWY_INLINE void run_rows(const Instr& in, const Frame& f) {
  if (f.rows == 1 && f.cols <= static_cast<int>(hn::Lanes(df)) && (in.out.flags & kPad))
    return store(Expr::of(in, f).all(0), at<float>(in.out, f));
  run_block<Expr>(in, f);
}

// Comparisons and logic give 0 or 1 in i32 registers, whose bits pass through float vectors untouched.
struct Bits {
  VF v;
  friend HWY_INLINE Bits operator&(Bits a, Bits b) { return {hn::And(a.v, b.v)}; }
  friend HWY_INLINE Bits operator|(Bits a, Bits b) { return {hn::Or(a.v, b.v)}; }
  friend HWY_INLINE Bits operator^(Bits a, Bits b) { return {hn::Xor(a.v, b.v)}; }
};
MC_INLINE F truth(M m) { return from_bits(hn::IfThenElseZero(hn::RebindMask(di, m.m), hn::Set(di, 1))); }

// One struct an op.
#define MC_UNARY(name, domain, cost, body, ...)     \
  struct Op_##name {                                \
    using T = F;                                    \
    static HWY_INLINE F apply(F x) { return body; } \
  };
#define MC_BINARY(name, domain, cost, body, ...)         \
  struct Op_##name {                                     \
    using T = F;                                         \
    static HWY_INLINE F apply(F x, F z) { return body; } \
  };
#define MC_COMPARE(name, body)                                  \
  struct Op_##name {                                            \
    static HWY_INLINE F apply(F x, F z) { return truth(body); } \
  };
#define MC_LOGIC(name, body)              \
  struct Op_##name {                      \
    static HWY_INLINE F apply(F a, F b) { \
      const Bits x{a.v}, z{b.v};          \
      return (body).v;                    \
    }                                     \
  };
#include "metal_candle/elementwise.def"

}  // namespace metal_candle::cpu::vm::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif
