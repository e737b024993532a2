#include "suite/bare_chains.h"

#include <algorithm>
#include <cmath>
#include <memory>
#include <vector>

namespace bench {
namespace {

/// What the optimizer must suppose to be read.
void used(const void* p) { asm volatile("" : : "r"(p) : "memory"); }

// Compiled for this file's plain target and, where the machine has them, for longer vectors.
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
#define MC_BENCH_CLONES __attribute__((target_clones("default", "arch=x86-64-v3", "arch=x86-64-v4"), noinline))
#else
#define MC_BENCH_CLONES __attribute__((noinline))
#endif

MC_BENCH_CLONES void add(const float* a, const float* b, float* out, int n) {
  for (int i = 0; i < n; ++i) out[i] = a[i] + b[i];
}
MC_BENCH_CLONES void scale(const float* a, float s, float* out, int n) {
  for (int i = 0; i < n; ++i) out[i] = a[i] * s;
}
MC_BENCH_CLONES void add_scale(const float* a, const float* b, float s, float* out, int n) {
  for (int i = 0; i < n; ++i) out[i] = (a[i] + b[i]) * s;
}

/// out[j] = s · sum over i of x[i]·m[i, j], for one row x, as our products define it: one chain of fma over i for each j.
/// kBlock of them go side by side; n is a multiple of it.
template <int kBlock>
__attribute__((always_inline)) inline void row_product(const float* x, const float* m, float* out, int k, int n,
                                                       float s) {
  for (int j = 0; j < n; j += kBlock) {
    float sum[kBlock] = {};
    for (int i = 0; i < k; ++i)
      for (int c = 0; c < kBlock; ++c) sum[c] = std::fma(x[i], m[i * n + j + c], sum[c]);
    for (int c = 0; c < kBlock; ++c) out[j + c] = sum[c] * s;
  }
}
MC_BENCH_CLONES void down(const float* x, const float* a, float* out, int k, int r) {
  r == 8 ? row_product<8>(x, a, out, k, r, 1) : row_product<16>(x, a, out, k, r, 1);
}
MC_BENCH_CLONES void up(const float* x, const float* b, float* out, int r, int n, float s) {
  row_product<64>(x, b, out, r, n, s);
}

// rms_norm(softmax(2(ab + c))) of 3x4, operation by operation and at once.
constexpr int kTall = 3, kWide = 4;
MC_BENCH_CLONES void tiny_product(const float* a, const float* b, float* out) {
  for (int i = 0; i < kTall; ++i)
    for (int j = 0; j < kWide; ++j) {
      float sum = 0;
      for (int t = 0; t < kWide; ++t) sum = std::fma(a[i * kWide + t], b[t * kWide + j], sum);
      out[i * kWide + j] = sum;
    }
}
MC_BENCH_CLONES void add_row(const float* a, const float* c, float* out) {
  for (int i = 0; i < kTall * kWide; ++i) out[i] = a[i] + c[i % kWide];
}
__attribute__((always_inline)) inline void softmax_row(const float* x, float* y) {
  float top = x[0], sum = 0;
  for (int j = 1; j < kWide; ++j) top = std::max(top, x[j]);
  for (int j = 0; j < kWide; ++j) sum += y[j] = std::exp(x[j] - top);
  for (int j = 0; j < kWide; ++j) y[j] /= sum;
}
__attribute__((always_inline)) inline void norm_row(const float* x, float* y) {
  float sum = 0;
  for (int j = 0; j < kWide; ++j) sum += x[j] * x[j];
  const float scale = 1 / std::sqrt(sum / kWide + 1e-6f);
  for (int j = 0; j < kWide; ++j) y[j] = x[j] * scale;
}
MC_BENCH_CLONES void tiny_softmax(const float* x, float* y) {
  for (int i = 0; i < kTall * kWide; i += kWide) softmax_row(x + i, y + i);
}
MC_BENCH_CLONES void tiny_norm(const float* x, float* y) {
  for (int i = 0; i < kTall * kWide; i += kWide) norm_row(x + i, y + i);
}
MC_BENCH_CLONES void five_at_once(const float* a, const float* b, const float* c, float* out) {
  for (int i = 0; i < kTall; ++i) {
    float row[kWide] = {};
    for (int t = 0; t < kWide; ++t)
      for (int j = 0; j < kWide; ++j) row[j] = std::fma(a[i * kWide + t], b[t * kWide + j], row[j]);
    for (int j = 0; j < kWide; ++j) row[j] = (row[j] + c[j]) * 2;
    softmax_row(row, row);
    norm_row(row, out + i * kWide);
  }
}

std::vector<float> numbers(int n) {
  std::vector<float> v(static_cast<std::size_t>(n));
  for (int i = 0; i < n; ++i) v[static_cast<std::size_t>(i)] = static_cast<float>(i % 17) * 0.01f;
  return v;
}

/// Arrays of a chain, kept by its two functions.
using Kept = std::shared_ptr<std::vector<std::vector<float>>>;
Kept keep(std::vector<std::vector<float>> arrays) { return std::make_shared<Kept::element_type>(std::move(arrays)); }

}  // namespace

BareChain bare_add_mul(int n) {
  const Kept m = keep({numbers(n), numbers(n), numbers(n), numbers(n)});
  const float *const a = (*m)[0].data(), *const b = (*m)[1].data();
  float *const between = (*m)[2].data(), *const out = (*m)[3].data();
  return {[=] {
            add(a, b, between, n);
            scale(between, 2, out, n);
            used((*m)[3].data());
          },
          [=] {
            add_scale(a, b, 2, out, n);
            used((*m)[3].data());
          }};
}

BareChain bare_lora(int d, int r) {
  const Kept m = keep({numbers(d), numbers(d * r), numbers(r * d), numbers(r), numbers(d), numbers(d)});
  const float *const x = (*m)[0].data(), *const a = (*m)[1].data(), *const b = (*m)[2].data();
  float *const narrow = (*m)[3].data(), *const wide = (*m)[4].data(), *const out = (*m)[5].data();
  return {[=] {
            down(x, a, narrow, d, r);
            up(narrow, b, wide, r, d, 1);
            scale(wide, 2, out, d);
            used((*m)[5].data());
          },
          [=] {
            down(x, a, narrow, d, r);
            up(narrow, b, out, r, d, 2);
            used((*m)[5].data());
          }};
}

BareChain bare_five() {
  constexpr int n = kTall * kWide;
  const Kept m = keep({numbers(n), numbers(kWide * kWide), numbers(kWide), numbers(n), numbers(n), numbers(n)});
  const float *const a = (*m)[0].data(), *const b = (*m)[1].data(), *const c = (*m)[2].data();
  float *const x = (*m)[3].data(), *const y = (*m)[4].data(), *const out = (*m)[5].data();
  return {[=] {
            tiny_product(a, b, x);
            add_row(x, c, y);
            scale(y, 2, x, n);
            tiny_softmax(x, y);
            tiny_norm(y, out);
            used((*m)[5].data());
          },
          [=] {
            five_at_once(a, b, c, out);
            used((*m)[5].data());
          }};
}

}  // namespace bench
