// What fusing a short chain can gain at most: its arithmetic bare, operation by operation with a result in memory for
// each, and in one pass; no graph, no plan, no allocation. The suite's section `seeds` asks for twice our own eager mode,
// which on such chains is bounded by this ratio as soon as both sides' overheads are small.
//
//   bench_chains
#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <functional>
#include <vector>

#include "suite/ours.h"

namespace mc = metal_candle;

namespace {

double now() { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); }

/// The best of many bursts, in nanoseconds a call.
double best(const std::function<void()>& work) {
  constexpr int kCalls = 2000;
  double least = 1e30;
  for (int burst = 0; burst < 60; ++burst) {
    const double begin = now();
    for (int i = 0; i < kCalls; ++i) work();
    least = std::min(least, (now() - begin) / kCalls);
  }
  return least * 1e9;
}

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

void show(const char* name, double apart, double together, double eager, double lazy) {
  fmt::print(
      "{:<24} bare: one by one {:6.0f} ns, one pass {:6.0f} ns: {:.2f} x | library: eager {:6.0f} ns, lazy {:6.0f} "
      "ns: {:.2f} x\n",
      name, apart, together, apart / together, eager, lazy, eager / lazy);
}

void library(const std::function<mc::LazyTensor()>& record, double& eager, double& lazy) {
  lazy = best([&] { record().eval(); });
  const mc::EagerMode guard;
  eager = best([&] { record().eval(); });
}

void add_mul(int n) {
  const auto a = numbers(n), b = numbers(n);
  auto between = numbers(n), out = numbers(n);
  const double apart = best([&] {
    add(a.data(), b.data(), between.data(), n);
    scale(between.data(), 2, out.data(), n);
    used(out.data());
  });
  const double together = best([&] {
    add_scale(a.data(), b.data(), 2, out.data(), n);
    used(out.data());
  });
  const mc::Tensor ta = mc::Tensor::from(a, {n}), tb = mc::Tensor::from(b, {n});
  double eager = 0, lazy = 0;
  library([&] { return (ta + tb) * 2; }, eager, lazy);
  show(fmt::format("add+mul {}", n).c_str(), apart, together, eager, lazy);
}

void lora(int d, int r) {
  const auto x = numbers(d), a = numbers(d * r), b = numbers(r * d);
  auto narrow = numbers(r), wide = numbers(d), out = numbers(d);
  const double apart = best([&] {
    down(x.data(), a.data(), narrow.data(), d, r);
    up(narrow.data(), b.data(), wide.data(), r, d, 1);
    scale(wide.data(), 2, out.data(), d);
    used(out.data());
  });
  const double together = best([&] {
    down(x.data(), a.data(), narrow.data(), d, r);
    up(narrow.data(), b.data(), out.data(), r, d, 2);
    used(out.data());
  });
  const mc::Tensor tx = mc::Tensor::from(x, {1, d}), ta = mc::Tensor::from(a, {d, r}), tb = mc::Tensor::from(b, {r, d});
  double eager = 0, lazy = 0;
  library([&] { return mc::matmul(mc::matmul(tx, ta), tb) * 2.0; }, eager, lazy);
  show(fmt::format("lora {}x{} r{}", d, d, r).c_str(), apart, together, eager, lazy);
}

void five() {
  const auto a = numbers(kTall * kWide), b = numbers(kWide * kWide), c = numbers(kWide);
  auto x = numbers(kTall * kWide), y = x, out = x;
  const double apart = best([&] {
    tiny_product(a.data(), b.data(), x.data());
    add_row(x.data(), c.data(), y.data());
    scale(y.data(), 2, x.data(), kTall * kWide);
    tiny_softmax(x.data(), y.data());
    tiny_norm(y.data(), out.data());
    used(out.data());
  });
  const double together = best([&] {
    five_at_once(a.data(), b.data(), c.data(), out.data());
    used(out.data());
  });
  const mc::Tensor ta = mc::Tensor::from(a, {kTall, kWide}), tb = mc::Tensor::from(b, {kWide, kWide});
  const mc::Tensor tc = mc::Tensor::from(c, {kWide});
  double eager = 0, lazy = 0;
  library([&] { return mc::rms_norm(mc::softmax((mc::matmul(ta, tb) + tc) * 2.0, -1), 1e-6); }, eager, lazy);
  show("five operations, 3x4", apart, together, eager, lazy);
}

}  // namespace

int main() {
  five();
  add_mul(1024);
  lora(512, 8);
  lora(1024, 8);
  lora(2048, 16);
}
