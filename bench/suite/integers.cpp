// Products of bytes with sums in i32: a quantised layer's, its weight packed once. The ceiling is vpdpbusd by hand, with
// both operands in registers, where the machine has it.
#include <fmt/format.h>

#include <array>

#include "suite/ours.h"
#include "suite/product.h"
#include "suite/suite.h"
#include "suite/team.h"

namespace bench {
namespace {

constexpr std::int64_t kRounds = 200000;
constexpr int kChains = 16;
constexpr double kOperations = 2.0 * 64 * kChains * kRounds;  // of a thread

#if defined(__x86_64__)
bool has_vnni() { return __builtin_cpu_supports("avx512vnni") != 0; }

// In assembly, because a compiler puts such an array of sums into memory every round. Whatever the registers hold will do.
__attribute__((target("avx512f,avx512vnni"))) void dot_products() {
  for (std::int64_t i = 0; i < kRounds; ++i)
    asm volatile(
        ".irp sum,16,17,18,19,20,21,22,23,24,25,26,27,28,29,30,31\n\t"
        "vpdpbusd %%zmm1, %%zmm0, %%zmm\\sum\n\t"
        ".endr"
        :
        :
        : "xmm16", "xmm17", "xmm18", "xmm19", "xmm20", "xmm21", "xmm22", "xmm23", "xmm24", "xmm25", "xmm26", "xmm27",
          "xmm28", "xmm29", "xmm30", "xmm31");
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
  double here = 0, peer = 0;
  if (contest.has("oneDNN")) row.add("of oneDNN", here = contest.ratio("ours", "oneDNN"));
  if (const std::string torch = contest.fastest("torch"); !torch.empty())
    row.add("x " + torch, peer = contest.ratio("ours", torch));
  // With few rows either will do, as for other linear layers.
  if (here > 0 && (m >= 128 || here / 0.9 >= peer / 1.05)) row.at_least("of oneDNN", here, 0.9);
  else if (peer > 0) row.at_least("x torch._int_mm", peer, 1.05);
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
