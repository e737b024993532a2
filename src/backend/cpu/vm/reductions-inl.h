// Reductions along a row, of what lies in memory or of an expression made on the way.
//
// The sum of a row has a shape that only its number of columns decides: vector i of a chunk of kReduceChunk columns
// goes to accumulator i mod 4; at the end of the chunk the four are combined and join a total of kReduceGroup columns,
// which joins that of the row; at the end of the row its lanes are combined pairwise. So no chain of sums is long.
// Blocks hand the accumulators on through the state in scratch memory.
#if defined(MC_VM_REDUCTIONS_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef MC_VM_REDUCTIONS_INL_H_
#undef MC_VM_REDUCTIONS_INL_H_
#else
#define MC_VM_REDUCTIONS_INL_H_
#endif

#include <algorithm>

#include "backend/cpu/vm/rows-inl.h"

HWY_BEFORE_NAMESPACE();
namespace metal_candle::cpu::vm::HWY_NAMESPACE {

// `fold` may lose NaN, `join` does not; where it does, the loop looks out for NaN on its own.
struct Sum {
  static constexpr float identity = 0;
  static constexpr bool watch_nan = false;
  static HWY_INLINE F fold(F a, F b) { return a + b; }
  static HWY_INLINE F join(F a, F b) { return a + b; }
};
struct Prod {
  static constexpr float identity = 1;
  static constexpr bool watch_nan = false;
  static HWY_INLINE F fold(F a, F b) { return a * b; }
  static HWY_INLINE F join(F a, F b) { return a * b; }
};
struct Max {
  static constexpr float identity = -std::numeric_limits<float>::infinity();
  static constexpr bool watch_nan = true;
  static HWY_INLINE F fold(F a, F b) { return hn::Max(a.v, b.v); }
  static HWY_INLINE F join(F a, F b) { return max(a, b); }
};
struct Min {
  static constexpr float identity = std::numeric_limits<float>::infinity();
  static constexpr bool watch_nan = true;
  static HWY_INLINE F fold(F a, F b) { return hn::Min(a.v, b.v); }
  static HWY_INLINE F join(F a, F b) { return min(a, b); }
};

/// The first n lanes of x, the rest identity.
MC_INLINE F first_lanes(F x, int n, float identity) {
  return hn::IfThenElse(hn::FirstN(df, static_cast<std::size_t>(n)), x.v, hn::Set(df, identity));
}

template <class R>
struct Accumulators {
  F v[4];
  MF nan;
  HWY_INLINE Accumulators() {}  // written out: an implicit one would not be compiled for the instruction set

  HWY_INLINE void begin(const float* state) {
    const int n = static_cast<int>(hn::Lanes(df));
    for (int i = 0; i < 4; ++i) v[i] = state ? load(state + i * n) : k(R::identity);
    nan = hn::Or(hn::Or(is_nan(v[0]).m, is_nan(v[1]).m), hn::Or(is_nan(v[2]).m, is_nan(v[3]).m));
  }
  HWY_INLINE void add(int i, F x) { v[i] = R::fold(v[i], x); }
  HWY_INLINE void watch(F a, F b) {
    if (R::watch_nan) nan = hn::Or(nan, either_nan(a, b).m);
  }
  /// What is left of a row for accumulator i.
  template <int i, bool kKeep, class E>
  HWY_INLINE void add_some(const E& e, float* kept, int c, int end) {
    const int n = static_cast<int>(hn::Lanes(df)), at = c + i * n, rest = end - at < n ? end - at : n;
    if (rest <= 0) return;
    const F x = part_of(e, at, rest);
    if constexpr (kKeep) store_some(x, kept + at, static_cast<std::size_t>(rest));
    const F some = rest == n ? x : first_lanes(x, rest, R::identity);
    add(i, some);
    watch(some, some);
  }
  /// Columns [begin, end) of an expression; with kKeep its values are written to `kept`, too.
  template <bool kKeep, class E>
  HWY_INLINE void add_row(const E& e, float* kept, int begin, int end, const Meanwhile& meanwhile) {
    const int n = static_cast<int>(hn::Lanes(df));
    int c = begin;
    for (; c + 4 * n <= end; c += 4 * n) {
      F x[4];
      meanwhile.four(c);
      four(e, c, x);
      for (int i = 0; i < 4; ++i) {
        if constexpr (kKeep) store(x[i], kept + c + i * n);
        add(i, x[i]);
      }
      watch(x[0], x[1]);
      watch(x[2], x[3]);
    }
    // One by one, not in a loop: with constant indices the accumulators stay in registers.
    add_some<0, kKeep>(e, kept, c, end);
    add_some<1, kKeep>(e, kept, c, end);
    add_some<2, kKeep>(e, kept, c, end);
    add_some<3, kKeep>(e, kept, c, end);
    if (R::watch_nan && HWY_UNLIKELY(!hn::AllFalse(df, nan))) v[0] = k(std::numeric_limits<float>::quiet_NaN());
  }
};

/// Halves until one lane is left, in every lane. Within registers: what is read back from memory in another width than
/// it was written waits until everything written before has left the core, streams past the caches among it.
template <class R>
HWY_INLINE F lanes_of(F total) {
  constexpr int kMost = static_cast<int>(hn::MaxLanes(df));
  alignas(64) static constexpr std::int32_t kTurned[5][16] = {{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15},
                                                              {1, 0, 3, 2, 5, 4, 7, 6, 9, 8, 11, 10, 13, 12, 15, 14},
                                                              {2, 3, 0, 1, 6, 7, 4, 5, 10, 11, 8, 9, 14, 15, 12, 13},
                                                              {4, 5, 6, 7, 0, 1, 2, 3, 12, 13, 14, 15, 8, 9, 10, 11},
                                                              {8, 9, 10, 11, 12, 13, 14, 15, 0, 1, 2, 3, 4, 5, 6, 7}};
  for (int n = kMost / 2, row = kMost == 16 ? 4 : kMost == 8 ? 3 : kMost == 4 ? 2 : 1; n > 0; n /= 2, --row)
    total = R::join(total, hn::TableLookupLanes(total.v, hn::SetTableIndices(df, kTurned[row])));
  return total;
}

/// A row's result. Of a block of one row it fills a vector, as wide as it will be read.
HWY_INLINE void put_row(F value, float* out, const Frame& f) {
  if (f.rows == 1) store(value, out);
  else *out = hn::GetLane(value.v);
}

/// One row of a block: chunk after chunk. True when the row is complete and `total` its reduction.
template <class R, bool kKeep, class E>
HWY_INLINE bool reduce_row(const E& e, float* kept, float* state, const Frame& f, F& total,
                           const Meanwhile& meanwhile) {
  const int n = static_cast<int>(hn::Lanes(df));
  F before = f.col0 >= kReduceChunk ? load(state + 4 * n) : k(R::identity);  // of the group's complete chunks
  for (int c = 0;;) {
    const std::int64_t at = f.col0 + c;
    const int some = static_cast<int>(std::min<std::int64_t>(f.cols - c, kReduceChunk - at % kReduceChunk));
    const std::int64_t end = at + some;
    Accumulators<R> acc;
    acc.begin(at % kReduceChunk == 0 ? nullptr : state);
    acc.template add_row<kKeep>(e, kept, c, c + some, meanwhile);
    c += some;
    const bool cut = end % kReduceChunk != 0 && end != f.stage_cols;  // within a chunk
    if (cut) {
      for (int i = 0; i < 4; ++i) store(acc.v[i], state + i * n);
    } else {
      total = R::join(R::join(acc.v[0], acc.v[1]), R::join(acc.v[2], acc.v[3]));
      const bool row = end == f.stage_cols;
      if (end > kReduceChunk) {
        const bool group = row || end % kReduceGroup == 0;
        if ((end - 1) % kReduceGroup >= kReduceChunk) total = R::join(before, total);
        if (group && end > kReduceGroup) total = R::join(load(state + 5 * n), total);
        if (group) store(total, state + 5 * n);  // of the groups that are complete
      }
      if (row) return true;
      before = total;
    }
    if (c == f.cols) {
      store(before, state + 4 * n);
      return false;
    }
  }
}

}  // namespace metal_candle::cpu::vm::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif
