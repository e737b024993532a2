// The metal-candle command: finds the command, runs it, and turns what it throws into a message and an exit code.
#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <csignal>
#include <cstdio>

#include "cli/failure.h"
#include "cli/help.h"
#include "cli/invocation.h"
#include "cli/report.h"
#include "metal_candle/version.hpp"

namespace metal_candle::cli {

namespace {

int complain(int code, const char* message) {
  const bool colour = colours();
  tell(fmt::format("{}metal-candle:{} {}\n", colour ? "\033[31m" : "", colour ? "\033[0m" : "", printable(message)));
  return code;
}

const Command& command_named(std::string_view name) {
  if (const Command* command = find_command(name)) return *command;
  std::vector<std::string_view> names;
  for (const Command& command : commands()) names.push_back(command.name);
  const auto near = nearest(name, names);
  throw UsageError(
      fmt::format("there is no command \"{}\"{}", name, near ? fmt::format("; did you mean {}?", *near) : ""));
}

int show_version(bool json) {
  if (json) write_event(Json::object({{"event", "version"}, {"version", version()}, {"schema", 1}}));
  else write_text(fmt::format("metal-candle {}\n", version()));
  return kDone;
}

int run(const std::vector<std::string_view>& words) {
  if (words.empty()) {
    tell(overview());
    return kUsage;
  }
  const std::string_view first = words[0];
  if (first == "--help" || first == "-h" || (first == "help" && words.size() == 1))
    return write_text(overview()), kDone;
  if (first == "help") return write_text(help(command_named(words[1]))), kDone;
  if (first == "--version") return show_version(words.size() > 1 && words[1] == "--json");
  const Command& command = command_named(first);
  // Help is given even where the rest of the line is wrong.
  for (std::string_view word : words) {
    if (word == "--") break;
    if (word == "--help" || word == "-h") return write_text(help(command)), kDone;
  }
  const Invocation invocation(command, {words.begin() + 1, words.end()});
  if (invocation.has("--version")) return show_version(invocation.json());
  invocation.prepare();
  return command.run(invocation);
}

int guarded(const std::vector<std::string_view>& words) {
  try {
    return run(words);
  } catch (...) {
    const Failure failure = failure_of(std::current_exception());
    complain(failure.code, failure.message.c_str());
    if (failure.code == kUsage) {
      const bool known = !words.empty() && find_command(words[0]);
      tell(fmt::format("`metal-candle {}--help` shows what there is.\n", known ? std::string(words[0]) + " " : ""));
    }
    return failure.code;
  }
}

/// Where a standard stream was closed, the next file that is opened would be taken for it. What stands there instead
/// fails, as the closed one would.
void fill_closed_streams() {
  for (const int file : {STDIN_FILENO, STDOUT_FILENO, STDERR_FILENO})
    if (fcntl(file, F_GETFD) < 0) open("/dev/null", file == STDIN_FILENO ? O_WRONLY : O_RDONLY);
}

}  // namespace

}  // namespace metal_candle::cli

int main(int argc, char** argv) {
  // A limit on the size of files is an error of the write that reaches it, as a full disk is.
  std::signal(SIGXFSZ, SIG_IGN);
  metal_candle::cli::fill_closed_streams();
  return metal_candle::cli::guarded({argv + 1, argv + argc});
}
