// f32 and f64 micro kernels for every target Highway can reach at run time.
#define HWY_DISABLED_TARGETS (HWY_SVE | HWY_SVE2 | HWY_SVE_256 | HWY_SVE2_128)  // arrays of vectors need fixed sizes

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "backend/cpu/gemm/kernels_hwy.cpp"
#include <hwy/foreach_target.h>

#include <hwy/highway.h>

#include <algorithm>
#include <cstring>
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
  static constexpr bool kNarrows = false;
  static V zero() { return hn::Zero(D()); }
  static V load(const char* p) { return hn::LoadU(D(), reinterpret_cast<const T*>(p)); }
  static V broadcast(const char* p) {
    T value;
    std::memcpy(&value, p, sizeof value);
    return hn::Set(D(), value);
  }
  static V fma(V a, V b, V c) { return hn::MulAdd(a, b, c); }
  static void store(V v, char* p) { hn::StoreU(v, D(), reinterpret_cast<T*>(p)); }
};

#include "backend/cpu/gemm/micro-inl.h"
#include "backend/cpu/gemm/pack-inl.h"

constexpr bool kManyRegisters = HWY_TARGET == HWY_AVX3 || HWY_TARGET == HWY_NEON;

template <class T>
MicroFamily family() {
  constexpr int lanes = static_cast<int>(kLanes<T>);
  if constexpr (kManyRegisters) {
    return make_family<Ops<T>, 24, 14, 6, 2>(lanes, sizeof(T), 1);
  } else {
    return make_family<Ops<T>, 12, 6, 2, 1>(lanes, sizeof(T), 1);
  }
}

const char* target_name() { return hwy::TargetName(HWY_TARGET); }

}  // namespace

const KernelSet* kernel_set() {
  static const KernelSet set = [] {
    KernelSet s{};
    s.name = target_name();
    s.f32 = family<float>();
    s.f64 = family<double>();
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

KernelSet choose(GemmIsa isa, bool bf16_dot) {
  if (isa != GemmIsa::best) hwy::SetSupportedTargetsForTest(targets_of(isa));
  hwy::GetChosenTarget().Update(hwy::SupportedTargets());
  KernelSet set = *HWY_DYNAMIC_DISPATCH(kernel_set)();
  hwy::SetSupportedTargetsForTest(0);
  hwy::GetChosenTarget().Update(hwy::SupportedTargets());
  // The dot product kernels share B panels' width with the f32 ones only on AVX-512, where they exist.
  if (bf16_dot && set.f32.lanes == bf16_dot_family().lanes) {
    set.bf16 = bf16_dot_family();
    set.name = "AVX3+bf16";
  }
  return set;
}

KernelSet& mutable_kernels() {
  static KernelSet set = choose(GemmIsa::best, true);
  return set;
}

}  // namespace

const KernelSet& current_kernels() { return mutable_kernels(); }

bool set_gemm_isa(GemmIsa isa, bool bf16_dot) {
  hwy::SetSupportedTargetsForTest(0);
  const std::int64_t reachable = (hwy::SupportedTargets() & HWY_TARGETS) | HWY_STATIC_TARGET;
  if (isa != GemmIsa::best && (targets_of(isa) & reachable) == 0) return false;
  mutable_kernels() = choose(isa, bf16_dot);
  return true;
}

const char* gemm_isa_name() { return current_kernels().name; }

const MicroFamily& family_of(const KernelSet& set, GemmType type) {
  if (type == GemmType::f64) return set.f64;
  return type == GemmType::bf16 && set.bf16.lanes != 0 ? set.bf16 : set.f32;
}

PackKind pack_kind(const KernelSet& set, GemmType type) {
  switch (type) {
    case GemmType::f32: return PackKind::copy32;
    case GemmType::f64: return PackKind::copy64;
    case GemmType::bf16: return set.bf16.lanes != 0 ? PackKind::bf16_pairs : PackKind::bf16_widen;
    case GemmType::f16: break;
  }
  return PackKind::f16_widen;
}

}  // namespace metal_candle::cpu
#endif
