// The elementwise table over f32 vectors, compiled for every instruction set.
#include "backend/cpu/vm/targets.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "backend/cpu/vm/map_f32.cpp"
#include "hwy/foreach_target.h"

#include "backend/cpu/vm/expressions-inl.h"
#include "backend/cpu/vm/kernel_parts.h"

HWY_BEFORE_NAMESPACE();
namespace metal_candle::cpu::vm::HWY_NAMESPACE {
namespace {

template <class Op, bool kHalves = false>
void unary(const Instr& in, const Frame& f) {
  run_rows<Unary<Op, kHalves>>(in, f);
}

template <class Op, Form kForm, bool kHalves = false>
void binary(const Instr& in, const Frame& f) {
  run_rows<Binary<Op, kForm, kHalves>>(in, f);
}

template <class Op>
void set_binary(Kernel* forms) {
  forms[kVV] = binary<Op, kVV>;
  forms[kVS] = binary<Op, kVS>;
  forms[kSV] = binary<Op, kSV>;
}

void add_halves(VectorKernels& table, Kernel plain, Kernel reading_halves) {
  if (table.halves_count == kMostHalves) table_is_full("halves");
  table.halves[table.halves_count++] = {plain, reading_halves};
}
template <class Op>
void add_binary_halves(VectorKernels& table, Elementwise op) {
  const Kernel* forms = table.map[static_cast<int>(op)];
  add_halves(table, forms[kVV], binary<Op, kVV, true>);
  add_halves(table, forms[kVS], binary<Op, kVS, true>);
  add_halves(table, forms[kSV], binary<Op, kSV, true>);
}

}  // namespace

void fill_map_f32(VectorKernels& table) {
  auto forms = [&](Elementwise op) { return table.map[static_cast<int>(op)]; };
#define MC_UNARY(name, ...) forms(Elementwise::name)[kVV] = unary<Op_##name>;
#define MC_BINARY(name, ...) set_binary<Op_##name>(forms(Elementwise::name));
#define MC_COMPARE(name, body) set_binary<Op_##name>(forms(Elementwise::name));
#define MC_LOGIC(name, body) set_binary<Op_##name>(forms(Elementwise::name));
#include "metal_candle/elementwise.def"
  add_binary_halves<Op_add>(table, Elementwise::add);
  add_binary_halves<Op_sub>(table, Elementwise::sub);
  add_binary_halves<Op_mul>(table, Elementwise::mul);
  add_halves(table, forms(Elementwise::square)[kVV], unary<Op_square, true>);
}

}  // namespace metal_candle::cpu::vm::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace metal_candle::cpu::vm {
HWY_EXPORT(fill_map_f32);
void fill_map_f32(VectorKernels& table) { HWY_DYNAMIC_DISPATCH(fill_map_f32)(table); }
}  // namespace metal_candle::cpu::vm
#endif
