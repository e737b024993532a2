// Where output goes: JSON lines or text on standard output, everything for people on standard error.
#pragma once

#include <chrono>
#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>

#include "cli/invocation.h"
#include "metal_candle/json.hpp"

namespace metal_candle::cli {

/// One line on standard output. Throws ExitError(kTransfer) if it cannot be written.
void write_event(const Json& event);
/// Text on standard output, as it is.
void write_text(std::string_view text);
/// Text on standard error, as it is. What cannot be written there is dropped: it changes neither results nor exit codes.
void tell(std::string_view text);
/// A line on standard error, unless --quiet.
void say(const Invocation& run, std::string_view text);
/// A line that starts with "warning: ".
void warn(const Invocation& run, std::string_view text);

/// Makes the folders that an output will lie in. Throws FileError.
void make_parents(const std::filesystem::path& output);
/// The text without what a terminal would take for commands: control bytes and bytes that are no UTF-8 as \x1b.
std::string printable(std::string_view text);

/// Standard error is a terminal that shows colours, and NO_COLOR is not set.
bool colours();
bool is_terminal(int file);

/// "1.2 GB", "640 KB"
std::string size_text(std::uint64_t bytes);
/// "1:02", "2:03:04"
std::string time_text(double seconds);

/// A bar on a terminal, redrawn in place; elsewhere a line from time to time. Nothing with --quiet.
class Progress {
 public:
  Progress(const Invocation& run, std::string what, std::int64_t total);
  ~Progress();
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;
  /// `done` of `total`, with something to show behind it.
  void show(std::int64_t done, const std::string& detail);
  /// Takes the bar away, so that a line can be written.
  void clear();

 private:
  using Clock = std::chrono::steady_clock;
  bool quiet_, terminal_;
  std::string what_;
  std::int64_t total_;
  Clock::time_point start_ = Clock::now(), last_{};
  std::int64_t first_ = -1;
  bool drawn_ = false;
};

}  // namespace metal_candle::cli
