// Two elementwise ops in one pass over a block, for pairs in which one is cheap enough that a pass of its own shows:
// (a ∘ b) ∘ c for arithmetic, (a - b) / c, exp(a ∘ b), and f(a) · c. The same lane functions as one by one, hence the same bits.
#include "backend/cpu/vm/targets.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "backend/cpu/vm/pair_f32.cpp"
#include "hwy/foreach_target.h"

#include "backend/cpu/vm/expressions-inl.h"
#include "backend/cpu/vm/kernel_parts.h"

HWY_BEFORE_NAMESPACE();
namespace metal_candle::cpu::vm::HWY_NAMESPACE {
namespace {

template <class First, Form kFirst, class Second, bool kWalks, bool kHalves = false>
void chain(const Instr& in, const Frame& f) {
  run_rows<Chain<First, kFirst, Second, kWalks, kHalves>>(in, f);
}
template <class First, Form kFirst, class Second, bool kHalves = false>
void inner(const Instr& in, const Frame& f) {
  run_rows<Inner<First, kFirst, Second, kHalves>>(in, f);
}
template <class First, class Second, bool kWalks>
void outer(const Instr& in, const Frame& f) {
  run_rows<Outer<First, Second, kWalks>>(in, f);
}

struct Adder {
  VectorKernels& table;
  void add(Elementwise first, Form first_form, Elementwise second, PairForm form, Kernel kernel) {
    if (table.pair_count == kMostPairs) table_is_full("pairs");
    table.pairs[table.pair_count++] = {first, first_form, second, form, kernel};
  }
  /// And for operands in bf16.
  void add(Elementwise first, Form first_form, Elementwise second, PairForm form, Kernel kernel, Kernel halves) {
    add(first, first_form, second, form, kernel);
    if (table.halves_count == kMostHalves) table_is_full("halves");
    table.halves[table.halves_count++] = {kernel, halves};
  }
  template <class First, Form kForm, class Second, bool kWalks>
  void chained(Elementwise first, Elementwise second, PairForm form) {
    add(first, kForm, second, form, chain<First, kForm, Second, kWalks>, chain<First, kForm, Second, kWalks, true>);
  }
  template <class First, Form kForm>
  void arithmetic(Elementwise first) {
    chained<First, kForm, Op_add, true>(first, Elementwise::add, PairForm::then_v);
    chained<First, kForm, Op_add, false>(first, Elementwise::add, PairForm::then_s);
    chained<First, kForm, Op_mul, true>(first, Elementwise::mul, PairForm::then_v);
    chained<First, kForm, Op_mul, false>(first, Elementwise::mul, PairForm::then_s);
    chained<First, kForm, Op_sub, true>(first, Elementwise::sub, PairForm::then_v);
    chained<First, kForm, Op_sub, false>(first, Elementwise::sub, PairForm::then_s);
    chained<First, kForm, Minus, true>(first, Elementwise::sub, PairForm::from_v);
    chained<First, kForm, Minus, false>(first, Elementwise::sub, PairForm::from_s);
    add(first, kForm, Elementwise::exp, PairForm::alone, inner<First, kForm, Op_exp>);
    add(first, kForm, Elementwise::square, PairForm::alone, inner<First, kForm, Op_square>,
        inner<First, kForm, Op_square, true>);
  }
  template <class First>
  void scaled(Elementwise first) {
    add(first, kVV, Elementwise::mul, PairForm::then_v, outer<First, Op_mul, true>);
    add(first, kVV, Elementwise::mul, PairForm::then_s, outer<First, Op_mul, false>);
  }
};

}  // namespace

void fill_pair_f32(VectorKernels& table) {
  Adder to{table};
  to.arithmetic<Op_add, kVV>(Elementwise::add);
  to.arithmetic<Op_add, kVS>(Elementwise::add);
  to.arithmetic<Op_mul, kVV>(Elementwise::mul);
  to.arithmetic<Op_mul, kVS>(Elementwise::mul);
  to.arithmetic<Op_sub, kVV>(Elementwise::sub);
  to.arithmetic<Op_sub, kVS>(Elementwise::sub);
  to.arithmetic<Op_sub, kSV>(Elementwise::sub);
  to.add(Elementwise::sub, kVS, Elementwise::div, PairForm::then_s, chain<Op_sub, kVS, Op_div, false>);
  to.scaled<Op_exp>(Elementwise::exp);
  to.scaled<Op_sigmoid>(Elementwise::sigmoid);
  to.scaled<Op_silu>(Elementwise::silu);
  to.scaled<Op_gelu>(Elementwise::gelu);
  to.scaled<Op_gelu_tanh>(Elementwise::gelu_tanh);
  to.scaled<Op_tanh>(Elementwise::tanh);
  to.scaled<Op_silu_grad>(Elementwise::silu_grad);
  to.scaled<Op_gelu_grad>(Elementwise::gelu_grad);
  to.scaled<Op_gelu_tanh_grad>(Elementwise::gelu_tanh_grad);
}

}  // namespace metal_candle::cpu::vm::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace metal_candle::cpu::vm {
HWY_EXPORT(fill_pair_f32);
void fill_pair_f32(VectorKernels& table) { HWY_DYNAMIC_DISPATCH(fill_pair_f32)(table); }
}  // namespace metal_candle::cpu::vm
#endif
