// Help, version and completions, from the table.
#pragma once

#include <string>
#include <string_view>

#include "cli/options.h"

namespace metal_candle::cli {

std::string overview();
std::string help(const Command& command);
/// For "bash", "zsh" or "fish"; empty for another.
std::string completion_script(std::string_view shell);

}  // namespace metal_candle::cli
