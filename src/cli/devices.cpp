// metal-candle devices
#include <fmt/format.h>
#include <unistd.h>

#include <fstream>

#include "cli/commands.h"
#include "cli/report.h"
#include "metal_candle/runtime.hpp"
#include "metal_candle/version.hpp"

namespace metal_candle::cli {

namespace {

/// Of the first processor in /proc/cpuinfo; empty where there is none.
std::string processor_line(std::string_view key) {
  std::ifstream file("/proc/cpuinfo");
  for (std::string line; std::getline(file, line);) {
    const std::size_t colon = line.find(':');
    if (!line.starts_with(key) || colon == std::string::npos) continue;
    return colon + 2 <= line.size() ? line.substr(colon + 2) : "";
  }
  return {};
}

/// Of what the kernels choose among.
std::vector<std::string> instruction_sets() {
  const std::string flags = " " + processor_line("flags") + " " + processor_line("Features") + " ";
  std::vector<std::string> out;
  for (const char* flag : {"sse4_2", "avx2", "fma", "f16c", "avx_vnni", "avx512f", "avx512_vnni", "avx512_bf16",
                           "amx_bf16", "asimd", "bf16"})
    if (flags.find(" " + std::string(flag) + " ") != std::string::npos) out.emplace_back(flag);
  return out;
}

}  // namespace

int devices(const Invocation& run) {
  const std::string name = processor_line("model name");
  const auto memory =
      static_cast<std::uint64_t>(sysconf(_SC_PHYS_PAGES)) * static_cast<std::uint64_t>(sysconf(_SC_PAGESIZE));
  const auto sets = instruction_sets();
  if (!run.json()) {
    write_text(fmt::format("cpu  {}  {} threads  {} of memory  {}  kernels for {}\n", name.empty() ? "processor" : name,
                           threads(), size_text(memory), fmt::join(sets, " "), instruction_set()));
    return kDone;
  }
  Json list = Json::array();
  for (const std::string& set : sets) list.push_back(set);
  write_event(Json::object({{"event", "result"},
                            {"device", "cpu"},
                            {"name", name},
                            {"threads", threads()},
                            {"memory_bytes", memory},
                            {"instruction_sets", list},
                            {"kernels", instruction_set()}}));
  return kDone;
}

}  // namespace metal_candle::cli
