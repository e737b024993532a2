// Completions for shells, from the table.
#include <fmt/format.h>

#include "cli/commands.h"
#include "cli/help.h"
#include "cli/invocation.h"
#include "cli/report.h"

namespace metal_candle::cli {

namespace {

std::string names_of(const Command& command) {
  std::string out;
  for (auto options : {command.options, common_options()})
    for (const Option& option : options) out += (out.empty() ? "" : " ") + std::string(option.name);
  return out;
}

std::string command_names() {
  std::string out;
  for (const Command& command : commands()) out += (out.empty() ? "" : " ") + std::string(command.name);
  return out;
}

/// Text between single quotes of a shell.
std::string in_quotes(std::string_view text) {
  std::string out = "'";
  for (const char c : text) out += c == '\'' ? "'\\''" : std::string(1, c);
  return out + "'";
}

std::string spaced(const std::vector<std::string_view>& words) { return fmt::format("{}", fmt::join(words, " ")); }

// Bash cuts at "=", which is then a word of its own: --dtype = b. Names of files stay whole, spaces and all.
std::string bash() {
  std::string out =
      "_metal_candle_files() {\n"
      "  local IFS=$'\\n' file\n"
      "  COMPREPLY=()\n"
      "  while read -r file; do COMPREPLY+=(\"$file\"); done < <(compgen -f -- \"$1\")\n"
      "}\n"
      "_metal_candle() {\n"
      "  local word=${COMP_WORDS[COMP_CWORD]} before=${COMP_WORDS[COMP_CWORD-1]} command=${COMP_WORDS[1]}\n"
      "  COMPREPLY=()\n"
      "  [[ $word == = ]] && word= && before='='\n"
      "  if [[ $before == = ]]; then\n"
      "    [[ ${COMP_WORDS[COMP_CWORD]} == = ]] && before=${COMP_WORDS[COMP_CWORD-1]} || "
      "before=${COMP_WORDS[COMP_CWORD-2]}\n"
      "  fi\n"
      "  if [[ $COMP_CWORD -eq 1 || ( $COMP_CWORD -eq 2 && $command == help ) ]]; then\n"
      "    COMPREPLY=($(compgen -W " +
      in_quotes(command_names() + " help --help --version") +
      " -- \"$word\"))\n"
      "    return\n"
      "  fi\n"
      "  case $command:$before in\n";
  for (const Command& command : commands())
    for (auto options : {command.options, common_options()})
      for (const Option& option : options) {
        if (option.takes == Option::Takes::nothing) continue;
        out += fmt::format("    {}:{}) ", command.name, option.name);
        if (option.takes == Option::Takes::choice)
          out += "COMPREPLY=($(compgen -W " + in_quotes(spaced(choices(option))) + " -- \"$word\"))";
        else if (option.takes == Option::Takes::path) out += "_metal_candle_files \"$word\"";
        else out += ":";
        out += "; return ;;\n";
      }
  out += "  esac\n  case $command in\n";
  for (const Command& command : commands()) {
    out += fmt::format("    {}) COMPREPLY=($(compgen -W {} -- \"$word\")) ;;\n", command.name,
                       in_quotes(command.name == "completions" ? "bash zsh fish" : names_of(command)));
  }
  return out +
         "  esac\n"
         "  [[ ${#COMPREPLY[@]} -eq 0 && $command == inspect ]] && _metal_candle_files \"$word\"\n"
         "}\ncomplete -o filenames -F _metal_candle metal-candle\n";
}

std::string zsh() {
  auto escaped = [](std::string_view text) {
    std::string out;
    for (const char c : text)
      out += (std::string_view("[]:\\").find(c) != std::string_view::npos ? "\\" : "") + std::string(1, c);
    return out;
  };
  std::string out = "#compdef metal-candle\n_metal_candle() {\n  local -a commands\n  commands=(\n";
  for (const Command& command : commands())
    out += "    " + in_quotes(fmt::format("{}:{}", command.name, command.summary)) + "\n";
  out +=
      "  )\n"
      "  if (( CURRENT == 3 )) && [[ $words[2] == help ]]; then\n    _describe command commands\n    return\n  fi\n"
      "  if (( CURRENT == 2 )); then\n    commands+=('help:Explains a command')\n    _describe command commands\n"
      "    return\n  fi\n"
      // What follows is for _arguments, which takes the first word for the command whose options they are.
      "  local command=$words[2]\n  shift words\n  (( CURRENT-- ))\n  case $command in\n";
  for (const Command& command : commands()) {
    out += fmt::format("    {}) _arguments", command.name);
    for (auto options : {command.options, common_options()})
      for (const Option& option : options) {
        std::string one = fmt::format("{}{}[{}]", option.many ? "*" : "", option.name, escaped(option.help));
        if (option.takes == Option::Takes::choice) one += fmt::format(":value:({})", spaced(choices(option)));
        else if (option.takes == Option::Takes::path) one += ":path:_files";
        else if (option.takes != Option::Takes::nothing) one += ":value:";
        out += " \\\n        " + in_quotes(one);
      }
    if (command.name == "completions") out += " \\\n        '1:shell:(bash zsh fish)'";
    else if (!command.positional.empty()) out += " \\\n        '1:path:_files'";
    out += " ;;\n";
  }
  return out + "  esac\n}\n_metal_candle \"$@\"\n";
}

std::string fish() {
  std::string out = "complete -c metal-candle -f\n";
  for (const Command& command : commands())
    out += fmt::format("complete -c metal-candle -n __fish_use_subcommand -a {} -d {}\n", command.name,
                       in_quotes(command.summary));
  out += "complete -c metal-candle -n __fish_use_subcommand -a help -d 'Explains a command'\n";
  for (const Command& command : commands())
    out += fmt::format(
        "complete -c metal-candle -n '__fish_seen_subcommand_from help; and not __fish_seen_subcommand_from {}' -a {} "
        "-d {}\n",
        command_names(), command.name, in_quotes(command.summary));
  for (const Command& command : commands()) {
    const std::string within =
        fmt::format("complete -c metal-candle -n '__fish_seen_subcommand_from {}'", command.name);
    for (auto options : {command.options, common_options()})
      for (const Option& option : options) {
        out += fmt::format("{} -l {} -d {}", within, option.name.substr(2), in_quotes(option.help));
        if (option.takes == Option::Takes::choice) out += " -x -a " + in_quotes(spaced(choices(option)));
        else if (option.takes == Option::Takes::path) out += " -r -F";
        else if (option.takes != Option::Takes::nothing) out += " -x";
        out += '\n';
      }
    if (command.name == "completions") out += within + " -a 'bash zsh fish'\n";
    else if (!command.positional.empty()) out += within + " -F\n";
  }
  return out;
}

}  // namespace

std::string completion_script(std::string_view shell) {
  return shell == "bash" ? bash() : shell == "zsh" ? zsh() : shell == "fish" ? fish() : "";
}

int completions(const Invocation& run) {
  const std::string script = completion_script(run.positional());
  if (script.empty()) throw UsageError("completions: expected bash, zsh or fish, got \"" + run.positional() + "\"");
  write_text(script);
  return kDone;
}

}  // namespace metal_candle::cli
