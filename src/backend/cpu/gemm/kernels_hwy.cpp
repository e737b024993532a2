// Micro kernels of f32, f64 and integers for every target Highway can reach at run time.
#define HWY_DISABLED_TARGETS (HWY_SVE | HWY_SVE2 | HWY_SVE_256 | HWY_SVE2_128)  // arrays of vectors need fixed sizes

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "backend/cpu/gemm/kernels_hwy.cpp"
#include <hwy/foreach_target.h>

#include <hwy/highway.h>

#include <algorithm>
#include <cstring>
#include <type_traits>
#include <utility>

#include "backend/cpu/gemm/kernels.h"

HWY_BEFORE_NAMESPACE();
namespace metal_candle::cpu {
namespace HWY_NAMESPACE {
namespace {
namespace hn = hwy::HWY_NAMESPACE;

// Not HWY_MAX_BYTES, which is 16 on the scalar target.
template <class T>
constexpr std::int64_t kLanes = static_cast<std::int64_t>(hn::MaxLanes(hn::ScalableTag<T>()));

template <class T>
struct Ops {
  using D = hn::ScalableTag<T>;
  using V = hn::Vec<D>;
  static constexpr std::int64_t kBytes = kLanes<T> * static_cast<std::int64_t>(sizeof(T));
  static constexpr bool kNarrows = false, kTakesLess = false;
  static V zero() { return hn::Zero(D()); }
  static V load(const char* p) { return hn::LoadU(D(), reinterpret_cast<const T*>(p)); }
  static V broadcast(const char* p) {
    T value;
    std::memcpy(&value, p, sizeof value);
    return hn::Set(D(), value);
  }
  static V fma(V a, V b, V c) {
    if constexpr (std::is_floating_point_v<T>) return hn::MulAdd(a, b, c);
    else return hn::Add(hn::Mul(a, b), c);  // unsigned, so that it wraps
  }
  static void store(V v, char* p) { hn::StoreU(v, D(), reinterpret_cast<T*>(p)); }
};

/// Pairs of 16-bit integers that came from bytes: their products' sum is exact.
struct PairOps : Ops<std::uint32_t> {
  static V fma(V a, V b, V c) {
    const hn::RebindToSigned<D> d;
#if HWY_ARCH_X86 && HWY_TARGET != HWY_SCALAR && HWY_TARGET != HWY_EMU128
    const hn::Repartition<std::int16_t, D> pairs;
    auto none = hn::Zero(d);  // x86 sums a pair in one lane
    return hn::BitCast(
        D(), hn::ReorderWidenMulAccumulate(d, hn::BitCast(pairs, a), hn::BitCast(pairs, b), hn::BitCast(d, c), none));
#else
    const auto low = [&](V x) { return hn::BitCast(D(), hn::ShiftRight<16>(hn::BitCast(d, hn::ShiftLeft<16>(x)))); };
    const auto high = [&](V x) { return hn::BitCast(D(), hn::ShiftRight<16>(hn::BitCast(d, x))); };
    return hn::Add(hn::Mul(low(a), low(b)), hn::Add(hn::Mul(high(a), high(b)), c));
#endif
  }
};

#include "backend/cpu/gemm/micro-inl.h"
#include "backend/cpu/gemm/pack-inl.h"

constexpr bool kManyRegisters = HWY_TARGET == HWY_AVX3 || HWY_TARGET == HWY_NEON;

template <class Ops>
MicroFamily family(int k_per_step = 1) {
  constexpr int unit = static_cast<int>(sizeof(hn::TFromD<typename Ops::D>)), lanes = Ops::kBytes / unit;
  if constexpr (kManyRegisters) {
    return make_family<Ops, 24, 14, 6, 2>(lanes, unit, k_per_step);
  } else {
    return make_family<Ops, 12, 6, 2, 1>(lanes, unit, k_per_step);
  }
}

const char* target_name() { return hwy::TargetName(HWY_TARGET); }

}  // namespace

const KernelSet* kernel_set() {
  static const KernelSet set = [] {
    KernelSet s{};
    s.name = target_name();
    s.f32 = family<Ops<float>>();
    s.f64 = family<Ops<double>>();
    s.i32 = family<Ops<std::uint32_t>>();
    s.pairs = family<PairOps>(2);
    s.pack_panel = &pack_panel;
    s.pack_rows = &pack_rows;
    s.widen = &widen;
    s.narrow = &narrow;
    return s;
  }();
  return &set;
}

}  // namespace HWY_NAMESPACE
}  // namespace metal_candle::cpu
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace metal_candle::cpu {
HWY_EXPORT(kernel_set);

namespace {

std::int64_t targets_of(GemmIsa isa) {
  switch (isa) {
    case GemmIsa::portable: return HWY_STATIC_TARGET;
    case GemmIsa::ssse3: return HWY_SSSE3;
    case GemmIsa::sse4: return HWY_SSE4;
    case GemmIsa::avx2: return HWY_AVX2;
    case GemmIsa::avx512: return HWY_AVX3;
    case GemmIsa::neon: return HWY_NEON;
    case GemmIsa::best: break;
  }
  return 0;
}

KernelSet choose(GemmIsa isa, bool dots) {
  if (isa != GemmIsa::best) hwy::SetSupportedTargetsForTest(targets_of(isa));
  hwy::GetChosenTarget().Update(hwy::SupportedTargets());
  KernelSet set = *HWY_DYNAMIC_DISPATCH(kernel_set)();
  hwy::SetSupportedTargetsForTest(0);
  hwy::GetChosenTarget().Update(hwy::SupportedTargets());
  // The dot product kernels share B panels' width with the f32 ones only on AVX-512, where they exist.
  const bool bf16 = dots && set.f32.lanes == bf16_dot_family().lanes;
  if (bf16) set.bf16 = bf16_dot_family();
  const bool vnni = dots && add_vnni(set);
  if (bf16) set.name = vnni ? "AVX3+bf16+vnni" : "AVX3+bf16";
  else if (vnni) set.name = set.f32.lanes == 16 ? "AVX3+vnni" : "AVX2+vnni";
  return set;
}

KernelSet& mutable_kernels() {
  static KernelSet set = choose(GemmIsa::best, true);
  return set;
}

}  // namespace

const KernelSet& current_kernels() { return mutable_kernels(); }

bool set_gemm_isa(GemmIsa isa, bool dots) {
  hwy::SetSupportedTargetsForTest(0);
  const std::int64_t reachable = (hwy::SupportedTargets() & HWY_TARGETS) | HWY_STATIC_TARGET;
  if (isa != GemmIsa::best && (targets_of(isa) & reachable) == 0) return false;
  mutable_kernels() = choose(isa, dots);
  return true;
}

const char* gemm_isa_name() { return current_kernels().name; }

GemmType sum_type(GemmType type) {
  if (type == GemmType::i32 || is_byte(type)) return GemmType::i32;
  return type == GemmType::f64 ? GemmType::f64 : GemmType::f32;
}

const MicroFamily& family_of(const KernelSet& set, GemmType type) {
  if (type == GemmType::f64) return set.f64;
  if (type == GemmType::i32) return set.i32;
  if (is_byte(type)) return set.quads[0].lanes != 0 ? set.quads[is_signed(type, Operand::left)] : set.pairs;
  return type == GemmType::bf16 && set.bf16.lanes != 0 ? set.bf16 : set.f32;
}

PackKind pack_kind(const KernelSet& set, GemmType type, Operand operand) {
  switch (type) {
    case GemmType::f32:
    case GemmType::i32: return PackKind::copy32;
    case GemmType::f64: return PackKind::copy64;
    case GemmType::bf16: return set.bf16.lanes != 0 ? PackKind::bf16_pairs : PackKind::bf16_widen;
    case GemmType::f16: return PackKind::f16_widen;
    default: break;
  }
  if (set.quads[0].lanes == 0) return is_signed(type, operand) ? PackKind::i8_pairs : PackKind::u8_pairs;
  const bool alike = type == GemmType::i8 || type == GemmType::u8;
  return alike && operand == Operand::right ? PackKind::quads_off : PackKind::quads;
}

}  // namespace metal_candle::cpu
#endif
