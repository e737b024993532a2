// The elementwise table over f32 vectors, compiled for every instruction set.
#include "backend/cpu/vm/targets.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "backend/cpu/vm/map_f32.cpp"
#include "hwy/foreach_target.h"

#include "backend/cpu/vm/instr.h"
#include "backend/cpu/vm/kernel_parts.h"
#include "backend/cpu/vm/math-inl.h"

HWY_BEFORE_NAMESPACE();
namespace metal_candle::cpu::vm::HWY_NAMESPACE {
namespace {

// One struct an op. Results are float vectors, or a mask for comparisons.
#define MC_UNARY(name, domain, body, ...) \
  struct Op_##name {                      \
    using T = F;                          \
    static HWY_INLINE F apply(F x) { return body; } \
  };
#define MC_BINARY(name, domain, body, ...) \
  struct Op_##name {                       \
    using T = F;                           \
    static HWY_INLINE F apply(F x, F z) { return body; } \
  };
#define MC_COMPARE(name, body) \
  struct Op_##name {           \
    static HWY_INLINE F apply(F x, F z) { return from_bits(hn::IfThenElseZero(hn::RebindMask(di, (body).m), hn::Set(di, 1))); } \
  };
// Booleans are 0 or 1 in i32 registers; their bits pass through float vectors untouched.
#define MC_LOGIC(name, body) \
  struct Op_##name {         \
    static HWY_INLINE F apply(F a, F b) { const Bits x{a.v}, z{b.v}; return (body).v; } \
  };
struct Bits {
  VF v;
  friend HWY_INLINE Bits operator&(Bits a, Bits b) { return {hn::And(a.v, b.v)}; }
  friend HWY_INLINE Bits operator|(Bits a, Bits b) { return {hn::Or(a.v, b.v)}; }
  friend HWY_INLINE Bits operator^(Bits a, Bits b) { return {hn::Xor(a.v, b.v)}; }
};
#include "metal_candle/elementwise.def"

/// What of the block a kernel walks: kFlat makes one row of it, kPad rounds the row up to whole vectors.
struct Walk {
  int rows, cols;
  HWY_INLINE Walk(const Instr& in, const Frame& f, int lanes) : rows(f.rows), cols(f.cols) {
    const unsigned flags = in.out.flags;
    if (flags & kFlat) {
      cols += (rows - 1) * f.row_pitch;
      rows = 1;
    }
    if (flags & kPad) cols = (cols + lanes - 1) & -lanes;
  }
};

template <class Op>
void unary(const Instr& in, const Frame& f) {
  const int n = static_cast<int>(hn::Lanes(df));
  const Walk w(in, f, n);
  float* out = at<float>(in.out, f);
  const float* a = at<const float>(in.a, f);
  const auto out_pitch = pitch(in.out, f), a_pitch = pitch(in.a, f);
  for (int r = 0; r < w.rows; ++r, out = step(out, out_pitch), a = step(a, a_pitch)) {
    int c = 0;
    for (; c + n <= w.cols; c += n) store(Op::apply(load(a + c)), out + c);
    if (c < w.cols) store_some(Op::apply(load_some(a + c, w.cols - c)), out + c, w.cols - c);
  }
}

template <class Op, Form kForm>
void binary(const Instr& in, const Frame& f) {
  const int n = static_cast<int>(hn::Lanes(df));
  const Walk w(in, f, n);
  float* out = at<float>(in.out, f);
  const float* a = at<const float>(in.a, f);
  const float* b = at<const float>(in.b, f);
  const auto out_pitch = pitch(in.out, f), a_pitch = pitch(in.a, f), b_pitch = pitch(in.b, f);
  for (int r = 0; r < w.rows; ++r) {
    const F a0 = k(kForm == kSV ? *a : 0), b0 = k(kForm == kVS ? *b : 0);
    int c = 0;
    for (; c + n <= w.cols; c += n) {
      store(Op::apply(kForm == kSV ? a0 : load(a + c), kForm == kVS ? b0 : load(b + c)), out + c);
    }
    if (const int rest = w.cols - c; rest > 0) {
      const F x = kForm == kSV ? a0 : load_some(a + c, rest), z = kForm == kVS ? b0 : load_some(b + c, rest);
      store_some(Op::apply(x, z), out + c, rest);
    }
    out = step(out, out_pitch);
    a = step(a, a_pitch);
    b = step(b, b_pitch);
  }
}

template <class Op>
void set_binary(Kernel* forms) {
  forms[kVV] = binary<Op, kVV>;
  forms[kVS] = binary<Op, kVS>;
  forms[kSV] = binary<Op, kSV>;
}

}  // namespace

void fill_map_f32(VectorKernels& table) {
  auto forms = [&](Elementwise op) { return table.map[static_cast<int>(op)]; };
#define MC_UNARY(name, ...) forms(Elementwise::name)[kVV] = unary<Op_##name>;
#define MC_BINARY(name, ...) set_binary<Op_##name>(forms(Elementwise::name));
#define MC_COMPARE(name, body) set_binary<Op_##name>(forms(Elementwise::name));
#define MC_LOGIC(name, body) set_binary<Op_##name>(forms(Elementwise::name));
#include "metal_candle/elementwise.def"
}

}  // namespace metal_candle::cpu::vm::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace metal_candle::cpu::vm {
HWY_EXPORT(fill_map_f32);
void fill_map_f32(VectorKernels& table) { HWY_DYNAMIC_DISPATCH(fill_map_f32)(table); }
}  // namespace metal_candle::cpu::vm
#endif
