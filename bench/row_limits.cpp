// What rows of f32 can reach on this machine with nothing around them: loops written for one kernel each, with the
// library's own vector functions, on two threads, beside the best copy of the same minute and beside the same
// arithmetic on rows that stay in the first cache. The last stage of a row is woven into the first ones of the next.
#include "backend/cpu/vm/targets.h"

// g++ 12 warns of its own intrinsics, which leave undefined what is masked out.
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif

#include <cstdio>
#include <iterator>
#include <string>

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "row_limits.cpp"
#include "hwy/foreach_target.h"

#include "backend/cpu/vm/expressions-inl.h"
#include "two_threads.h"

namespace bench {
#ifndef BENCH_ROW_LIMITS_
#define BENCH_ROW_LIMITS_
constexpr std::int64_t kRows = 8192, kCols = 4096, kPiece = 256;
struct Arrays {
  const float *x, *w;
  float *y, *kept;
  std::int64_t pitch;  // of x and y; 0 keeps one row in the first cache, and stores go there
};
using RowKernel = void (*)(const Arrays&, std::int64_t begin, std::int64_t end);
struct Limit {
  const char* name;
  RowKernel run, arithmetic;
};
#endif
}  // namespace bench

HWY_BEFORE_NAMESPACE();
namespace metal_candle::cpu::vm::HWY_NAMESPACE {
namespace {

using bench::Arrays;
using bench::kCols;
using bench::kPiece;

HWY_INLINE void fetch(const float* p) { __builtin_prefetch(p, 0, 3); }
template <bool kMemory>
HWY_INLINE void put(F v, float* to) {
  if constexpr (kMemory) hn::Stream(v.v, df, to);
  else store(v, to);
}
template <class Fn>
float lanes(F v, Fn join) {
  HWY_ALIGN float x[HWY_MAX_BYTES / 4];
  store(v, x);
  for (std::size_t i = 1; i < hn::Lanes(df); ++i) x[0] = join(x[0], x[i]);
  return x[0];
}
float total(F v) {
  return lanes(v, [](float a, float b) { return a + b; });
}
float largest(F v) {
  return lanes(v, [](float a, float b) { return a > b ? a : b; });
}
HWY_INLINE F sum4(const F* a) { return (a[0] + a[1]) + (a[2] + a[3]); }

struct Affine {  // x·w + w, then gelu
  static constexpr bool quick = Lanes<Op_gelu_tanh>::quick;
  const float *x, *w;
  HWY_INLINE F in(int c) const { return load(x + c) * load(w + c) + load(w + c); }
  HWY_INLINE F all(int c) const { return Lanes<Op_gelu_tanh>::apply(in(c)); }
  HWY_INLINE F near(int c, F& far) const { return Lanes<Op_gelu_tanh>::near(in(c), far); }
  HWY_INLINE F some(int c, int) const { return all(c); }
};
struct Shifted {  // exp(x - top)
  static constexpr bool quick = Lanes<Op_exp>::quick;
  const float* x;
  F top;
  HWY_INLINE F all(int c) const { return Lanes<Op_exp>::apply(load(x + c) - top); }
  HWY_INLINE F near(int c, F& far) const { return Lanes<Op_exp>::near(load(x + c) - top, far); }
  HWY_INLINE F some(int c, int) const { return all(c); }
};

template <bool kMemory>
void gelu_rows(const Arrays& a, std::int64_t begin, std::int64_t end) {
  const int n = static_cast<int>(hn::Lanes(df));
  F y[4];
  for (std::int64_t r = begin; r < end; ++r) {
    const Affine e{a.x + r * a.pitch, a.w};
    float* out = a.y + r * a.pitch;
    for (int c = 0; c < kCols; c += 4 * n) {
      if (kMemory)
        for (int i = 0; i < 4 * n; i += 16) fetch(e.x + c + i + 1024);
      four(e, c, y);
      for (int i = 0; i < 4; ++i) put<kMemory>(y[i], out + c + i * n);
    }
  }
}

template <bool kMemory>
void rms_rows(const Arrays& a, std::int64_t begin, std::int64_t end) {
  const int n = static_cast<int>(hn::Lanes(df));
  F s = k(0), v[4];
  const auto squares = [&](const float* x, std::int64_t cols) HWY_ATTR {
    for (int c = 0; c < cols; c += 4 * n) {
      if (kMemory)
        for (int i = 0; i < 4 * n; i += 16) fetch(x + c + i + 1024);
      for (int i = 0; i < 4; ++i) v[i] = fma(load(x + c + i * n), load(x + c + i * n), v[i]);
    }
  };
  const auto open = [&]() HWY_ATTR {
    for (F& f : v) f = k(0);
  };
  const auto close = [&]() HWY_ATTR { s = rsqrt(k(total(sum4(v))) * k(1.0f / kCols) + k(1e-5f)); };
  open();
  squares(a.x + begin * a.pitch, kCols);
  close();
  for (std::int64_t r = begin; r < end; ++r) {
    const float* x = a.x + r * a.pitch;
    float* y = a.y + r * a.pitch;
    open();
    for (std::int64_t p = 0; p < kCols; p += kPiece) {
      for (std::int64_t c = p; c < p + kPiece; c += n) put<kMemory>(load(x + c) * s * load(a.w + c), y + c);
      if (r + 1 < end) squares(x + a.pitch + p, kPiece);
    }
    close();
  }
}

template <bool kMemory>
void softmax_rows(const Arrays& a, std::int64_t begin, std::int64_t end) {
  const int n = static_cast<int>(hn::Lanes(df));
  F v[4], sum = k(1);
  // Of every row three passes; with the third one of the row before in two halves beside the first two.
  for (std::int64_t r = begin; r <= end; ++r) {
    const float *x = a.x + r * a.pitch, *before = a.kept + (r + 1) % 2 * kCols;
    float *kept = a.kept + r % 2 * kCols, *y = a.y + (r - 1) * a.pitch;
    const auto divide = [&](std::int64_t p) HWY_ATTR {
      if (r == begin) return;
      for (std::int64_t c = p / 2; c < p / 2 + kPiece / 2; c += n) put<kMemory>(load(before + c) / sum, y + c);
    };
    if (r == end) {
      for (std::int64_t p = 0; p < 2 * kCols; p += kPiece) divide(p);
      return;
    }
    for (F& f : v) f = load(x);
    for (std::int64_t p = 0; p < kCols; p += kPiece) {
      for (std::int64_t c = p; c < p + kPiece; c += 4 * n)
        for (int i = 0; i < 4; ++i) v[i] = hn::Max(v[i].v, load(x + c + i * n).v);
      divide(p);
    }
    const Shifted e{x, k(largest(hn::Max(hn::Max(v[0].v, v[1].v), hn::Max(v[2].v, v[3].v))))};
    for (F& f : v) f = k(0);
    for (std::int64_t p = 0; p < kCols; p += kPiece) {
      for (std::int64_t c = p; c < p + kPiece; c += 4 * n) {
        F z[4];
        if (kMemory)
          for (int i = 0; i < 4 * n; i += 16) fetch(x + a.pitch + c + i);
        four(e, static_cast<int>(c), z);
        for (int i = 0; i < 4; ++i) {
          store(z[i], kept + c + i * n);
          v[i] = v[i] + z[i];
        }
      }
      divide(kCols + p);
    }
    sum = k(total(sum4(v)));
  }
}

const bench::Limit kLimits[] = {{"gelu_tanh(x*w+w)", gelu_rows<true>, gelu_rows<false>},
                                {"rms_norm*w", rms_rows<true>, rms_rows<false>},
                                {"softmax", softmax_rows<true>, softmax_rows<false>}};

}  // namespace

const bench::Limit* row_limits(int i) { return i < static_cast<int>(std::size(kLimits)) ? kLimits + i : nullptr; }

}  // namespace metal_candle::cpu::vm::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace metal_candle::cpu::vm {
HWY_EXPORT(row_limits);
const bench::Limit* limit(int i) { return HWY_DYNAMIC_DISPATCH(row_limits)(i); }
}  // namespace metal_candle::cpu::vm

int main(int argc, char** argv) {
  using namespace bench;
  const int repeats = argc > 1 ? std::atoi(argv[1]) : 15;
  constexpr std::int64_t kTask = 32;
  constexpr std::size_t floats = kRows * kCols;
  char *x = pages(floats * 4 + 65536), *y = pages(floats * 4), *small = pages(1 << 20);
  fill(x, floats, 4);
  fill(small, 1 << 18, 1);
  Pair pair(true);
  const auto seconds = [&](auto fn) {
    const double t = now();
    pair.run(kRows / kTask, fn);
    return now() - t;
  };
  const double bytes = 8.0 * floats;
  for (int i = 0; const Limit* limit = metal_candle::cpu::vm::limit(i); ++i) {
    double copy = 1e9, memory = 1e9, arithmetic = 1e9;
    for (int k = 0; k < repeats; ++k) {
      copy = std::min(copy, seconds([&](std::int64_t t, int) {
                        const std::size_t piece = kTask * kCols * 4;
                        copy_stream(y + t * piece, x + t * piece, piece);
                      }));
      const auto run = [&](RowKernel kernel, bool stays) {
        return seconds([&](std::int64_t t, int thread) {
          float* near = reinterpret_cast<float*>(small) + 65536 * thread;
          const float* weights = near + 4 * kCols;
          if (stays) return kernel({near, weights, near + kCols, near + 2 * kCols, 0}, t * kTask, (t + 1) * kTask);
          kernel({reinterpret_cast<float*>(x), weights, reinterpret_cast<float*>(y), near + 2 * kCols, kCols},
                 t * kTask, (t + 1) * kTask);
          hwy::FlushStream();
        });
      };
      memory = std::min(memory, run(limit->run, false));
      arithmetic = std::min(arithmetic, run(limit->arithmetic, true));
    }
    std::printf(
        "%-18s copy %6.1f GB/s  bare kernel %6.1f GB/s: %.2f of the copy; its arithmetic alone %.2f ms, %.2f of "
        "the copy's time\n",
        limit->name, bytes / copy * 1e-9, bytes / memory * 1e-9, copy / memory, arithmetic * 1e3, arithmetic / copy);
  }
}
#endif
