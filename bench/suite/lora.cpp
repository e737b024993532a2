// A frozen linear layer, forward and backward, without and with a LoRA adapter of rank 16.
#include <fmt/format.h>

#include "suite/bare_layer.h"
#include "suite/suite.h"

namespace bench {
namespace {

constexpr std::int64_t kRows = 1024, kRank = LoraLayer::kRank;

void one(Suite& suite, std::int64_t k, std::int64_t n, mc::DType dtype) {
  const LoraLayer layer{frozen_weight(k, n, dtype), random_tensor({kRows, k}, dtype), random_tensor({kRows, n}, dtype),
                        random_tensor({k, kRank}, dtype, 0.02), random_tensor({kRank, n}, dtype, 0.2)};
  const auto frozen = [&] { layer.step(false); };
  const auto adapted = [&] { layer.step(true); };
  const std::function<void(bool)> bare = bare_layer(layer);
  Contest contest(suite);
  contest.local("frozen", frozen).local("lora", adapted);
  contest.local("bare frozen", [&] { bare(false); }).local("bare lora", [&] { bare(true); });
  // The peer's two are two works of one process, so each is made ready again before its turns; they come last.
  Contest peers_frozen(suite), peers_lora(suite);
  const std::string work = fmt::format("lora:{}:{}:{}:", k, n, dtype_name(dtype));
  for (int i = 0; i < 3; ++i) contest.run();  // four of a few milliseconds, whose ratio has a narrow bound
  peers_frozen.local("frozen", frozen).torch(work + "frozen", false).run();
  peers_lora.local("lora", adapted).torch(work + "lora", false).run();

  const double base = 4.0 * static_cast<double>(kRows * k * n),
               term = 6.0 * static_cast<double>(kRows * kRank * (k + n));
  const double operations = 1 + term / base, ratio = 1 / contest.ratio("lora", "frozen");
  Row row{"lora", fmt::format("{}->{} {}", k, n, dtype_name(dtype))};
  contest.describe(row);
  row.add("frozen rate", base / contest.seconds("frozen") * 1e-9, "GFLOP/s");
  row.add("ratio of operations", operations);
  row.at_most("lora / frozen", ratio, k >= 2048 && n >= 2048 ? 1.06 : operations + 0.04);
  row.by_hand(1 / contest.ratio("bare lora", "bare frozen"));
  if (const auto torch = peers_frozen.fastest("torch"), with = peers_lora.fastest("torch");
      !torch.empty() && !with.empty()) {
    row.add("torch frozen", peers_frozen.seconds(torch), "s").add("torch lora", peers_lora.seconds(with), "s");
    row.add("torch lora / frozen", peers_lora.seconds(with) / peers_frozen.seconds(torch));
    row.add("frozen x torch", peers_frozen.ratio("frozen", torch)).add("lora x torch", peers_lora.ratio("lora", with));
  }
  suite.report.add(row.note("frozen: " + kernels_of(frozen)).note("lora: " + kernels_of(adapted)));
}

}  // namespace

void lora(Suite& suite) {
  for (const auto dtype : {mc::DType::f32, mc::DType::bf16})
    for (const auto& [k, n] : {std::pair<std::int64_t, std::int64_t>{2048, 2048}, {2048, 8192}, {576, 576}, {576, 192}})
      one(suite, k, n, dtype);
}

}  // namespace bench
