// What an instruction computes at a column, as a value that loops over rows and reductions take in alike: one op, or
// two of which nobody else wants the first one's result. With kHalves operands may be bf16 in memory.
#if defined(MC_VM_EXPRESSIONS_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef MC_VM_EXPRESSIONS_INL_H_
#undef MC_VM_EXPRESSIONS_INL_H_
#else
#define MC_VM_EXPRESSIONS_INL_H_
#endif

#include "backend/cpu/vm/quick-inl.h"

HWY_BEFORE_NAMESPACE();
namespace metal_candle::cpu::vm::HWY_NAMESPACE {

template <class Op, bool kHalves = false>
struct Unary {
  Input<true, kHalves> a;
  static HWY_INLINE Unary of(const Instr& in, const Frame& f) { return {{in.a, f}}; }
  static constexpr bool quick = Lanes<Op>::quick;
  HWY_INLINE F all(int c) const { return Lanes<Op>::apply(a.all(c)); }
  HWY_INLINE F near(int c, F& far) const { return Lanes<Op>::near(a.all(c), far); }
  HWY_INLINE F some(int c, int n) const { return Lanes<Op>::apply(a.some(c, n)); }
  HWY_INLINE void next() { a.next(); }
};

template <class Op, Form kForm, bool kHalves = false>
struct Binary {
  Input<kForm != kSV, kHalves> a;
  Input<kForm != kVS, kHalves> b;
  static HWY_INLINE Binary of(const Instr& in, const Frame& f) { return {{in.a, f}, {in.b, f}}; }
  HWY_INLINE F all(int c) const { return Op::apply(a.all(c), b.all(c)); }
  HWY_INLINE F some(int c, int n) const { return Op::apply(a.some(c, n), b.some(c, n)); }
  HWY_INLINE void next() {
    a.next();
    b.next();
  }
};

struct Minus {  // the second operand less the first
  static HWY_INLINE F apply(F x, F z) { return z - x; }
};

template <class First, Form kFirst, class Second, bool kWalks, bool kHalves = false>
struct Chain {
  Input<kFirst != kSV, kHalves> a;
  Input<kFirst != kVS, kHalves> b;
  Input<kWalks, kHalves> c;
  static HWY_INLINE Chain of(const Instr& in, const Frame& f) { return {{in.a, f}, {in.b, f}, {in.c, f}}; }
  HWY_INLINE F all(int i) const { return Second::apply(First::apply(a.all(i), b.all(i)), c.all(i)); }
  HWY_INLINE F some(int i, int n) const {
    return Second::apply(First::apply(a.some(i, n), b.some(i, n)), c.some(i, n));
  }
  HWY_INLINE void next() {
    a.next();
    b.next();
    c.next();
  }
};
template <class First, Form kFirst, class Second, bool kHalves = false>
struct Inner {
  Input<kFirst != kSV, kHalves> a;
  Input<kFirst != kVS, kHalves> b;
  static HWY_INLINE Inner of(const Instr& in, const Frame& f) { return {{in.a, f}, {in.b, f}}; }
  static constexpr bool quick = Lanes<Second>::quick;
  HWY_INLINE F all(int i) const { return Lanes<Second>::apply(First::apply(a.all(i), b.all(i))); }
  HWY_INLINE F near(int i, F& far) const { return Lanes<Second>::near(First::apply(a.all(i), b.all(i)), far); }
  HWY_INLINE F some(int i, int n) const { return Lanes<Second>::apply(First::apply(a.some(i, n), b.some(i, n))); }
  HWY_INLINE void next() {
    a.next();
    b.next();
  }
};
template <class First, class Second, bool kWalks>
struct Outer {
  Input<true> a;
  Input<kWalks> c;
  static HWY_INLINE Outer of(const Instr& in, const Frame& f) { return {{in.a, f}, {in.c, f}}; }
  static constexpr bool quick = Lanes<First>::quick;
  HWY_INLINE F all(int i) const { return Second::apply(Lanes<First>::apply(a.all(i)), c.all(i)); }
  HWY_INLINE F near(int i, F& far) const { return Second::apply(Lanes<First>::near(a.all(i), far), c.all(i)); }
  HWY_INLINE F some(int i, int n) const { return Second::apply(Lanes<First>::apply(a.some(i, n)), c.some(i, n)); }
  HWY_INLINE void next() {
    a.next();
    c.next();
  }
};

}  // namespace metal_candle::cpu::vm::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif
