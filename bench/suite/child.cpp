#include "suite/child.h"

#include <fmt/format.h>
#include <unistd.h>

#include <cstdio>

namespace bench {
namespace {

struct Work {
  const char* name;
  void (*run)(const std::string& argument);
};
constexpr Work kWorks[] = {
    {"block", block_child}, {"load", load_child}, {"training", training_child}, {"demo", demo_child}};

std::string this_program() {
  char path[4096];
  const auto n = readlink("/proc/self/exe", path, sizeof path);
  return n > 0 ? std::string(path, static_cast<std::size_t>(n)) : std::string();
}

std::string quoted(const std::string& word) {
  std::string out = "'";
  for (const char c : word) out += c == '\'' ? std::string("'\\''") : std::string(1, c);
  return out + "'";
}

}  // namespace

std::string child_answer(const Suite& suite, const std::string& work) {
  const std::string command =
      fmt::format("{} --threads {} --child {}", quoted(this_program()), suite.options.threads, quoted(work));
  std::string out;
  if (std::FILE* pipe = popen(command.c_str(), "r")) {
    char part[512];
    while (std::fgets(part, sizeof part, pipe)) out += part;
    if (pclose(pipe) != 0) out.clear();
  }
  return out;
}

bool run_child(const std::string& work) {
  const auto colon = work.find(':');
  for (const Work& w : kWorks) {
    if (work.substr(0, colon) != w.name) continue;
    w.run(colon == std::string::npos ? std::string() : work.substr(colon + 1));
    return true;
  }
  return false;
}

}  // namespace bench
