// What the command line knows: one table of commands and their options. Parsing, --help and shell completions all read
// it, so they cannot disagree.
#pragma once

#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace metal_candle::cli {

class Invocation;

struct Option {
  enum class Takes { nothing, text, whole, number, path, choice };
  std::string_view name;  // "--model"
  Takes takes;
  std::string_view value;  // how help calls the value: "PATH"; of a choice "a|b|c"
  std::string_view help;
  std::string_view otherwise = {};  // the default, as help shows it
  bool many = false;                // may be given several times
  bool more = false;                // words that follow are further values, up to the next option
};

struct Command {
  std::string_view name, summary;
  std::string_view positional;  // "PATH", or empty
  std::span<const Option> options;
  std::vector<std::string_view> examples;
  int (*run)(const Invocation&);
};

/// In the order of help.
const std::vector<Command>& commands();
/// Those that every command has.
std::span<const Option> common_options();
/// Null if there is none.
const Command* find_command(std::string_view name);
const Option* find_option(const Command& command, std::string_view name);
std::vector<std::string_view> choices(const Option& option);

}  // namespace metal_candle::cli
