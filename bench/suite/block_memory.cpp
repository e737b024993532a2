// Peak memory of that block, each side in a process of its own.
#include <fmt/format.h>

#include "suite/child.h"
#include "suite/machine.h"
#include "suite/suite.h"
#include "suite/transformer.h"

namespace bench {
namespace {

constexpr double kMiB = 1 << 20;

}  // namespace

void block_child(const std::string& dtype) {
  BlockStep step(BlockShape{}, dtype == "f32" ? mc::DType::f32 : mc::DType::bf16);
  const double start = memory_status("VmRSS");
  mc::reset_peak_memory();
  const double live = static_cast<double>(mc::memory().live);
  for (int i = 0; i < 5; ++i) step.run();
  const mc::MemoryFigures figures = mc::memory();
  fmt::print("{{\"peak\": {}, \"start\": {}, \"live\": {}, \"tensors\": {}, \"arena\": {}}}\n", memory_status("VmHWM"),
             start, live, figures.peak, figures.arena);
}

void block_memory(Suite& suite) {
  for (const std::string dtype : {"f32", "bf16"}) {
    const std::string ours = child_answer(suite, "block:" + dtype);
    const double peak = number_in(ours, "peak").value_or(0), start = number_in(ours, "start").value_or(0);
    Row row{"block_memory", "block fwd+bwd " + dtype};
    row.add("process", peak / kMiB, "MiB").add("growth over weights and inputs", (peak - start) / kMiB, "MiB");
    row.add("tensors at their peak", number_in(ours, "tensors").value_or(0) / kMiB, "MiB");
    row.add("arena", number_in(ours, "arena").value_or(0) / kMiB, "MiB");
    if (suite.peers.available()) {
      const std::string torch = suite.peers.fresh({PeerKind::torch_eager})->ask("memory block:" + dtype);
      if (const auto theirs = number_in(torch, "peak")) {
        const double theirs_start = number_in(torch, "start").value_or(0);
        row.add("torch process", *theirs / kMiB, "MiB").add("torch growth", (*theirs - theirs_start) / kMiB, "MiB");
        row.at_most("growth / torch's growth", (peak - start) / (*theirs - theirs_start), 0.5);
        row.at_most("process / torch's process", peak / *theirs, 0.5);
      } else {
        row.note("torch failed: " + text_in(torch, "error").value_or("no answer"));
      }
    }
    suite.report.add(std::move(row));
  }
}

}  // namespace bench
