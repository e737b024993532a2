// An elementwise instruction and the reduction of its result in one pass, for those that softmax, norms and their
// gradients are made of. The same lane functions and the same order of sums as one after the other, hence the same
// bits.
#include "backend/cpu/vm/targets.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "backend/cpu/vm/map_reduce_f32.cpp"
#include "hwy/foreach_target.h"

#include "backend/cpu/vm/expressions-inl.h"
#include "backend/cpu/vm/kernel_parts.h"
#include "backend/cpu/vm/reductions-inl.h"

HWY_BEFORE_NAMESPACE();
namespace metal_candle::cpu::vm::HWY_NAMESPACE {
namespace {

template <class R, class E, bool kKeep>
void map_reduce(const Instr& in, const Frame& f) {
  E e = E::of(in, f);
  float* out = at<float>(in.out, f);
  float* state = at<float>(in.extra->state, f);
  float* kept = kKeep ? at<float>(in.extra->kept, f) : nullptr;
  const Meanwhile meanwhile(in, f);
  for (int r = 0; r < f.rows; ++r) {
    F total;
    if (reduce_row<R, kKeep>(e, kept, state, f, total, meanwhile)) put_row(lanes_of<R>(total), out, f);
    e.next();
    state = step(state, kReduceState);
    out = step(out, pitch(in.out, f));
    if (kKeep) kept = step(kept, pitch(in.extra->kept, f));
  }
}

/// The square of a + b, whose value goes to two places on the way.
template <bool kStored, bool kPast, bool kHalves>
struct Spread {
  Binary<Op_add, kVV, kHalves> sum;
  float *kept, *out;
  HWY_INLINE F all(int c) const {
    const F x = sum.all(c);
    store(x, kept + c);
    if constexpr (kPast) hn::Stream(x.v, df, out + c);
    else if constexpr (kStored) store(x, out + c);
    return Op_square::apply(x);
  }
  HWY_INLINE F some(int c, int n) const {
    const F x = sum.some(c, n);
    store_some(x, kept + c, static_cast<std::size_t>(n));
    if constexpr (kStored) store_some(x, out + c, static_cast<std::size_t>(n));
    return Op_square::apply(x);
  }
};

template <bool kStored, bool kHalves>
void sum_of_squares_of(const Instr& in, const Frame& f) {
  auto sum = Binary<Op_add, kVV, kHalves>::of(in, f);
  float *out = at<float>(in.out, f), *state = at<float>(in.extra->state, f), *kept = at<float>(in.extra->kept, f);
  float* stored = kStored ? at<float>(in.c, f) : nullptr;
  const Meanwhile meanwhile(in, f);
  for (int r = 0; r < f.rows; ++r) {
    const bool past = kStored && (in.out.flags & kStream) && head_of(stored, 4, 1) == 0;
    F total;
    const bool whole = past ? reduce_row<Sum, false>(Spread<kStored, kStored, kHalves>{sum, kept, stored}, nullptr,
                                                     state, f, total, meanwhile)
                            : reduce_row<Sum, false>(Spread<kStored, false, kHalves>{sum, kept, stored}, nullptr, state,
                                                     f, total, meanwhile);
    if (whole) put_row(lanes_of<Sum>(total), out, f);
    sum.next();
    state = step(state, kReduceState);
    out = step(out, pitch(in.out, f));
    kept = step(kept, pitch(in.extra->kept, f));
    if (kStored) stored = step(stored, pitch(in.c, f));
  }
}
template <bool kStored>
void sum_of_squares(const Instr& in, const Frame& f) {
  if ((in.a.flags | in.b.flags) & kHalf) sum_of_squares_of<kStored, true>(in, f);
  else sum_of_squares_of<kStored, false>(in, f);
}

struct Adder {
  VectorKernels& table;
  template <class R, class E>
  void add(Kernel map, Reduce op) {
    if (table.map_reduce_count == kMostMapReduces) table_is_full("map_reduces");
    table.map_reduces[table.map_reduce_count++] = {map, op, map_reduce<R, E, false>, map_reduce<R, E, true>};
  }
  /// And for operands in bf16, if the map has a kernel for them.
  template <class R, class E, class EHalves>
  void add(Kernel map, Reduce op) {
    add<R, E>(map, op);
    for (int i = 0; i < table.halves_count; ++i)
      if (table.halves[i].plain == map) add<R, EHalves>(table.halves[i].reading_halves, op);
  }
  template <class R, class Op>
  void unary(Elementwise op, Reduce reduce) {
    add<R, Unary<Op>>(table.map[static_cast<int>(op)][kVV], reduce);
  }
  template <class R, class Op, Form kForm>
  void binary(Elementwise op, Reduce reduce) {
    add<R, Binary<Op, kForm>, Binary<Op, kForm, true>>(table.map[static_cast<int>(op)][kForm], reduce);
  }
  template <class R, class... E>
  void pair(Elementwise first, Form form, Elementwise second, PairForm then, Reduce reduce) {
    for (int i = 0; i < table.pair_count; ++i) {
      const Pair& p = table.pairs[i];
      if (p.first == first && p.first_form == form && p.second == second && p.form == then)
        add<R, E...>(p.kernel, reduce);
    }
  }
  template <class R, Form kFirst, Form kSecond>
  void product_of_three(PairForm then) {
    constexpr bool kWalks = kSecond == kVV;
    pair<R, Chain<Op_mul, kFirst, Op_mul, kWalks>, Chain<Op_mul, kFirst, Op_mul, kWalks, true>>(
        Elementwise::mul, kFirst, Elementwise::mul, then, Reduce::sum);
  }
};

}  // namespace

void fill_map_reduce_f32(VectorKernels& table) {
  table.sum_of_squares[0] = sum_of_squares<false>;
  table.sum_of_squares[1] = sum_of_squares<true>;
  using E = Elementwise;
  Adder to{table};
  to.unary<Sum, Op_exp>(E::exp, Reduce::sum);
  to.add<Sum, Unary<Op_square>, Unary<Op_square, true>>(table.map[static_cast<int>(E::square)][kVV], Reduce::sum);
  to.unary<Sum, Op_abs>(E::abs, Reduce::sum);
  to.unary<Max, Op_abs>(E::abs, Reduce::max);
  to.binary<Sum, Op_add, kVV>(E::add, Reduce::sum);
  to.binary<Sum, Op_sub, kVS>(E::sub, Reduce::sum);
  to.binary<Sum, Op_mul, kVV>(E::mul, Reduce::sum);
  to.binary<Sum, Op_mul, kVS>(E::mul, Reduce::sum);
  to.pair<Sum, Inner<Op_sub, kVS, Op_exp>>(E::sub, kVS, E::exp, PairForm::alone, Reduce::sum);
  to.pair<Sum, Inner<Op_sub, kVS, Op_square>, Inner<Op_sub, kVS, Op_square, true>>(E::sub, kVS, E::square,
                                                                                   PairForm::alone, Reduce::sum);
  to.pair<Sum, Inner<Op_add, kVV, Op_square>, Inner<Op_add, kVV, Op_square, true>>(E::add, kVV, E::square,
                                                                                   PairForm::alone, Reduce::sum);
  to.product_of_three<Sum, kVV, kVV>(PairForm::then_v);
  to.product_of_three<Sum, kVV, kVS>(PairForm::then_s);
  to.product_of_three<Sum, kVS, kVV>(PairForm::then_v);
}

}  // namespace metal_candle::cpu::vm::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace metal_candle::cpu::vm {
HWY_EXPORT(fill_map_reduce_f32);
void fill_map_reduce_f32(VectorKernels& table) { HWY_DYNAMIC_DISPATCH(fill_map_reduce_f32)(table); }
}  // namespace metal_candle::cpu::vm
#endif
