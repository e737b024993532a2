// Cross entropy over a language model's vocabulary, with the gradient of the logits.
#include <fmt/format.h>

#include "suite/memory_ceiling.h"
#include "suite/ours.h"
#include "suite/suite.h"

namespace bench {

void cross_entropy(Suite& suite) {
  constexpr std::int64_t tokens = 512;
  for (const std::int64_t vocabulary : {49152, 151936}) {
    const mc::Tensor logits = random_tensor({tokens, vocabulary});
    std::vector<std::int64_t> ids;
    for (std::int64_t i = 0; i < tokens; ++i) ids.push_back(i * 7919 % vocabulary);
    const mc::Tensor targets = mc::Tensor::from(ids, {tokens});
    const auto work = [&] {
      const mc::LazyTensor loss = mc::cross_entropy(logits, targets);
      mc::eval({loss, mc::grad(loss, std::vector<mc::LazyTensor>{logits})[0]});
    };
    Contest contest(suite);
    contest.local("ours", work).local("copy", best_copy().run);
    contest.torch(fmt::format("cross_entropy:{}:{}", tokens, vocabulary), true).run();

    Row row{"cross_entropy", fmt::format("[{},{}] fwd+bwd", tokens, vocabulary)};
    contest.describe(row);
    // One reading of the logits and one writing of their gradient cannot be avoided.
    const double bytes = 8.0 * static_cast<double>(tokens * vocabulary);
    row.add("rate", bytes / contest.seconds("ours") * 1e-9, "GB/s");
    row.add("of the best copy", contest.ratio("ours", "copy") * bytes / best_copy().bytes);
    if (const auto eager = contest.fastest("torch eager"); !eager.empty())
      row.at_least("x " + eager, contest.ratio("ours", eager), 2.5);
    if (const auto compiled = contest.fastest("torch compile"); !compiled.empty())
      row.at_least("x " + compiled, contest.ratio("ours", compiled), 1.5);
    suite.report.add(row.note("kernels: " + kernels_of(work)));
  }
}

}  // namespace bench
