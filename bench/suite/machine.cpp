#include "suite/machine.h"

#include <fmt/format.h>
#include <sys/resource.h>
#include <sys/utsname.h>
#include <unistd.h>

#include <ctime>
#include <fstream>
#include <set>
#include <sstream>

namespace bench {
namespace {

/// The value of the first line "key : value" in a file of /proc.
std::string proc_value(const char* path, const std::string& key) {
  std::ifstream in(path);
  for (std::string line; std::getline(in, line);) {
    if (line.rfind(key, 0) != 0) continue;
    const auto colon = line.find(':');
    if (colon == std::string::npos) continue;
    const auto begin = line.find_first_not_of(" \t", colon + 1);
    return begin == std::string::npos ? "" : line.substr(begin);
  }
  return "";
}

std::string first_line(const std::string& path) {
  std::ifstream in(path);
  std::string line;
  std::getline(in, line);
  return line;
}

std::string isa_of(const std::string& flags) {
  std::istringstream words(flags);
  std::set<std::string> have;
  for (std::string w; words >> w;) have.insert(w);
  std::string out;
  for (const char* name : {"sse4_2", "avx2", "fma", "avx_vnni", "avx512f", "avx512bw", "avx512_bf16", "avx512_vnni",
                           "amx_bf16", "asimd", "bf16", "sve"})
    if (have.count(name)) out += fmt::format("{}{}", out.empty() ? "" : " ", name);
  return out;
}

std::string caches_of_first_cpu() {
  std::string out;
  for (int i = 0; i < 6; ++i) {
    const std::string dir = fmt::format("/sys/devices/system/cpu/cpu0/cache/index{}/", i);
    const std::string level = first_line(dir + "level"), type = first_line(dir + "type");
    if (level.empty() || type == "Instruction") continue;
    out += fmt::format("{}L{} {} (cpus {})", out.empty() ? "" : ", ", level, first_line(dir + "size"),
                       first_line(dir + "shared_cpu_list"));
  }
  return out;
}

double ticks() { return static_cast<double>(sysconf(_SC_CLK_TCK)); }

}  // namespace

Machine this_machine() {
  Machine m;
  m.cpu = fmt::format("{}, {} cpus", proc_value("/proc/cpuinfo", "model name"), sysconf(_SC_NPROCESSORS_ONLN));
  const std::string family = proc_value("/proc/cpuinfo", "cpu family"), model = proc_value("/proc/cpuinfo", "model\t");
  if (!family.empty()) m.cpu += fmt::format(", family {} model {}", family, model);
  const std::string flags = proc_value("/proc/cpuinfo", "flags");
  m.isa = isa_of(flags.empty() ? proc_value("/proc/cpuinfo", "Features") : flags);
  m.caches = caches_of_first_cpu();
  m.memory = proc_value("/proc/meminfo", "MemTotal");
  utsname name;
  if (uname(&name) == 0) m.system = fmt::format("{} {} {}", name.sysname, name.release, name.machine);
  return m;
}

std::string date_now() {
  const std::time_t t = std::time(nullptr);
  std::tm tm{};
  gmtime_r(&t, &tm);
  char text[32];
  std::strftime(text, sizeof text, "%Y-%m-%dT%H:%M:%SZ", &tm);
  return text;
}

ProcessorTime processor_time() {
  ProcessorTime t;
  std::istringstream line(first_line("/proc/stat"));
  std::string cpu;
  double user = 0, nice = 0, system = 0, idle = 0, wait = 0, irq = 0, soft = 0, steal = 0;
  line >> cpu >> user >> nice >> system >> idle >> wait >> irq >> soft >> steal;
  t.machine = (user + nice + system + irq + soft + steal) / ticks();
  rusage mine;
  getrusage(RUSAGE_SELF, &mine);
  const auto seconds = [](const timeval& v) {
    return static_cast<double>(v.tv_sec) + 1e-6 * static_cast<double>(v.tv_usec);
  };
  t.mine = seconds(mine.ru_utime) + seconds(mine.ru_stime);
  return t;
}

double processor_time_of(int pid) {
  const std::string line = first_line(fmt::format("/proc/{}/stat", pid));
  const auto after_name = line.rfind(')');
  if (after_name == std::string::npos) return 0;
  std::istringstream fields(line.substr(after_name + 1));
  std::string skipped;
  for (int i = 0; i < 11; ++i) fields >> skipped;
  double user = 0, system = 0;
  fields >> user >> system;
  return (user + system) / ticks();
}

double memory_status(const std::string& field) {
  std::istringstream value(proc_value("/proc/self/status", field));
  double kib = 0;
  value >> kib;
  return kib * 1024;
}

}  // namespace bench
