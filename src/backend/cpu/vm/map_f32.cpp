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

template <class Op>
void unary(const Instr& in, const Frame& f) {
  run_rows<Unary<Op>>(in, f);
}

template <class Op, Form kForm>
void binary(const Instr& in, const Frame& f) {
  run_rows<Binary<Op, kForm>>(in, f);
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
