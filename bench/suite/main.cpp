// The project's benchmarks: what docs/benchmarks.md reports. `make bench` runs it.
//
//   bench_suite [--section NAME]... [--full] [--threads N] [--cpu-time] [--json FILE]
//
// The results are written to FILE, bench.json in the build folder unless named, and printed.
// METAL_CANDLE_PEERS_PYTHON names the Python that has PyTorch and MLX; without it the peers are left out.
// METAL_CANDLE_BENCH_MODEL is SmolLM2's GGUF file, for the sections with a real model. METAL_CANDLE_COMMIT is what is
// being measured.
#include <fmt/format.h>

#include <algorithm>
#include <cstdlib>
#include <exception>
#include <metal_candle/runtime.hpp>
#include <thread>

#include "backend/cpu/gemm/gemm.h"
#include "suite/child.h"
#include "suite/machine.h"
#include "suite/suite.h"
#include "suite/team.h"

#ifdef _OPENMP
#include <omp.h>
#endif

namespace bench {
namespace {

struct Section {
  const char* name;
  void (*run)(Suite&);
};
constexpr Section kSections[] = {
    {"limits", limits},
    {"tiny", tiny},
    {"plan", plan},
    {"seeds", seeds},
    {"linear", linear},
    {"integers", integers},
    {"lora", lora},
    {"gemv", gemv},
    {"rows", rows},
    {"row_programs", row_programs},
    {"cross_entropy", cross_entropy},
    {"block", block},
    {"block_memory", block_memory},
    {"training", training},
    {"training_compiled", training_compiled},
    {"generation", generation},
    {"embeddings", embeddings},
    {"embeddings_bf16", embeddings_bf16},
    {"load", load},
    {"tokenize", tokenize},
    {"demo", demo},
};

const char* environment(const char* name, const char* otherwise) {
  const char* value = std::getenv(name);
  return value && *value ? value : otherwise;
}

[[noreturn]] void usage() {
  std::string names;
  for (const Section& s : kSections) names += fmt::format(" {}", s.name);
  fmt::print(stderr, "bench_suite [--section NAME]... [--full] [--threads N] [--cpu-time] [--json FILE]\nsections:{}\n",
             names);
  std::exit(2);
}

void describe_run(Suite& suite) {
  const Machine m = this_machine();
  Report& r = suite.report;
  r.fact("date", date_now());
  r.fact("commit", environment("METAL_CANDLE_COMMIT", "unknown"));
  r.fact("cpu", m.cpu);
  r.fact("isa", m.isa);
  r.fact("caches", m.caches);
  r.fact("memory", m.memory);
  r.fact("system", m.system);
  r.fact("threads", fmt::format("{}", suite.options.threads));
  r.fact("own GEMM", metal_candle::cpu::gemm_isa_name());
  r.fact("mode",
         fmt::format("{}{}", suite.options.full ? "full" : "quick", suite.options.cpu_time ? ", processor time" : ""));
  bool any_peer = false;
  for (const PeerKind kind : {PeerKind::torch_eager, PeerKind::mlx}) {
    const Peer* peer = suite.peers.get({kind});
    if (!peer) continue;
    any_peer = true;
    r.fact(kind == PeerKind::mlx ? "peer mlx" : "peer torch", peer->version());
  }
  if (!any_peer) r.fact("peer", "none were run: `make bench-peers` installs them");
  r.print_facts();
}

int run(const std::vector<std::string>& wanted, Options options) {
  count_processor_time(options.cpu_time);
  metal_candle::set_threads(options.threads);
  team(options.threads);
#ifdef _OPENMP
  omp_set_num_threads(options.threads);
#endif
  const std::string python = environment("METAL_CANDLE_PEERS_PYTHON", "");
  Suite suite{options, {}, Peers(python, options.threads, options.cpu_time, options.json + ".peers")};
  describe_run(suite);
  bool failed = false;
  for (const Section& section : kSections) {
    if (!wanted.empty() && std::find(wanted.begin(), wanted.end(), section.name) == wanted.end()) continue;
    const double begin = now();
    try {
      section.run(suite);
    } catch (const std::exception& e) {
      failed = true;
      suite.report.add(Row{section.name, "stopped"}.note(e.what()));
    }
    metal_candle::trim_memory();
    suite.report.took(section.name, now() - begin);
    suite.report.save(options.json);  // after each section, so that a run that is cut short leaves what it has
  }
  suite.report.print_summary();
  return failed ? 1 : 0;
}

}  // namespace
}  // namespace bench

int main(int argc, char** argv) {
  bench::Options options;
  options.json = METAL_CANDLE_BENCH_JSON;
  options.model = bench::environment("METAL_CANDLE_BENCH_MODEL", "");
  options.threads = static_cast<int>(std::min(2u, std::max(1u, std::thread::hardware_concurrency())));
  std::vector<std::string> sections;
  std::string child;
  for (int i = 1; i < argc; ++i) {
    const std::string flag = argv[i];
    if (flag == "--full" || flag == "--cpu-time") {
      (flag == "--full" ? options.full : options.cpu_time) = true;
      continue;
    }
    if (++i >= argc) bench::usage();
    if (flag == "--section") sections.emplace_back(argv[i]);
    else if (flag == "--threads") options.threads = std::max(1, std::atoi(argv[i]));
    else if (flag == "--json") options.json = argv[i];
    else if (flag == "--child") child = argv[i];
    else bench::usage();
  }
  for (const std::string& name : sections)
    if (std::none_of(std::begin(bench::kSections), std::end(bench::kSections),
                     [&](const auto& s) { return s.name == name; }))
      bench::usage();
  if (options.cpu_time) options.threads = 1;
  if (!child.empty()) {
    metal_candle::set_threads(options.threads);
    return bench::run_child(child) ? 0 : 2;
  }
  return bench::run(sections, options);
}
