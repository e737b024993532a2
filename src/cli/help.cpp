// What --help prints.
#include "cli/help.h"

#include <fmt/format.h>

#include <algorithm>

namespace metal_candle::cli {

namespace {

std::string left_side(const Option& option) {
  return option.value.empty() ? std::string(option.name) : fmt::format("{} {}", option.name, option.value);
}

/// Words in lines that end at column 100 at the latest and begin at `column`, where the first one already is.
std::string wrapped(std::string_view text, std::size_t column) {
  constexpr std::size_t kWidth = 100;
  std::string out;
  std::size_t at = column;
  while (!text.empty()) {
    const std::string_view word = text.substr(0, text.find(' '));
    text.remove_prefix(std::min(text.size(), word.size() + 1));
    if (at > column && at + 1 + word.size() > kWidth) out += "\n" + std::string(column, ' '), at = column;
    if (at > column) out += ' ', ++at;
    out += word, at += word.size();
  }
  return out;
}

std::string lines(std::span<const Option> options) {
  constexpr std::size_t kColumn = 30;
  std::string out;
  for (const Option& option : options) {
    const std::string left = left_side(option);
    out += "  " + left;
    if (left.size() + 2 >= kColumn) out += "\n" + std::string(kColumn, ' ');
    else out += std::string(kColumn - 2 - left.size(), ' ');
    std::string text(option.help);
    if (option.many) text += " (any number of times)";
    if (!option.otherwise.empty()) text += fmt::format(" [{}]", option.otherwise);
    out += wrapped(text, kColumn) + '\n';
  }
  return out;
}

}  // namespace

std::string overview() {
  std::string out =
      "metal-candle runs language models and fine-tunes them with LoRA, on this machine's CPU.\n\n"
      "usage: metal-candle COMMAND [OPTION]...\n\ncommands:\n";
  for (const Command& command : commands()) out += fmt::format("  {:<13}{}\n", command.name, command.summary);
  out += "\noptions of every command:\n" + lines(common_options());
  out += "\nexamples:\n";
  for (std::string_view name : {"generate", "train", "chat"})
    out += fmt::format("  {}\n", find_command(name)->examples[0]);
  return out + "\n`metal-candle COMMAND --help` explains one.\n";
}

std::string help(const Command& command) {
  std::string out = fmt::format("{}.\n\nusage: metal-candle {}{}{} [OPTION]...\n", command.summary, command.name,
                                command.positional.empty() ? "" : " ", command.positional);
  if (!command.options.empty()) out += "\noptions:\n" + lines(command.options);
  out += "\noptions of every command:\n" + lines(common_options());
  if (command.name == "train") {
    constexpr std::string_view kSettings =
        "All but --config, --print-config, --dry-run, --json and --quiet may stand in the file of --config, or be set "
        "in "
        "the environment: METAL_CANDLE_LEARNING_RATE=1e-4 is --learning-rate 1e-4, and a switch like "
        "METAL_CANDLE_PACKING takes true or false. Flags go before the environment, and that before the file.";
    out += fmt::format("\n{}\n", wrapped(kSettings, 0));
  }
  out += "\nexamples:\n";
  for (std::string_view example : command.examples) out += fmt::format("  {}\n", example);
  return out;
}

}  // namespace metal_candle::cli
