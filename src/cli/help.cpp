// What --help prints.
#include "cli/help.h"

#include <fmt/format.h>

#include <algorithm>

namespace metal_candle::cli {

namespace {

std::string left_side(const Option& option) {
  return option.value.empty() ? std::string(option.name) : fmt::format("{} {}", option.name, option.value);
}

std::string lines(std::span<const Option> options) {
  constexpr std::size_t kColumn = 30;
  std::string out;
  for (const Option& option : options) {
    const std::string left = left_side(option);
    out += "  " + left;
    if (left.size() + 2 >= kColumn) out += "\n" + std::string(kColumn, ' ');
    else out += std::string(kColumn - 2 - left.size(), ' ');
    out += option.help;
    if (option.many) out += " (any number of times)";
    if (!option.otherwise.empty()) out += fmt::format(" [{}]", option.otherwise);
    out += '\n';
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
  if (command.name == "train")
    out +=
        "\nAll but --config, --print-config, --dry-run, --json and --quiet may stand in the file of --config, or be "
        "set in\n"
        "the environment: METAL_CANDLE_LEARNING_RATE=1e-4 is --learning-rate 1e-4, and a switch like "
        "METAL_CANDLE_PACKING\n"
        "takes true or false. Flags go before the environment, and that before the file.\n";
  out += "\nexamples:\n";
  for (std::string_view example : command.examples) out += fmt::format("  {}\n", example);
  return out;
}

}  // namespace metal_candle::cli
