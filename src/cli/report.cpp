// Output.
#include "cli/report.h"

#include <fmt/format.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>

#include "metal_candle/error.hpp"

namespace metal_candle::cli {

bool is_terminal(int file) { return isatty(file) != 0; }

namespace {

/// Standard error is a terminal that obeys escapes.
bool escapes() {
  const char* terminal = std::getenv("TERM");
  return is_terminal(STDERR_FILENO) && terminal && std::string_view(terminal) != "dumb";
}

}  // namespace

bool colours() {
  const char* no = std::getenv("NO_COLOR");
  return escapes() && !(no && *no);
}

void write_text(std::string_view text) {
  const bool written = std::fwrite(text.data(), 1, text.size(), stdout) == text.size() && std::fflush(stdout) == 0;
  if (!written) throw ExitError(kTransfer, "standard output cannot be written");
}

void write_event(const Json& event) { write_text(event.dump() + "\n"); }

void tell(std::string_view text) { std::fwrite(text.data(), 1, text.size(), stderr); }

void say(const Invocation& run, std::string_view text) {
  if (!run.quiet()) tell(printable(text) + "\n");
}

void warn(const Invocation& run, std::string_view text) {
  if (!run.quiet())
    tell(fmt::format("{}warning:{} {}\n", colours() ? "\033[33m" : "", colours() ? "\033[0m" : "", printable(text)));
}

void make_parents(const std::filesystem::path& output) {
  const std::filesystem::path folder = output.parent_path();
  if (folder.empty()) return;
  std::error_code error;
  std::filesystem::create_directories(folder, error);
  if (error) throw FileError(FileFault::create, folder.string(), "", "cannot be created: " + error.message());
}

namespace {

/// Bytes of the character that begins here; 0 where none does, or one that controls something.
std::size_t character(std::string_view text) {
  const auto byte = [&](std::size_t i) { return i < text.size() ? static_cast<unsigned char>(text[i]) : 0u; };
  const unsigned first = byte(0);
  if (first < 0x80) return (first >= 0x20 && first != 0x7f) || first == '\n' || first == '\t' ? 1 : 0;
  const std::size_t size = first >= 0xf0 ? 4 : first >= 0xe0 ? 3 : 2;
  if (first < 0xc2 || first > 0xf4) return 0;
  for (std::size_t i = 1; i < size; ++i)
    if ((byte(i) & 0xc0) != 0x80) return 0;
  const unsigned second = byte(1);
  if (first == 0xe0 && second < 0xa0) return 0;  // too long a form
  if (first == 0xed && second > 0x9f) return 0;  // a surrogate
  if ((first == 0xf0 && second < 0x90) || (first == 0xf4 && second > 0x8f)) return 0;
  return first == 0xc2 && second < 0xa0 ? 0 : size;  // C1 controls
}

}  // namespace

std::string printable(std::string_view text) {
  std::string out;
  while (!text.empty()) {
    const std::size_t size = character(text);
    if (size > 0) out += text.substr(0, size);
    else out += fmt::format("\\x{:02x}", static_cast<unsigned char>(text[0]));
    text.remove_prefix(std::max<std::size_t>(size, 1));
  }
  return out;
}

std::string size_text(std::uint64_t bytes) {
  if (bytes < 1000) return fmt::format("{} B", bytes);
  double size = static_cast<double>(bytes) / 1000;
  const char* unit = "KMGT";
  for (; size >= 999.5 && unit[1]; ++unit) size /= 1000;
  return size < 9.95 ? fmt::format("{:.1f} {}B", size, *unit) : fmt::format("{:.0f} {}B", size, *unit);
}

std::string time_text(double seconds) {
  const auto whole = static_cast<std::int64_t>(std::clamp(seconds, 0.0, 3.6e8));
  if (whole < 3600) return fmt::format("{}:{:02}", whole / 60, whole % 60);
  return fmt::format("{}:{:02}:{:02}", whole / 3600, whole / 60 % 60, whole % 60);
}

Progress::Progress(const Invocation& run, std::string what, std::int64_t total)
    : quiet_(run.quiet()), terminal_(escapes()), what_(std::move(what)), total_(total) {}

Progress::~Progress() {
  if (drawn_) tell("\n");
}

void Progress::clear() {
  if (drawn_) tell("\r\033[K");
  drawn_ = false;
}

void Progress::show(std::int64_t done, const std::string& detail) {
  if (quiet_) return;
  const auto now = Clock::now();
  if (first_ < 0) first_ = done - 1;
  const bool last = done >= total_;
  const double since = std::chrono::duration<double>(now - last_).count();
  if (!last && since < (terminal_ ? 0.05 : 2.0)) return;
  last_ = now;
  const double spent = std::chrono::duration<double>(now - start_).count();
  const double left =
      done > first_ ? spent * static_cast<double>(total_ - done) / static_cast<double>(done - first_) : 0;
  const std::string line = fmt::format("{} {}/{}  {}", what_, done, total_, detail);
  if (!terminal_) {
    tell(line + "\n");
    return;
  }
  winsize size = {};
  const bool known = ioctl(STDERR_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 0;
  const std::size_t width = known ? size.ws_col : 80;
  const int cells = width > 100 ? 30 : static_cast<int>(std::min<std::size_t>(16, width - 1));
  const auto full = static_cast<int>(
      cells * std::clamp(static_cast<double>(done) / static_cast<double>(std::max<std::int64_t>(total_, 1)), 0.0, 1.0));
  std::string bar;
  for (int i = 0; i < cells; ++i) bar += i < full ? "━" : " ";
  std::string rest = fmt::format(" {}  {} left", line, time_text(left));
  rest.resize(std::min(rest.size(),
                       width > static_cast<std::size_t>(cells) + 1 ? width - static_cast<std::size_t>(cells) - 1 : 0));
  const bool colour = colours();
  tell(fmt::format("\r\033[K{}{}{}{}", colour ? "\033[36m" : "", bar, colour ? "\033[0m" : "", rest));
  drawn_ = true;
}

}  // namespace metal_candle::cli
