// The shapes of the acceptance tests, one small computation at a time, recording included.
#include <fmt/format.h>

#include "suite/bare_chains.h"
#include "suite/ours.h"
#include "suite/suite.h"

namespace bench {
namespace {

struct Seed {
  std::string name, peer;
  bool product;  // of large matrices
  std::function<mc::LazyTensor()> record;
  BareChain chain = {};  // of several recorded operations without such a product: their arithmetic bare
};

std::vector<Seed> all_seeds() {
  std::vector<Seed> all;
  {
    const mc::Tensor a = random_tensor({1024}), b = random_tensor({1024});
    all.push_back({"add+mul 1024", "add_mul:1024", false, [=] { return (a + b) * 2; }, bare_add_mul(1024)});
  }
  for (const std::int64_t d : {128, 512, 1024}) {
    const mc::Tensor a = random_tensor({d, d}), b = random_tensor({d, d});
    all.push_back({fmt::format("matmul {}", d), fmt::format("matmul:{}", d), true, [=] { return mc::matmul(a, b); }});
  }
  for (const auto& [r, c] : {std::pair<std::int64_t, std::int64_t>{4, 1024}, {32, 2048}}) {
    const mc::Tensor x = random_tensor({r, c});
    all.push_back({fmt::format("softmax {}x{}", r, c), fmt::format("softmax:{}:{}", r, c), false,
                   [=] { return mc::softmax(x, -1); }});
  }
  {
    const mc::Tensor x = random_tensor({4, 1024});
    all.push_back({"rms_norm 4x1024", "rms_norm:4:1024", false, [=] { return mc::rms_norm(x, 1e-6); }});
  }
  {
    const mc::Tensor a = random_tensor({3, 4}), b = random_tensor({4, 4}), c = random_tensor({4});
    all.push_back({"rms_norm(softmax(2(ab+c))) 3x4", "complex", false,
                   [=] { return mc::rms_norm(mc::softmax((mc::matmul(a, b) + c) * 2.0, -1), 1e-6); }, bare_five()});
  }
  for (const auto& [d, r] : {std::pair<std::int64_t, std::int64_t>{512, 8}, {1024, 8}, {2048, 16}}) {
    const mc::Tensor x = random_tensor({1, d}), a = random_tensor({d, r}), b = random_tensor({r, d});
    const std::string peer = fmt::format("lora:{}:{}", d, r);
    all.push_back({fmt::format("lora {}x{} r{}", d, d, r), peer, false, [=] { return mc::lora_fused(x, a, b, 2.0); }});
    all.push_back({fmt::format("lora {}x{} r{} from primitives", d, d, r), peer, false,
                   [=] { return mc::matmul(mc::matmul(x, a), b) * 2.0; },
                   bare_lora(static_cast<int>(d), static_cast<int>(r))});
  }
  return all;
}

}  // namespace

void seeds(Suite& suite) {
  for (const Seed& seed : all_seeds()) {
    Contest contest(suite);
    contest.local("ours", [&] { seed.record().eval(); });
    contest.local("ours, eager", [&] {
      const mc::EagerMode guard;
      seed.record().eval();
    });
    if (seed.chain.apart)
      contest.local("bare, one by one", seed.chain.apart).local("bare, one pass", seed.chain.together);
    contest.peer({PeerKind::torch_eager}, "seeds:" + seed.peer).peer({PeerKind::mlx}, "seeds:" + seed.peer).run();
    Row row{"seeds", seed.name};
    contest.describe(row);
    if (contest.has("torch eager")) {
      row.at_least("x torch eager", contest.ratio("ours", "torch eager"), seed.product ? 0.97 : 1);
      row.at_most("our eager / torch eager", 1 / contest.ratio("ours, eager", "torch eager"), 1.5);
    }
    if (seed.chain.apart)
      row.at_least("x our eager", contest.ratio("ours", "ours, eager"), 2)
          .by_hand(contest.ratio("bare, one pass", "bare, one by one"));
    suite.report.add(std::move(row));
  }
}

}  // namespace bench
