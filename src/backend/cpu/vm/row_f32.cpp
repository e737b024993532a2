// Reductions along rows and over rows, select, and row values spread along columns: f32, every instruction set.
#include "backend/cpu/vm/targets.h"

#include <algorithm>

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "backend/cpu/vm/row_f32.cpp"
#include "hwy/foreach_target.h"

#include "backend/cpu/vm/kernel_parts.h"
#include "backend/cpu/vm/reductions-inl.h"

HWY_BEFORE_NAMESPACE();
namespace metal_candle::cpu::vm::HWY_NAMESPACE {
namespace {

/// What is reduced as it lies in memory.
struct Plain {
  const float* p;
  HWY_INLINE F all(int c) const { return load(p + c); }
  HWY_INLINE F some(int c, int n) const { return load_some(p + c, static_cast<std::size_t>(n)); }
};

template <class R>
void reduce(const Instr& in, const Frame& f) {
  const float* a = at<const float>(in.a, f);
  float* state = at<float>(in.b, f);
  float* out = at<float>(in.out, f);
  const Meanwhile meanwhile(in, f);
  for (int r = 0; r < f.rows; ++r) {
    F total;
    if (reduce_row<R, false>(Plain{a}, nullptr, state, f, total, meanwhile)) put_row(lanes_of<R>(total), out, f);
    a = step(a, pitch(in.a, f));
    state = step(state, kReduceState);
    out = step(out, pitch(in.out, f));
  }
}

/// The first column whose value is `value`, or NaN if that is; there is one.
HWY_NOINLINE int find_column(const float* a, int cols, float value) {
  const int n = static_cast<int>(hn::Lanes(df));
  const F wanted = k(value);
  const bool nan = value != value;
  int c = 0;
  for (; c + n <= cols; c += n) {
    const F x = load(a + c);
    if (!hn::AllFalse(df, nan ? is_nan(x).m : (x == wanted).m)) break;
  }
  while (c < cols && (nan ? a[c] == a[c] : a[c] != value)) ++c;
  return c;
}

/// The best of a block's columns and the first that has it; the first NaN beats all. Each lane of four accumulators
/// remembers its own: what comes next need not wait until this block was searched again.
template <class R>
struct Best {
  static HWY_INLINE auto beats(F a, F b) {
    if constexpr (std::is_same_v<R, Max>) return a > b;
    else return a < b;
  }
  F value[4];
  VI from[4];  // the step, of four vectors, in which it was found
  MF nan;
  HWY_INLINE Best() {}

  template <int i>
  HWY_INLINE void take(F x, VI step) {
    const M better = beats(x, value[i]);
    value[i] = hn::IfThenElse(better.m, x.v, value[i].v);
    from[i] = hn::IfThenElse(hn::RebindMask(di, better.m), step, from[i]);
  }
  template <int i>
  HWY_INLINE void take_some(const float* a, int c, int cols, VI step) {
    const int n = static_cast<int>(hn::Lanes(df)), at = c + i * n, rest = std::min(cols - at, n);
    if (rest <= 0) return;
    const F x = load_some(a + at, static_cast<std::size_t>(rest));
    nan = hn::Or(nan, is_nan(x).m);
    take<i>(first_lanes(x, rest, R::identity), step);
  }

  /// The column; `top` becomes the value.
  HWY_INLINE int find(const float* a, int cols, const Fetcher& fetcher, float& top) {
    constexpr std::int32_t kNone = 1 << 30;  // no column of a block
    const int n = static_cast<int>(hn::Lanes(df));
    for (int i = 0; i < 4; ++i) value[i] = k(R::identity), from[i] = hn::Set(di, kNone);
    nan = is_nan(value[0]).m;
    VI step = hn::Iota(di, 0);
    int c = 0;
    for (; c + 4 * n <= cols; c += 4 * n, step = hn::Add(step, hn::Set(di, 4 * n))) {
      fetcher.four(c);
      const F x0 = load(a + c), x1 = load(a + c + n), x2 = load(a + c + 2 * n), x3 = load(a + c + 3 * n);
      take<0>(x0, step), take<1>(x1, step), take<2>(x2, step), take<3>(x3, step);
      nan = hn::Or(nan, hn::Or(either_nan(x0, x1).m, either_nan(x2, x3).m));
    }
    take_some<0>(a, c, cols, step);
    take_some<1>(a, c, cols, step);
    take_some<2>(a, c, cols, step);
    take_some<3>(a, c, cols, step);
    if (HWY_UNLIKELY(!hn::AllFalse(df, nan)))
      return find_column(a, cols, top = std::numeric_limits<float>::quiet_NaN());
    const F all = lanes_of<R>(R::join(R::join(value[0], value[1]), R::join(value[2], value[3])));
    VI first = hn::Set(di, kNone);
    for (int i = 0; i < 4; ++i) {
      const VI column = hn::Add(from[i], hn::Set(di, i * n));
      first = hn::Min(first, hn::IfThenElse(hn::RebindMask(di, (value[i] == all).m), column, first));
    }
    top = hn::GetLane(all.v);
    const std::int32_t column = hn::GetLane(hn::MinOfLanes(di, first));
    return column < kNone ? column : find_column(a, cols, top);  // nothing beats the identity: all are that
  }
};

/// A block joins the row's best so far through the state.
template <class R>
void arg_reduce(const Instr& in, const Frame& f) {
  const float* a = at<const float>(in.a, f);
  float* state = at<float>(in.b, f);
  std::int32_t* out = at<std::int32_t>(in.out, f);
  const Fetcher fetcher(in, f);
  for (int r = 0; r < f.rows; ++r) {
    float best = f.col0 == 0 ? R::identity : state[0];
    std::int32_t where = f.col0 == 0 ? -1 : reinterpret_cast<const std::int32_t*>(state)[1];
    if (f.cols > 0 && best == best) {
      float top;
      const int column = Best<R>().find(a, f.cols, fetcher, top);
      if (where < 0 || top != top || (std::is_same_v<R, Max> ? top > best : top < best)) {
        best = top;
        where = static_cast<std::int32_t>(f.col0) + column;
      }
    }
    state[0] = best;
    reinterpret_cast<std::int32_t*>(state)[1] = where;
    if (f.col0 + f.cols == f.stage_cols) *out = where < 0 ? 0 : where;
    a = step(a, pitch(in.a, f));
    state = step(state, kReduceState);
    out = step(out, pitch(in.out, f));
  }
}

/// Column sums: out[c] = out[c] ∘ a[0][c] ∘ a[1][c] ..., rows in order.
template <class R>
void accumulate(const Instr& in, const Frame& f) {
  const int n = static_cast<int>(hn::Lanes(df));
  const float* a = at<const float>(in.a, f);
  float* out = at<float>(in.out, f);
  const auto a_pitch = pitch(in.a, f);
  int c = 0;
  for (; c + 4 * n <= f.cols; c += 4 * n) {
    F acc[4];
    for (int i = 0; i < 4; ++i) acc[i] = load(out + c + i * n);
    const float* p = a + c;
    for (int r = 0; r < f.rows; ++r, p = step(p, a_pitch)) {
      for (int i = 0; i < 4; ++i) acc[i] = R::join(acc[i], load(p + i * n));
    }
    for (int i = 0; i < 4; ++i) store(acc[i], out + c + i * n);
  }
  for (; c < f.cols; c += n) {
    const auto some = static_cast<std::size_t>(f.cols - c < n ? f.cols - c : n);
    F acc = load_some(out + c, some);
    const float* p = a + c;
    for (int r = 0; r < f.rows; ++r, p = step(p, a_pitch)) acc = R::join(acc, load_some(p, some));
    store_some(acc, out + c, some);
  }
}

/// out = a ? b : c, on 4-byte values of any type.
template <Form kForm>
void select_kernel(const Instr& in, const Frame& f) {
  const int n = static_cast<int>(hn::Lanes(df));
  constexpr bool b_row = kForm == kSV || kForm == kSS, c_row = kForm == kVS || kForm == kSS;
  float* out = at<float>(in.out, f);
  const float *a = at<const float>(in.a, f), *b = at<const float>(in.b, f), *e = at<const float>(in.c, f);
  int rows = f.rows, cols = f.cols;
  if (in.out.flags & kFlat) {
    cols += (rows - 1) * f.row_pitch;
    rows = 1;
  }
  if (in.out.flags & kPad) cols = (cols + n - 1) & -n;
  for (int r = 0; r < rows; ++r) {
    const F b0 = k(b_row ? *b : 0), e0 = k(c_row ? *e : 0);
    auto choose = [&](F condition, F x, F z) HWY_ATTR {
      const auto zero = hn::Eq(bits(condition), hn::Zero(di));
      return F(hn::IfThenElse(hn::RebindMask(df, zero), z.v, x.v));
    };
    int c = 0;
    for (; c + n <= cols; c += n) {
      store(choose(load(a + c), b_row ? b0 : load(b + c), c_row ? e0 : load(e + c)), out + c);
    }
    if (c < cols) {
      const auto some = static_cast<std::size_t>(cols - c);
      const F x = b_row ? b0 : load_some(b + c, some), z = c_row ? e0 : load_some(e + c, some);
      store_some(choose(load_some(a + c, some), x, z), out + c, some);
    }
    out = step(out, pitch(in.out, f));
    a = step(a, pitch(in.a, f));
    b = step(b, pitch(in.b, f));
    e = step(e, pitch(in.c, f));
  }
}

/// The column's index compared with a row value, without making indices of 64 bits: the row value is brought near the
/// block first.
template <class Op>
struct ColumnCompare {
  const std::int64_t* p;
  std::int64_t row, col0;
  VI limit, iota;
  static HWY_INLINE ColumnCompare of(const Instr& in, const Frame& f) {
    ColumnCompare e{at<const std::int64_t>(in.b, f), pitch(in.b, f), f.col0, hn::Zero(di), hn::Iota(di, 0)};
    e.next();
    return e;
  }
  HWY_INLINE void next() {
    std::int64_t near = *p - col0;
    near = near < -2 ? -2 : near > (1 << 30) ? (1 << 30) : near;
    limit = hn::Set(di, static_cast<std::int32_t>(near));
    p = step(p, row);
  }
  HWY_INLINE F all(int c) const {
    // Both are small integers: exact as floats up to 2^24, which a block never reaches, and the limit beyond is beyond.
    return Op::apply(F(hn::ConvertTo(df, hn::Add(iota, hn::Set(di, c)))), F(hn::ConvertTo(df, limit)));
  }
  HWY_INLINE F some(int c, int) const { return all(c); }
};
template <class Op>
void compare_column(const Instr& in, const Frame& f) {
  run_rows<ColumnCompare<Op>>(in, f);
}

/// One value along the row, and another one at one column.
void pick_column(const Instr& in, const Frame& f) {
  const int n = static_cast<int>(hn::Lanes(df));
  float* out = at<float>(in.out, f);
  const std::int64_t* where = at<const std::int64_t>(in.a, f);
  const float *b = at<const float>(in.b, f), *c = at<const float>(in.c, f);
  for (int r = 0; r < f.rows; ++r) {
    const F value = k(*c);
    int i = 0;
    for (; i + n <= f.cols; i += n) store(value, out + i);
    if (i < f.cols) store_some(value, out + i, static_cast<std::size_t>(f.cols - i));
    const std::int64_t at = *where - f.col0;
    if (at >= 0 && at < f.cols) out[at] = *b;
    out = step(out, pitch(in.out, f));
    where = step(where, pitch(in.a, f));
    b = step(b, pitch(in.b, f));
    c = step(c, pitch(in.c, f));
  }
}

struct IntegerToFloat {
  const std::int32_t* p;
  std::int64_t row;
  static HWY_INLINE IntegerToFloat of(const Instr& in, const Frame& f) {
    return {at<const std::int32_t>(in.a, f), pitch(in.a, f)};
  }
  HWY_INLINE F all(int c) const { return F(hn::ConvertTo(df, hn::LoadU(di, p + c))); }
  HWY_INLINE F some(int c, int n) const {
    return F(hn::ConvertTo(df, bits(load_some(reinterpret_cast<const float*>(p) + c, static_cast<std::size_t>(n)))));
  }
  HWY_INLINE void next() { p = step(p, row); }
};
void i32_to_f32(const Instr& in, const Frame& f) { run_rows<IntegerToFloat>(in, f); }

void fill(const Instr& in, const Frame& f) {
  const int n = static_cast<int>(hn::Lanes(df));
  float* out = at<float>(in.out, f);
  const float* a = at<const float>(in.a, f);
  for (int r = 0; r < f.rows; ++r, out = step(out, pitch(in.out, f)), a = step(a, pitch(in.a, f))) {
    const F value = k(*a);
    int c = 0;
    for (; c + n <= f.cols; c += n) store(value, out + c);
    if (c < f.cols) store_some(value, out + c, static_cast<std::size_t>(f.cols - c));
  }
}

}  // namespace

void fill_row_f32(VectorKernels& table) {
  auto slot = [](Reduce op) { return static_cast<int>(op); };
  table.reduce[slot(Reduce::sum)] = reduce<Sum>;
  table.reduce[slot(Reduce::max)] = reduce<Max>;
  table.reduce[slot(Reduce::min)] = reduce<Min>;
  table.reduce[slot(Reduce::prod)] = reduce<Prod>;
  table.reduce[slot(Reduce::argmax)] = arg_reduce<Max>;
  table.reduce[slot(Reduce::argmin)] = arg_reduce<Min>;
  table.accumulate[slot(Reduce::sum)] = accumulate<Sum>;
  table.accumulate[slot(Reduce::max)] = accumulate<Max>;
  table.accumulate[slot(Reduce::min)] = accumulate<Min>;
  table.accumulate[slot(Reduce::prod)] = accumulate<Prod>;
  table.select[kVV] = select_kernel<kVV>;
  table.select[kVS] = select_kernel<kVS>;
  table.select[kSV] = select_kernel<kSV>;
  table.select[kSS] = select_kernel<kSS>;
  table.fill = fill;
  table.pick_column = pick_column;
  table.i32_to_f32 = i32_to_f32;
  table.compare_column[0] = compare_column<Op_equal>;
  table.compare_column[1] = compare_column<Op_not_equal>;
  table.compare_column[2] = compare_column<Op_less>;
  table.compare_column[3] = compare_column<Op_less_equal>;
  table.compare_column[4] = compare_column<Op_greater>;
  table.compare_column[5] = compare_column<Op_greater_equal>;
}

}  // namespace metal_candle::cpu::vm::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace metal_candle::cpu::vm {
HWY_EXPORT(fill_row_f32);
void fill_row_f32(VectorKernels& table) { HWY_DYNAMIC_DISPATCH(fill_row_f32)(table); }
}  // namespace metal_candle::cpu::vm
#endif
