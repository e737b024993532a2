// A linear layer whose weight is constant, so that it is packed once.
#include <fmt/format.h>

#include "suite/ours.h"
#include "suite/product.h"
#include "suite/suite.h"

namespace bench {
namespace {

void one(Suite& suite, std::int64_t k, std::int64_t n, std::int64_t m, mc::DType dtype) {
  const mc::Tensor w = frozen_weight(k, n, dtype), x = random_tensor({m, k}, dtype);
  const Product bare{m, n, k, dtype, true};
  const Product& best = best_onednn_shape(dtype);
  Contest contest(suite);
  contest.local("ours", [&] { mc::linear(x, mc::transpose(w)).eval(); });
  if (const auto work = onednn_product(bare)) contest.local("oneDNN here", work);
  if (const auto work = onednn_product(best)) contest.local("oneDNN best", work);
  contest.torch(fmt::format("linear:{}:{}:{}:{}", k, n, m, dtype_name(dtype)), false).run();

  Row row{"linear", fmt::format("{}->{} M={} {}", k, n, m, dtype_name(dtype))};
  row.add("rate", bare.flops() / contest.seconds("ours") * 1e-9, "GFLOP/s");
  contest.describe(row);
  double here = 0, peer = 0;
  if (contest.has("oneDNN here")) {
    here = contest.ratio("ours", "oneDNN here");
    const double of_best = contest.ratio("ours", "oneDNN best") * bare.flops() / best.flops();
    row.add("of oneDNN here", here).add("of oneDNN at its best", of_best);
    if (m >= 128) row.at_least("of oneDNN at " + best.str(), of_best, 0.93);
  }
  if (const std::string torch = contest.fastest("torch"); !torch.empty()) {
    peer = contest.ratio("ours", torch);
    row.add("x " + torch, peer);
  }
  // Either will do; the one that is closer to its bound is shown.
  if (peer == 0 && here == 0) row.note("neither oneDNN nor a peer was there to compare with");
  else if (peer / 1.05 >= here / 0.95) row.at_least("x F.linear", peer, 1.05);
  else row.at_least("of oneDNN here", here, 0.95);
  suite.report.add(std::move(row));
}

}  // namespace

void linear(Suite& suite) {
  for (const auto dtype : {mc::DType::f32, mc::DType::bf16})
    for (const auto& [k, n] : {std::pair<std::int64_t, std::int64_t>{896, 4864}, {2048, 2048}, {4096, 4096}})
      for (const std::int64_t m : {1, 8, 128, 512}) one(suite, k, n, m, dtype);
}

}  // namespace bench
