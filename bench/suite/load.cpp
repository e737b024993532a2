// From a GGUF file to the first token, each side in fresh processes that take turns: weights, tokenizer and template
// are read, the prompt goes through the model, the likeliest token comes out. Time begins in main, so that the peer's
// interpreter is not counted; the file is in the page cache, as it is for everybody but the first.
#include <fmt/format.h>

#include <filesystem>
#include <metal_candle/generate.hpp>

#include "suite/child.h"
#include "suite/machine.h"
#include "suite/ours.h"

namespace bench {
namespace {

constexpr int kPrompt = 16;

}  // namespace

void load_child(const std::string& path) {
  const double begin = now();
  const mc::Bundle bundle = mc::Bundle::load(path);
  const double loaded = now();
  mc::Generator generator(bundle);
  std::vector<std::int32_t> prompt;
  for (int i = 0; i < kPrompt; ++i) prompt.push_back(7 * i + 100);
  const mc::Generated g = generator.generate(prompt, {.max_tokens = 1});
  fmt::print("{{\"seconds\": {}, \"load\": {}, \"peak\": {}, \"token\": {}}}\n", now() - begin, loaded - begin,
             memory_status("VmHWM"), g.tokens.at(0));
}

void load(Suite& suite) {
  Row row{"load", "GGUF file to the first token"};
  const std::string& path = suite.options.model;
  if (path.empty()) {
    suite.report.add(row.note("no model: METAL_CANDLE_BENCH_MODEL names none (tools/fetch_model.sh fetches one)"));
    return;
  }
  const std::string work = fmt::format("lm_load:{}", kPrompt);
  std::vector<double> ours, files, theirs, ratios;
  double peak = 0, their_peak = 0;
  constexpr int kWarm =
      2;  // rounds that do not count: a host may have taken back the memory that both are about to use
  for (int round = -kWarm; round < 2 * suite.options.rounds() + 1; ++round) {
    const std::string mine = child_answer(suite, "load:" + path);
    const auto seconds = number_in(mine, "seconds");
    if (!seconds) throw std::runtime_error("the loading process failed");
    if (round >= 0) ours.push_back(*seconds), files.push_back(number_in(mine, "load").value_or(0));
    peak = std::max(peak, number_in(mine, "peak").value_or(0));
    if (!suite.peers.available()) continue;
    const std::string peer = suite.peers.fresh({PeerKind::llama})->ask("once " + work);
    if (const auto s = number_in(peer, "seconds")) {
      if (round < 0) continue;
      theirs.push_back(*s);
      ratios.push_back(*s / *seconds);
      their_peak = std::max(their_peak, number_in(peer, "peak").value_or(0));
    } else {
      row.note("llama.cpp failed: " + text_in(peer, "error").value_or("no answer"));
    }
  }
  row.name = std::filesystem::path(path).filename().string() + " to the first token";
  row.add("ours", median(ours), "s").add("of that, files", median(files), "s").add("process", peak * 1e-6, "MB");
  if (!theirs.empty()) {
    row.add("llama.cpp", median(theirs), "s").add("llama.cpp process with Python", their_peak * 1e-6, "MB");
    row.at_least("x llama.cpp", median(ratios), 1);
  }
  suite.report.add(row.note(fmt::format("{} fresh processes each, in turns; prompt of {}", ours.size(), kPrompt)));
}

}  // namespace bench
