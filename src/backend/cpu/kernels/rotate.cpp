#include "backend/cpu/kernels/rotate.h"

#include "backend/cpu/vm/targets.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "backend/cpu/kernels/rotate.cpp"
#include <hwy/foreach_target.h>

#include <hwy/highway.h>

#include "backend/cpu/kernels/tasks.h"
#include "backend/cpu/kernels/types.h"

HWY_BEFORE_NAMESPACE();
namespace metal_candle::cpu::HWY_NAMESPACE {
namespace {
namespace hn = hwy::HWY_NAMESPACE;

using D = HWY_FULL(float);
using DU = hn::RebindToUnsigned<D>;
using DI = hn::RebindToSigned<D>;
using D16 = hn::Rebind<std::uint16_t, D>;
constexpr D d;
constexpr DU du;
constexpr D16 d16;

HWY_INLINE hn::Vec<D> read(const float* p) { return hn::LoadU(d, p); }
HWY_INLINE void write(hn::Vec<D> x, float* p) { hn::StoreU(x, d, p); }
HWY_INLINE hn::Vec<D> read(const bf16* p) {
  return hn::BitCast(d,
                     hn::ShiftLeft<16>(hn::PromoteTo(du, hn::LoadU(d16, reinterpret_cast<const std::uint16_t*>(p)))));
}
HWY_INLINE void write(hn::Vec<D> x, bf16* p) {
  const auto u = hn::BitCast(du, x), high = hn::ShiftRight<16>(u);
  const auto rounded = hn::ShiftRight<16>(hn::Add(u, hn::Add(hn::And(high, hn::Set(du, 1u)), hn::Set(du, 0x7fffu))));
  const auto kept = hn::IfThenElse(hn::RebindMask(du, hn::IsNaN(x)), hn::Or(high, hn::Set(du, 0x40u)), rounded);
  hn::StoreU(hn::DemoteTo(d16, hn::BitCast(DI(), kept)), d16, reinterpret_cast<std::uint16_t*>(p));
}

/// Both halves of a head, components adjacent; how many components of each are done.
template <class T>
std::int64_t rotate_head(const T* x, T* y, const float* cosine, const float* sine, float sign, std::int64_t half) {
  const auto n = static_cast<std::int64_t>(hn::Lanes(d));
  const auto turn = hn::Set(d, sign);
  std::int64_t c = 0;
  for (; c + n <= half; c += n) {
    const auto a = read(x + c), b = read(x + half + c);
    const auto cos = hn::LoadU(d, cosine + c), sin = hn::Mul(turn, hn::LoadU(d, sine + c));
    write(hn::Sub(hn::Mul(a, cos), hn::Mul(b, sin)), y + c);
    write(hn::Add(hn::Mul(a, sin), hn::Mul(b, cos)), y + half + c);
  }
  return c;
}

std::int64_t rotate_f32(const float* x, float* y, const float* cosine, const float* sine, float sign,
                        std::int64_t half) {
  return rotate_head(x, y, cosine, sine, sign, half);
}
std::int64_t rotate_bf16(const bf16* x, bf16* y, const float* cosine, const float* sine, float sign,
                         std::int64_t half) {
  return rotate_head(x, y, cosine, sine, sign, half);
}

}  // namespace
}  // namespace metal_candle::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace metal_candle::cpu {
namespace {

HWY_EXPORT(rotate_f32);
HWY_EXPORT(rotate_bf16);

/// x [.., t, h, d] and the tables [.., t, d/2], whose leading axes are those of x or 1.
struct Rotation {
  const KernelTensor &x, &cosine, &sine;
  std::int64_t tokens = 1, heads, half, head_stride, component;
  explicit Rotation(const KernelCall& c) : x(c.inputs[0]), cosine(c.inputs[1]), sine(c.inputs[2]) {
    const int r = x.shape.rank();
    for (int i = 0; i < r - 2; ++i) tokens *= x.shape[i];
    heads = x.shape[r - 2];
    half = x.shape[r - 1] / 2;
    head_stride = x.strides[r - 2];
    component = x.strides[r - 1];
  }

  struct Place {
    std::int64_t x, cosine, sine;
  };
  Place place(std::int64_t token) const {
    Place p{};
    for (int i = x.shape.rank() - 3; i >= 0; --i) {
      const std::int64_t at = token % x.shape[i];
      token /= x.shape[i];
      p.x += at * x.strides[i];
      const int axis = i - (x.shape.rank() - 1 - cosine.shape.rank());
      if (axis < 0 || cosine.shape[axis] == 1) continue;
      p.cosine += at * cosine.strides[axis];
      p.sine += at * sine.strides[axis];
    }
    return p;
  }
};

template <class T>
using Wide = std::conditional_t<is_half<T>, float, T>;

/// Components first .. half of one head, whatever the strides.
template <class T>
void rotate_rest(const Rotation& r, const T* x, T* y, const Wide<T>* cosine, const Wide<T>* sine, Wide<T> sign,
                 std::int64_t first) {
  const std::int64_t cos_step = r.cosine.strides[r.cosine.strides.rank() - 1];
  const std::int64_t sin_step = r.sine.strides[r.sine.strides.rank() - 1];
  for (std::int64_t c = first; c < r.half; ++c) {
    const auto a = static_cast<Wide<T>>(x[c * r.component]), b = static_cast<Wide<T>>(x[(r.half + c) * r.component]);
    const Wide<T> cos = cosine[c * cos_step], sin = sign * sine[c * sin_step];
    y[c] = static_cast<T>(a * cos - b * sin);
    y[r.half + c] = static_cast<T>(a * sin + b * cos);
  }
}

template <class T>
void rotate_token(const KernelCall& call, const Rotation& r, std::int64_t token) {
  const Rotation::Place at = r.place(token);
  const auto *cosine = r.cosine.as<const Wide<T>>() + at.cosine, *sine = r.sine.as<const Wide<T>>() + at.sine;
  const bool adjacent = r.component == 1 && r.cosine.strides[r.cosine.strides.rank() - 1] == 1 &&
                        r.sine.strides[r.sine.strides.rank() - 1] == 1;
  const auto sign = static_cast<Wide<T>>(call.attrs[0]);
  for (std::int64_t h = 0; h < r.heads; ++h) {
    const T* x = r.x.as<const T>() + at.x + h * r.head_stride;
    T* y = call.outputs[0].as<T>() + (token * r.heads + h) * 2 * r.half;
    std::int64_t done = 0;
    if constexpr (std::is_same_v<T, float>) {
      if (adjacent) done = HWY_DYNAMIC_DISPATCH(rotate_f32)(x, y, cosine, sine, sign, r.half);
    } else if constexpr (std::is_same_v<T, bf16>) {
      if (adjacent) done = HWY_DYNAMIC_DISPATCH(rotate_bf16)(x, y, cosine, sine, sign, r.half);
    }
    rotate_rest<T>(r, x, y, cosine, sine, sign, done);
  }
}

std::int64_t tasks(const KernelCall& c, int) {
  const Rotation r(c);
  return task_count(c.inputs[0].shape.numel() * static_cast<std::int64_t>(size_of(c.inputs[0].dtype)), r.tokens);
}

void run(const KernelCall& c, int, std::int64_t task) {
  const Rotation r(c);
  const Range range = part(r.tokens, tasks(c, 0), task);
  visit(c.inputs[0].dtype, [&]<class T>() {
    if constexpr (std::is_floating_point_v<T> || is_half<T>)
      for (std::int64_t token = range.begin; token < range.end; ++token) rotate_token<T>(c, r, token);
  });
}

}  // namespace

const CpuKernel rotate_kernel{.run = run, .tasks = tasks, .takes_strides = true, .in_place_input = 0};

}  // namespace metal_candle::cpu
#endif
