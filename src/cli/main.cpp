// The metal-candle command: finds the command, runs it, and turns what it throws into a message and an exit code.
#include <fmt/format.h>

#include <cstdio>
#include <new>

#include "cli/help.h"
#include "cli/invocation.h"
#include "cli/report.h"
#include "metal_candle/error.hpp"

namespace metal_candle::cli {

namespace {

int complain(int code, const char* message) {
  const bool colour = colours();
  fmt::print(stderr, "{}metal-candle:{} {}\n", colour ? "\033[31m" : "", colour ? "\033[0m" : "", message);
  return code;
}

int code_of(const FileError& error) {
  switch (error.fault()) {
    case FileFault::missing: return kNoInput;
    case FileFault::bad: return kBadData;
    case FileFault::create: return kNoOutput;
    case FileFault::transfer: return kTransfer;
  }
  return kBadData;
}

const Command& command_named(std::string_view name) {
  if (const Command* command = find_command(name)) return *command;
  std::vector<std::string_view> names;
  for (const Command& command : commands()) names.push_back(command.name);
  const auto near = nearest(name, names);
  throw UsageError(
      fmt::format("there is no command \"{}\"{}", name, near ? fmt::format("; did you mean {}?", *near) : ""));
}

int version(bool json) {
  if (json) write_event(Json::object({{"event", "version"}, {"version", kVersion}, {"schema", 1}}));
  else write_text(fmt::format("metal-candle {}\n", kVersion));
  return kDone;
}

int run(const std::vector<std::string_view>& words) {
  if (words.empty()) {
    fmt::print(stderr, "{}", overview());
    return kUsage;
  }
  const std::string_view first = words[0];
  if (first == "--help" || first == "-h" || (first == "help" && words.size() == 1))
    return write_text(overview()), kDone;
  if (first == "help") return write_text(help(command_named(words[1]))), kDone;
  if (first == "--version") return version(words.size() > 1 && words[1] == "--json");
  const Command& command = command_named(first);
  // Help is given even where the rest of the line is wrong.
  for (std::string_view word : words) {
    if (word == "--") break;
    if (word == "--help" || word == "-h") return write_text(help(command)), kDone;
  }
  const Invocation invocation(command, {words.begin() + 1, words.end()});
  if (invocation.has("--version")) return version(invocation.json());
  invocation.prepare();
  return command.run(invocation);
}

int guarded(const std::vector<std::string_view>& words) {
  try {
    return run(words);
  } catch (const UsageError& e) {
    complain(kUsage, e.what());
    const bool known = !words.empty() && find_command(words[0]);
    fmt::print(stderr, "`metal-candle {}--help` shows what there is.\n", known ? std::string(words[0]) + " " : "");
    return kUsage;
  } catch (const ExitError& e) {
    return complain(e.code, e.what());
  } catch (const OutOfMemory& e) {
    return complain(kNoMemory, e.what());
  } catch (const FileError& e) {
    return complain(code_of(e), e.what());
  } catch (const UserError& e) {
    return complain(kUsage, e.what());
  } catch (const InternalError& e) {
    return complain(kInternal, e.what());
  } catch (const std::bad_alloc&) {
    return complain(kNoMemory, "out of memory");
  } catch (const std::exception& e) {
    return complain(kUnexpected, e.what());
  }
}

}  // namespace

}  // namespace metal_candle::cli

int main(int argc, char** argv) { return metal_candle::cli::guarded({argv + 1, argv + argc}); }
