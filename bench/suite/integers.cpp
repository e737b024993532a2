// Products of bytes with sums in i32: a quantised layer's, its weight packed once. The ceiling is vpdpbusd by hand, with
// both operands in registers, where the machine has it.
#include <fmt/format.h>

#include <array>

#include "suite/ours.h"
#include "suite/product.h"
#include "suite/suite.h"
#include "suite/team.h"

#if defined(__x86_64__)
#include <hwy/base.h>

HWY_DIAGNOSTICS(push)  // g++ 12's own header starts from undefined vectors
HWY_DIAGNOSTICS_OFF(disable : 4701, ignored "-Wmaybe-uninitialized")
HWY_DIAGNOSTICS_OFF(disable : 4701, ignored "-Wuninitialized")
#include <immintrin.h>
HWY_DIAGNOSTICS(pop)
#endif

namespace bench {
namespace {

constexpr std::int64_t kRounds = 200000;
constexpr int kChains = 24;
constexpr double kOperations = 2.0 * 64 * kChains * kRounds;  // of a thread

#if defined(__x86_64__)
bool has_vnni() { return __builtin_cpu_supports("avx512vnni") != 0; }

__attribute__((target("avx512f,avx512vnni"))) void dot_products() {
  __m512i sums[kChains], all = _mm512_setzero_si512();
  __m512i a = _mm512_set1_epi32(0x01020304), b = _mm512_set1_epi32(0x04030201);
  asm volatile("" : "+v"(a), "+v"(b));  // as if they could be anything
#pragma GCC unroll 24
  for (int c = 0; c < kChains; ++c) sums[c] = _mm512_set1_epi32(c);
  for (std::int64_t i = 0; i < kRounds; ++i) {
#pragma GCC unroll 24
    for (int c = 0; c < kChains; ++c) sums[c] = _mm512_dpbusd_epi32(sums[c], a, b);
  }
#pragma GCC unroll 24
  for (int c = 0; c < kChains; ++c) all = _mm512_add_epi32(all, sums[c]);
  asm volatile("" : : "v"(all));
}
#else
bool has_vnni() { return false; }
void dot_products() {}
#endif

void ceiling(Suite& suite) {
  if (!has_vnni()) return;
  Contest contest(suite);
  contest.local("bare", [] { team().run([](int) { dot_products(); }); }).run();
  Row row{"integers", "vpdpbusd by hand"};
  row.add("rate", kOperations * team().size() / contest.seconds("bare") * 1e-9, "GOP/s");
  contest.describe(row);
  suite.report.add(std::move(row));
}

void one(Suite& suite, std::int64_t m, std::int64_t n, std::int64_t k) {
  mc::Tensor w = random_tensor({k, n}, mc::DType::i8, 40);
  w.freeze();
  const mc::Tensor x = random_tensor({m, k}, mc::DType::i8, 40);
  const Product bare{m, n, k, mc::DType::i8, true};
  Contest contest(suite);
  contest.local("ours", [&] { mc::matmul(x, w).eval(); }).local("own GEMM", own_product(bare));
  if (const auto work = onednn_product(bare)) contest.local("oneDNN", work);
  if (has_vnni()) contest.local("by hand", [] { team().run([](int) { dot_products(); }); });
  contest.torch(fmt::format("int_mm:{}:{}:{}", m, n, k), false).run();

  Row row{"integers", fmt::format("{}->{} M={} i8", k, n, m)};
  row.add("rate", bare.flops() / contest.seconds("ours") * 1e-9, "GOP/s");
  contest.describe(row);
  if (contest.has("by hand"))
    row.add("of vpdpbusd by hand", contest.ratio("ours", "by hand") * bare.flops() / (kOperations * team().size()));
  if (contest.has("oneDNN")) row.at_least("of oneDNN", contest.ratio("ours", "oneDNN"), 0.9);
  if (const std::string torch = contest.fastest("torch"); !torch.empty())
    row.add("x " + torch, contest.ratio("ours", torch));
  suite.report.add(std::move(row));
}

}  // namespace

void integers(Suite& suite) {
  ceiling(suite);
  for (const auto& [m, n, k] : {std::array<std::int64_t, 3>{1024, 1024, 1024},
                                {512, 4096, 4096},
                                {128, 2048, 2048},
                                {8, 4096, 4096},
                                {1, 4096, 4096},
                                {1, 2048, 2048}})
    one(suite, m, n, k);
}

}  // namespace bench
