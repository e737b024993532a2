// One run of the command: what was asked for, and where answers go.
#pragma once

#include <cstdint>
#include <filesystem>
#include <limits>
#include <map>
#include <optional>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

#include "cli/options.h"
#include "metal_candle/dtype.hpp"

namespace metal_candle::cli {

/// The exit codes that there are.
enum Exit : int {
  kDone = 0,
  kUnexpected = 1,
  kUsage = 2,
  kBadData = 65,
  kNoInput = 66,
  kNoDevice = 69,
  kInternal = 70,
  kNoMemory = 71,
  kNoOutput = 73,
  kTransfer = 74,
  kStopped = 75,
  kDiverged = 76,
  kInterrupted = 130,
};

/// A command line that makes no sense.
struct UsageError : std::runtime_error {
  using std::runtime_error::runtime_error;
};
/// Ends the command with another code than errors of the library have.
struct ExitError : std::runtime_error {
  ExitError(Exit code_, const std::string& message) : std::runtime_error(message), code(code_) {}
  Exit code;
};

class Invocation {
 public:
  /// Reads the arguments behind the command's name. Throws UsageError.
  Invocation(const Command& command, const std::vector<std::string_view>& arguments);

  const Command& command() const { return *command_; }
  bool has(std::string_view option) const { return values_.contains(option); }
  /// The last one given; throws UsageError if there is none.
  const std::string& text(std::string_view option) const;
  std::optional<std::string> maybe(std::string_view option) const;
  std::vector<std::string> all(std::string_view option) const;
  /// All of them, for what means something as text only; throws UsageError where one is not UTF-8.
  std::vector<std::string> texts(std::string_view option) const;
  /// Throws UsageError, naming the option, for what is no number between the two.
  std::int64_t whole(std::string_view option, std::int64_t otherwise, std::int64_t least = 0,
                     std::int64_t most = 0x7fffffff) const;
  double number(std::string_view option, double otherwise, double least, double most) const;
  const std::string& positional() const;
  /// For settings from elsewhere, a file or a variable: kept where the flag was not given. What is wrong with the value,
  /// now or where it is used, is said with its origin: UsageError, or FileError for a file.
  struct Origin {
    std::string name;
    bool file = false;
  };
  void set_default(std::string_view option, std::string value, const Origin& origin);
  /// Forgets an option that was said where `other` goes before it: flags before variables before a file.
  void yield(std::string_view option, std::string_view other);
  /// Throws UsageError unless exactly one of the options was given.
  void require_one_of(std::initializer_list<std::string_view> options) const;

  bool json() const { return has("--json"); }
  bool quiet() const { return has("--quiet"); }
  std::uint64_t seed() const;
  std::optional<DType> dtype() const;
  /// Sets threads and checks the device.
  void prepare() const;

 private:
  void take(const Option& option, std::string value);
  int place(std::string_view option) const;
  [[noreturn]] void complain(std::string_view option, const std::string& what) const;

  const Command* command_;
  std::map<std::string, std::vector<std::string>, std::less<>> values_;
  std::map<std::string, Origin, std::less<>> origins_;
  std::vector<std::string> positional_;
};

/// The name among `names` that looks most like `word`, if one does.
std::optional<std::string_view> nearest(std::string_view word, const std::vector<std::string_view>& names);

/// A number as a flag has it; throws UsageError naming the option.
std::int64_t parse_whole(std::string_view option, const std::string& text, std::int64_t least, std::int64_t most);
double parse_number(std::string_view option, const std::string& text, double least, double most);

}  // namespace metal_candle::cli
