#include "suite/bare_rows.h"

#if defined(__x86_64__)
#include <fmt/format.h>
#include <immintrin.h>
#include <sys/mman.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <iterator>
#include <stdexcept>

#include "suite/team.h"

// g++ 12 warns of its own intrinsics, which leave undefined what is masked out.
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif

#define BARE __attribute__((target("avx512f,avx512dq")))
#define BARE_INLINE BARE __attribute__((always_inline)) static inline

namespace bench {
namespace {

constexpr std::int64_t kRows = 8192, kCols = 4096, kWidth = 576, kTask = 32;

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
alignas(4096) thread_local float kept[2 * kCols];  // two rows

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
BARE void gelu(const Arrays& a, std::int64_t begin, std::int64_t end) {
  each(a, begin, end, [](V element, V w) BARE {
    const V x = _mm512_fmadd_ps(element, w, w);
    const V u = x * _mm512_fmadd_ps(x * x, all(0.07135481627260025f), all(1.5957691216057308f));
    return x / (all(1) + exp_of(-u));
  });
}
BARE void silu(const Arrays& a, std::int64_t begin, std::int64_t end) {
  each(a, begin, end, [](V x, V w) BARE { return x / (all(1) + exp_of(-x)) * w; });
}

/// With the gradient of x for dy = z.
BARE void silu_both(const Arrays& a, std::int64_t begin, std::int64_t end) {
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
  for (std::int64_t i = begin * 1024; i < end * 1024; i += 64)
    for (int j = 0; j < 4; ++j) {
      const std::int64_t at = i + 16 * j;
      const V x = load(a.x + at), w = load(a.w + at % 1024), s = all(1) / (all(1) + exp_of(-x));
      _mm512_store_ps(a.y + at, x * s * w);
      if (!kBoth) continue;
      const V slope = s * _mm512_fmadd_ps(x, all(1) - s, all(1));
      _mm512_store_ps(a.y2 + at, load(a.z + at) * w * slope);
    }
}

BARE void softmax(const Arrays& a, std::int64_t begin, std::int64_t end) {
  constexpr std::int64_t kPiece = 256;
  V v[4], sum = all(1);
  for (std::int64_t r = begin; r <= end; ++r) {
    const float* x = a.x + r * kCols;
    float *here = kept + r % 2 * kCols, *before = kept + (r + 1) % 2 * kCols;
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

BARE void rms_norm(const Arrays& a, std::int64_t begin, std::int64_t end) {
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

BARE void two_reductions(const Arrays& a, std::int64_t begin, std::int64_t end) {
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

BARE void two_outputs(const Arrays& a, std::int64_t begin, std::int64_t end) {
  V v[4];
  float* const here = kept;
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
BARE void gather(const Arrays& a, std::int64_t begin, std::int64_t end) {
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

// --- beside sums in double: rows that begin a task and end one ---

constexpr std::int64_t kChecked[] = {0, 31, 32, kRows - 1};

struct Difference {
  double worst = 0, most = 0;
  void operator()(float ours, double right) {
    worst = std::max(worst, std::fabs(ours - right));
    most = std::max(most, std::fabs(right));
  }
};
double sigmoid(double x) { return 1 / (1 + std::exp(-x)); }

struct Row {
  const float *x, *z, *y, *y2;
  std::int64_t r;
};
void check_softmax(const Arrays&, const Row& t, Difference& off) {
  const double top = *std::max_element(t.x, t.x + kCols);
  double sum = 0;
  for (std::int64_t c = 0; c < kCols; ++c) sum += std::exp(t.x[c] - top);
  for (std::int64_t c = 0; c < kCols; ++c) off(t.y[c], std::exp(t.x[c] - top) / sum);
}
void check_rms_norm(const Arrays& a, const Row& t, Difference& off) {
  double sum = 0;
  for (std::int64_t c = 0; c < kCols; ++c) sum += static_cast<double>(t.x[c]) * t.x[c];
  for (std::int64_t c = 0; c < kCols; ++c) off(t.y[c], t.x[c] / std::sqrt(sum / kCols + 1e-6) * a.w[c]);
}
void check_silu(const Arrays& a, const Row& t, Difference& off) {
  for (std::int64_t c = 0; c < kCols; ++c) off(t.y[c], t.x[c] * sigmoid(t.x[c]) * a.w[c]);
}
void check_silu_both(const Arrays& a, const Row& t, Difference& off) {
  check_silu(a, t, off);
  for (std::int64_t c = 0; c < kCols; ++c) {
    const double s = sigmoid(t.x[c]);
    off(t.y2[c], t.z[c] * a.w[c] * s * (1 + t.x[c] * (1 - s)));
  }
}
void check_gelu(const Arrays& a, const Row& t, Difference& off) {
  for (std::int64_t c = 0; c < kCols; ++c) {
    const double v = static_cast<double>(t.x[c]) * a.w[c] + a.w[c];
    off(t.y[c], v / 2 * (1 + std::tanh(std::sqrt(2 / 3.14159265358979) * (v + 0.044715 * v * v * v))));
  }
}
void check_two_reductions(const Arrays&, const Row& t, Difference& off) {
  double sum = 0, most = 0;
  for (std::int64_t c = 0; c < kCols; ++c) sum += t.x[c], most = std::max(most, std::fabs(static_cast<double>(t.x[c])));
  for (std::int64_t c = 0; c < kCols; ++c) off(t.y[c], (t.x[c] - sum / kCols) / (most + 1e-6));
}
void check_two_outputs(const Arrays& a, const Row& t, Difference& off) {
  double sum = 0;
  for (std::int64_t c = 0; c < kCols; ++c) sum += std::pow(static_cast<double>(t.x[c]) + t.z[c], 2);
  for (std::int64_t c = 0; c < kCols; ++c) {
    const double h = static_cast<double>(t.x[c]) + t.z[c];
    off(t.y[c], h);
    off(t.y2[c], h / std::sqrt(sum / kCols + 1e-6) * a.w[c]);
  }
}
void check_gather(const Arrays& a, const Row& t, Difference& off) {
  const std::int64_t at = std::max_element(t.x, t.x + kCols) - t.x;
  for (std::int64_t u = 0; u < kWidth; ++u) off(a.gathered[t.r * kWidth + u], 2.0 * a.table[at * kWidth + u]);
}

struct Work {
  const char* name;
  void (*run)(const Arrays&, std::int64_t begin, std::int64_t end);
  void (*check)(const Arrays&, const Row&, Difference&);  // of the large ones
};
const Work kWorks[] = {
    {"softmax [8192,4096]", softmax, check_softmax},      {"rms_norm [8192,4096]", rms_norm, check_rms_norm},
    {"silu(x)*w [8192,4096]", silu, check_silu},          {"silu(x)*w [8192,4096] fwd+bwd", silu_both, check_silu_both},
    {"gelu(x*w+w) [8192,4096]", gelu, check_gelu},        {"two reductions", two_reductions, check_two_reductions},
    {"two outputs", two_outputs, check_two_outputs},      {"reduction feeding a gather", gather, check_gather},
    {"silu(x)*w [128,1024]", small_silu<false>, nullptr}, {"silu(x)*w [128,1024] fwd+bwd", small_silu<true>, nullptr}};

/// The same for all, made at the first call.
const Arrays& arrays() {
  static const Arrays made = [] {
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
    return a;
  }();
  return made;
}

void run(const Work& work) {
  if (work.check == nullptr)
    return team().run([&](int thread) {
      const int n = team().size();
      work.run(arrays(), 128 * thread / n, 128 * (thread + 1) / n);
    });
  std::atomic<std::int64_t> next{0};
  team().run([&](int) {
    for (std::int64_t r; (r = next.fetch_add(kTask)) < kRows;) work.run(arrays(), r, r + kTask);
    _mm_sfence();
  });
}

void check(const Work& work) {
  run(work);
  const Arrays& a = arrays();
  Difference off;
  for (const std::int64_t r : kChecked)
    work.check(a, {a.x + r * kCols, a.z + r * kCols, a.y + r * kCols, a.y2 + r * kCols, r}, off);
  if (!(off.worst < 2e-6 * off.most))
    throw std::runtime_error(fmt::format("{} by hand is off by {:.3g} of {:.3g}", work.name, off.worst, off.most));
}

}  // namespace

std::function<void()> bare_rows(const std::string& name) {
  const auto* const work =
      std::find_if(std::begin(kWorks), std::end(kWorks), [&](const Work& w) { return w.name == name; });
  if (work == std::end(kWorks) || !__builtin_cpu_supports("avx512dq")) return {};
  if (work->check != nullptr) check(*work);
  return [work] { run(*work); };
}

}  // namespace bench
#else
namespace bench {
std::function<void()> bare_rows(const std::string&) { return {}; }
}  // namespace bench
#endif
