// What rows of f32 can reach on this machine with nothing around them: the work of the suite's sections `rows` and
// `row_programs` at [8192,4096], each as one loop written by hand for AVX-512, on two threads, beside the best copy and
// the best read in turns. The next row is asked for while a row is stored; where the arithmetic takes long (softmax)
// the last stage of a row runs in turns with the first ones of the next. 256 pieces of 32 rows, as the library cuts.
// And silu(x)·w at [128,1024], whose arrays stay in the caches, forward and with the gradient of x. silu and its gradient
// are compared with sums in double.
#include <cstdio>

#if defined(__x86_64__)
#include <immintrin.h>
#include <sys/mman.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <iterator>
#include <vector>

#include "suite/team.h"

// g++ 12 warns of its own intrinsics, which leave undefined what is masked out.
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif

#define BARE __attribute__((target("avx512f,avx512dq")))
#define BARE_INLINE BARE __attribute__((always_inline)) static inline

namespace {

constexpr std::int64_t kRows = 8192, kCols = 4096, kWidth = 576, kTask = 32;

double now() { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); }

float* pages(std::int64_t floats) {
  constexpr std::size_t huge = std::size_t{2} << 20;
  const std::size_t bytes = (static_cast<std::size_t>(floats) * 4 + huge) / huge * huge;
  void* raw = mmap(nullptr, bytes + huge, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  auto* p = reinterpret_cast<char*>((reinterpret_cast<std::uintptr_t>(raw) + huge - 1) / huge * huge);
  madvise(p, bytes, MADV_HUGEPAGE);
  std::memset(p, 0, bytes);
  return reinterpret_cast<float*>(p);
}

struct Arrays {
  float *x, *z, *w, *table, *y, *y2, *gathered;
};
alignas(4096) float kept[2][2 * kCols];  // of each thread: two rows

using V = __m512;
BARE_INLINE V all(float x) { return _mm512_set1_ps(x); }
BARE_INLINE V load(const float* p) { return _mm512_loadu_ps(p); }
BARE_INLINE void stream(float* p, V v) { _mm512_stream_ps(p, v); }
BARE_INLINE void fetch(const float* p) { _mm_prefetch(reinterpret_cast<const char*>(p), _MM_HINT_T0); }
BARE_INLINE float sum_of(const V* a) { return _mm512_reduce_add_ps((a[0] + a[1]) + (a[2] + a[3])); }
BARE_INLINE float max_of(const V* a) {
  return _mm512_reduce_max_ps(_mm512_max_ps(_mm512_max_ps(a[0], a[1]), _mm512_max_ps(a[2], a[3])));
}
BARE_INLINE void set(V* a, float x) {
  for (int j = 0; j < 4; ++j) a[j] = all(x);
}

/// exp for |x| below 87: 2^(multiple of 1/16) from a register, three terms of the rest.
BARE_INLINE V exp_of(V x) {
  alignas(64) static constexpr float kRoots[16] = {
      1.0f,        1.04427378f, 1.09050773f, 1.13878863f, 1.18920712f, 1.24185781f, 1.29683955f, 1.35425555f,
      1.41421356f, 1.47682615f, 1.54221083f, 1.61049033f, 1.68179283f, 1.75625216f, 1.83400809f, 1.91520656f};
  const V magic = all(1.5f * 524288.0f), t = _mm512_fmadd_ps(x, all(1.44269504f), magic), b = t - magic;
  V r = _mm512_fnmadd_ps(b, all(0.693115234375f), x);
  r = _mm512_fnmadd_ps(b, all(3.19461833e-5f), r);
  const __m512i last = _mm512_castps_si512(t);
  const V root = _mm512_permutexvar_ps(last, _mm512_load_ps(kRoots));
  const __m512i exponent = _mm512_slli_epi32(_mm512_srli_epi32(last, 4), 23);
  const V power = _mm512_castsi512_ps(_mm512_add_epi32(_mm512_castps_si512(root), exponent));
  const V q = _mm512_fmadd_ps(_mm512_fmadd_ps(all(0.166666667f), r, all(0.5f)), r * r, r);
  return _mm512_fmadd_ps(power, q, power);
}

/// A function of each element and its column's weight.
template <class Fn>
BARE_INLINE void each(const Arrays& a, std::int64_t begin, std::int64_t end, Fn fn) {
  for (std::int64_t i = begin * kCols; i < end * kCols; i += 64) {
    V v[4];
    for (int j = 0; j < 4; ++j) {
      const float* p = a.x + i + 16 * j;
      fetch(p + 2048);
      v[j] = fn(load(p), load(a.w + (i + 16 * j) % kCols));
    }
    for (int j = 0; j < 4; ++j) stream(a.y + i + 16 * j, v[j]);
  }
}
BARE void gelu(const Arrays& a, std::int64_t begin, std::int64_t end, int) {
  each(a, begin, end, [](V element, V w) BARE {
    const V x = _mm512_fmadd_ps(element, w, w);
    const V u = x * _mm512_fmadd_ps(x * x, all(0.07135481627260025f), all(1.5957691216057308f));
    return x / (all(1) + exp_of(-u));
  });
}
BARE void silu(const Arrays& a, std::int64_t begin, std::int64_t end, int) {
  each(a, begin, end, [](V x, V w) BARE { return x / (all(1) + exp_of(-x)) * w; });
}

/// With the gradient of x for dy = z.
BARE void silu_both(const Arrays& a, std::int64_t begin, std::int64_t end, int) {
  for (std::int64_t i = begin * kCols; i < end * kCols; i += 64) {
    V v[4], g[4];
    for (int j = 0; j < 4; ++j) {
      const std::int64_t at = i + 16 * j;
      fetch(a.x + at + 1024);
      fetch(a.z + at + 1024);
      const V x = load(a.x + at), w = load(a.w + at % kCols), s = all(1) / (all(1) + exp_of(-x));
      v[j] = x * s * w;
      g[j] = load(a.z + at) * w * (s * _mm512_fmadd_ps(x, all(1) - s, all(1)));
    }
    for (int j = 0; j < 4; ++j) stream(a.y + i + 16 * j, v[j]);
    for (int j = 0; j < 4; ++j) stream(a.y2 + i + 16 * j, g[j]);
  }
}

/// silu(x)·w of rows of 1024 that lie in the caches, with the gradient of x for dy = z if kBoth: one exponential and one
/// division for both.
template <bool kBoth>
BARE void small_silu(const Arrays& a, std::int64_t begin, std::int64_t end) {
  for (std::int64_t i = begin; i < end; i += 64)
    for (int j = 0; j < 4; ++j) {
      const std::int64_t at = i + 16 * j;
      const V x = load(a.x + at), w = load(a.w + at % 1024), s = all(1) / (all(1) + exp_of(-x));
      _mm512_store_ps(a.y + at, x * s * w);
      if (!kBoth) continue;
      const V slope = s * _mm512_fmadd_ps(x, all(1) - s, all(1));
      _mm512_store_ps(a.y2 + at, load(a.z + at) * w * slope);
    }
}

BARE void softmax(const Arrays& a, std::int64_t begin, std::int64_t end, int thread) {
  constexpr std::int64_t kPiece = 256;
  V v[4], sum = all(1);
  for (std::int64_t r = begin; r <= end; ++r) {
    const float* x = a.x + r * kCols;
    float *here = kept[thread] + r % 2 * kCols, *before = kept[thread] + (r + 1) % 2 * kCols;
    float* y = a.y + (r - 1) * kCols;
    const auto divide = [&](std::int64_t p) BARE {
      for (std::int64_t c = p / 2; r > begin && c < (p + kPiece) / 2; c += 16) stream(y + c, load(before + c) / sum);
    };
    if (r == end) {
      for (std::int64_t p = 0; p < 2 * kCols; p += kPiece) divide(p);
      return;
    }
    set(v, -INFINITY);
    for (std::int64_t p = 0; p < kCols; p += kPiece) {
      for (std::int64_t c = p; c < p + kPiece; c += 64)
        for (int j = 0; j < 4; ++j) v[j] = _mm512_max_ps(v[j], load(x + c + 16 * j));
      divide(p);
    }
    const V top = all(max_of(v));
    set(v, 0);
    for (std::int64_t p = 0; p < kCols; p += kPiece) {
      for (std::int64_t c = p; c < p + kPiece; c += 64)
        for (int j = 0; j < 4; ++j) {
          fetch(x + kCols + c + 16 * j);
          const V e = exp_of(load(x + c + 16 * j) - top);
          _mm512_store_ps(here + c + 16 * j, e);
          v[j] = v[j] + e;
        }
      divide(kCols + p);
    }
    sum = all(sum_of(v));
  }
}

BARE void rms_norm(const Arrays& a, std::int64_t begin, std::int64_t end, int) {
  V v[4];
  for (std::int64_t r = begin; r < end; ++r) {
    const float* x = a.x + r * kCols;
    set(v, 0);
    for (std::int64_t c = 0; c < kCols; c += 64)
      for (int j = 0; j < 4; ++j) v[j] = _mm512_fmadd_ps(load(x + c + 16 * j), load(x + c + 16 * j), v[j]);
    const V scale = all(1 / std::sqrt(sum_of(v) / kCols + 1e-6f));
    for (std::int64_t c = 0; c < kCols; c += 16) {
      stream(a.y + r * kCols + c, load(x + c) * scale * load(a.w + c));
      fetch(x + kCols + c);
    }
  }
}

BARE void two_reductions(const Arrays& a, std::int64_t begin, std::int64_t end, int) {
  V v[4], m[4];
  for (std::int64_t r = begin; r < end; ++r) {
    const float* x = a.x + r * kCols;
    set(v, 0);
    set(m, 0);
    for (std::int64_t c = 0; c < kCols; c += 64)
      for (int j = 0; j < 4; ++j) {
        const V e = load(x + c + 16 * j);
        v[j] = v[j] + e;
        m[j] = _mm512_max_ps(m[j], _mm512_abs_ps(e));
      }
    const V mean = all(sum_of(v) / kCols), most = all(max_of(m) + 1e-6f);
    for (std::int64_t c = 0; c < kCols; c += 16) {
      stream(a.y + r * kCols + c, (load(x + c) - mean) / most);
      fetch(x + kCols + c);
    }
  }
}

BARE void two_outputs(const Arrays& a, std::int64_t begin, std::int64_t end, int thread) {
  V v[4];
  float* here = kept[thread];
  for (std::int64_t r = begin; r < end; ++r) {
    const float *x = a.x + r * kCols, *z = a.z + r * kCols;
    set(v, 0);
    for (std::int64_t c = 0; c < kCols; c += 64)
      for (int j = 0; j < 4; ++j) {
        const V h = load(x + c + 16 * j) + load(z + c + 16 * j);
        v[j] = _mm512_fmadd_ps(h, h, v[j]);
        _mm512_store_ps(here + c + 16 * j, h);
        stream(a.y + r * kCols + c + 16 * j, h);
      }
    const V scale = all(1 / std::sqrt(sum_of(v) / kCols + 1e-6f));
    for (std::int64_t c = 0; c < kCols; c += 16) {
      stream(a.y2 + r * kCols + c, load(here + c) * scale * load(a.w + c));
      fetch(x + kCols + c);
      fetch(z + kCols + c);
    }
  }
}

/// Eight rows at a time, so that the rows of the table are on their way while others are searched.
BARE void gather(const Arrays& a, std::int64_t begin, std::int64_t end, int) {
  constexpr int kBlock = 8;
  std::int64_t at[kBlock];
  for (std::int64_t first = begin; first < end; first += kBlock) {
    for (int q = 0; q < kBlock; ++q) {
      const float* x = a.x + (first + q) * kCols;
      V v[4];
      set(v, -INFINITY);
      for (std::int64_t c = 0; c < kCols; c += 64)
        for (int j = 0; j < 4; ++j) {
          fetch(x + c + 16 * j + 2048);
          v[j] = _mm512_max_ps(v[j], load(x + c + 16 * j));
        }
      const V top = all(max_of(v));
      std::int64_t c = 0;
      unsigned hit = 0;
      while ((hit = _mm512_cmp_ps_mask(load(x + c), top, _CMP_EQ_OQ)) == 0) c += 16;
      at[q] = c + __builtin_ctz(hit);
      for (std::int64_t u = 0; u < kWidth; u += 16) fetch(a.table + at[q] * kWidth + u);
    }
    for (int q = 0; q < kBlock; ++q)
      for (std::int64_t u = 0; u < kWidth; u += 16)
        stream(a.gathered + (first + q) * kWidth + u, load(a.table + at[q] * kWidth + u) * all(2));
  }
}

template <int kAhead>
BARE void copy(const Arrays& a, std::int64_t begin, std::int64_t end, int) {
  for (std::int64_t i = begin * kCols; i < end * kCols; i += 16) {
    if (kAhead > 0) fetch(a.x + i + kAhead);
    stream(a.y + i, load(a.x + i));
  }
}
BARE void read(const Arrays& a, std::int64_t begin, std::int64_t end, int) {
  V v[4];
  set(v, 0);
  for (std::int64_t i = begin * kCols; i < end * kCols; i += 64)
    for (int j = 0; j < 4; ++j) {
      fetch(a.x + i + 16 * j + 2048);
      v[j] = _mm512_max_ps(v[j], load(a.x + i + 16 * j));
    }
  volatile float seen = max_of(v);
  (void)seen;
}

struct Work {
  const char* name;
  void (*run)(const Arrays&, std::int64_t begin, std::int64_t end, int thread);
  double read, written;  // bytes
};
constexpr double kMatrix = 4.0 * kRows * kCols, kSome = 4.0 * kRows * kWidth;
const Work kWorks[] = {{"copy", copy<0>, kMatrix, kMatrix},
                       {"copy, 8 KiB ahead", copy<2048>, kMatrix, kMatrix},
                       {"read", read, kMatrix, 0},
                       {"softmax", softmax, kMatrix, kMatrix},
                       {"rms_norm", rms_norm, kMatrix, kMatrix},
                       {"silu(x)*w", silu, kMatrix, kMatrix},
                       {"gelu(x*w+w)", gelu, kMatrix, kMatrix},
                       {"two reductions", two_reductions, kMatrix, kMatrix},
                       {"two outputs", two_outputs, 2 * kMatrix, 2 * kMatrix},
                       {"silu(x)*w and gradient", silu_both, 2 * kMatrix, 2 * kMatrix},
                       {"reduction feeding a gather", gather, kMatrix + kSome, kSome}};

double seconds(bench::Team& team, const Work& work, const Arrays& a) {
  std::atomic<std::int64_t> next{0};
  const double begin = now();
  team.run([&](int thread) {
    for (std::int64_t r; (r = next.fetch_add(kTask)) < kRows;) work.run(a, r, r + kTask, thread);
    _mm_sfence();
  });
  return now() - begin;
}

/// The best of many bursts, in microseconds.
double small(bench::Team& team, void (*work)(const Arrays&, std::int64_t, std::int64_t), const Arrays& a) {
  constexpr int kCalls = 500, kHalf = 128 * 1024 / 2;
  double least = 1e30;
  for (int burst = 0; burst < 40; ++burst) {
    const double begin = now();
    for (int i = 0; i < kCalls; ++i) team.run([&](int thread) { work(a, thread * kHalf, (thread + 1) * kHalf); });
    least = std::min(least, (now() - begin) / kCalls);
  }
  return least * 1e6;
}

/// The largest error of silu(x)·w and of its gradient, beside the largest value of either, over some of the rows.
double silu_error(const Arrays& a) {
  double worst = 0, most = 0;
  silu_both(a, 64, 96, 0);
  _mm_sfence();
  for (std::int64_t i = 64 * kCols; i < 96 * kCols; ++i) {
    const double x = a.x[i], w = a.w[i % kCols], s = 1 / (1 + std::exp(-x)), y = x * s * w;
    const double g = a.z[i] * w * s * (1 + x * (1 - s));
    worst = std::max({worst, std::fabs(a.y[i] - y), std::fabs(a.y2[i] - g)});
    most = std::max({most, std::fabs(y), std::fabs(g)});
  }
  return worst / most;
}

int bare(int rounds) {
  constexpr std::int64_t n = kRows * kCols;
  const Arrays a{pages(n + 8192), pages(n + 8192), pages(kCols),         pages(kCols * kWidth),
                 pages(n),        pages(n),        pages(kRows * kWidth)};
  std::uint32_t state = 1;
  for (std::int64_t i = 0; i < n; ++i) {
    state = state * 1664525u + 1013904223u;
    a.x[i] = static_cast<float>(state >> 8) / 4194304.0f - 2;
    a.z[i] = a.x[i] / 2;
  }
  std::copy(a.x, a.x + kCols, a.w);
  std::copy(a.x, a.x + kCols * kWidth, a.table);
  if (const double error = silu_error(a); !(error < 1e-6)) return std::printf("silu is off by %g\n", error), 1;
  bench::Team team(2);
  std::vector<double> times[std::size(kWorks)];
  for (int i = 0; i < rounds; ++i)
    for (std::size_t k = 0; k < std::size(kWorks); ++k) times[k].push_back(seconds(team, kWorks[k], a));
  const auto median = [&](std::size_t k) {
    std::sort(times[k].begin(), times[k].end());
    return times[k][times[k].size() / 2];
  };
  const double copied = std::min(median(0), median(1)) / (2 * kMatrix), read = median(2) / kMatrix;
  std::printf("copy %.1f GB/s, read %.1f GB/s\n", 1e-9 / copied, 1e-9 / read);
  for (std::size_t k = 3; k < std::size(kWorks); ++k) {
    const Work& w = kWorks[k];
    const double limit = (w.read - w.written) * read + 2 * w.written * copied;
    std::printf("%-27s %6.2f ms, %.2f of the traffic limit\n", w.name, median(k) * 1e3, limit / median(k));
  }
  const double forward = small(team, small_silu<false>, a), both = small(team, small_silu<true>, a);
  std::printf("silu(x)*w [128,1024], in the caches: forward %.2f us, forward and backward %.2f us\n", forward, both);
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  if (!__builtin_cpu_supports("avx512dq")) return std::puts("needs AVX-512"), 0;
  return bare(argc > 1 ? std::atoi(argv[1]) : 15);
}
#else
int main() { std::puts("needs AVX-512"); }
#endif
