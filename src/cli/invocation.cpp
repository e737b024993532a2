// Reading arguments.
#include "cli/invocation.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <numeric>

#include "metal_candle/embedding_files.hpp"
#include "metal_candle/error.hpp"
#include "metal_candle/runtime.hpp"

namespace metal_candle::cli {

namespace {

/// Edits between two words: insertions, deletions, replacements.
std::size_t distance(std::string_view a, std::string_view b) {
  std::vector<std::size_t> row(b.size() + 1);
  std::iota(row.begin(), row.end(), std::size_t{0});
  for (std::size_t i = 1; i <= a.size(); ++i) {
    std::size_t diagonal = std::exchange(row[0], i);
    for (std::size_t j = 1; j <= b.size(); ++j) {
      const std::size_t replaced = diagonal + (a[i - 1] != b[j - 1]);
      diagonal = row[j];
      row[j] = std::min({row[j] + 1, row[j - 1] + 1, replaced});
    }
  }
  return row[b.size()];
}

/// " from 1 to 5", " of at least 1", or nothing; no bound is one that is the type's own.
template <class T>
std::string range(T least, T most) {
  using Limits = std::numeric_limits<T>;
  const bool open = most == (Limits::has_infinity ? Limits::infinity() : Limits::max());
  if (!open) return fmt::format(" from {} to {}", least, most);
  return least == (Limits::has_infinity ? -Limits::infinity() : Limits::min()) ? ""
                                                                               : fmt::format(" of at least {}", least);
}

std::string hint(std::string_view word, const std::vector<std::string_view>& names) {
  const auto name = nearest(word, names);
  return name ? fmt::format("; did you mean {}?", *name) : "";
}

[[noreturn]] void fail_option(const Command& command, std::string_view name) {
  std::vector<std::string_view> names;
  for (auto options : {command.options, common_options()})
    for (const Option& option : options) names.push_back(option.name);
  throw UsageError(fmt::format("{} has no option {}{}", command.name, name, hint(name, names)));
}

}  // namespace

std::optional<std::string_view> nearest(std::string_view word, const std::vector<std::string_view>& names) {
  if (word.size() > 64) return std::nullopt;
  std::optional<std::string_view> best;
  std::size_t least = std::max<std::size_t>(2, word.size() / 3) + 1;
  for (std::string_view name : names) {
    const bool prefix = word.size() > 3 && name.starts_with(word);
    const std::size_t away = prefix ? 1 : distance(word, name);
    if (away < least) least = away, best = name;
  }
  return best;
}

std::int64_t parse_whole(std::string_view option, const std::string& text, std::int64_t least, std::int64_t most) {
  std::int64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size() || value < least || value > most)
    throw UsageError(fmt::format(
        "{}: expected a whole number{}, got \"{}\"", option,
        error == std::errc::result_out_of_range ? fmt::format(" from {} to {}", least, most) : range(least, most),
        text));
  return value;
}

double parse_number(std::string_view option, const std::string& text, double least, double most) {
  double value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size() || !(value >= least && value <= most))
    throw UsageError(fmt::format("{}: expected a number{}, got \"{}\"", option, range(least, most), text));
  return value;
}

Invocation::Invocation(const Command& command, const std::vector<std::string_view>& arguments) : command_(&command) {
  bool options_over = false;
  for (std::size_t i = 0; i < arguments.size(); ++i) {
    std::string_view word = arguments[i];
    if (word == "--" && !options_over) {
      options_over = true;
      continue;
    }
    if (options_over || word.size() < 2 || word[0] != '-') {
      if (command.positional.empty() || !positional_.empty())
        throw UsageError(
            fmt::format("{} takes {}, got \"{}\"", command.name,
                        command.positional.empty() ? "options only" : "one " + std::string(command.positional), word));
      positional_.emplace_back(word);
      continue;
    }
    if (word == "-h") word = "--help";
    const std::size_t equals = word.find('=');
    const std::string_view name = word.substr(0, equals);
    const Option* option = find_option(command, name);
    if (!option) fail_option(command, name);
    if (option->takes == Option::Takes::nothing) {
      if (equals != std::string_view::npos) throw UsageError(fmt::format("{} takes no value", name));
      values_[std::string(name)] = {"true"};
    } else if (equals != std::string_view::npos) {
      take(*option, std::string(word.substr(equals + 1)));
    } else if (i + 1 < arguments.size()) {
      do take(*option, std::string(arguments[++i]));
      while (option->more && i + 1 < arguments.size() && !arguments[i + 1].starts_with('-'));
    } else {
      throw UsageError(fmt::format("{} needs a value: {} {}", name, name, option->value));
    }
  }
}

void Invocation::take(const Option& option, std::string value) {
  if (option.takes == Option::Takes::choice) {
    const auto known = choices(option);
    if (std::find(known.begin(), known.end(), value) == known.end()) {
      const std::string what = fmt::format("{}: expected {}, got \"{}\"", option.name, option.value, value);
      if (option.name == "--device") throw ExitError(kNoDevice, what);
      throw UsageError(what);
    }
  }
  // That numbers are numbers is seen early, that they are sensible where they are used.
  constexpr double kInfinity = std::numeric_limits<double>::infinity();
  if (option.takes == Option::Takes::whole)
    parse_whole(option.name, value, std::numeric_limits<std::int64_t>::min(), std::numeric_limits<std::int64_t>::max());
  if (option.takes == Option::Takes::number) parse_number(option.name, value, -kInfinity, kInfinity);
  auto& values = values_[std::string(option.name)];
  if (!values.empty() && !option.many) throw UsageError(fmt::format("{} is given twice", option.name));
  values.push_back(std::move(value));
}

const std::string& Invocation::text(std::string_view option) const {
  const auto found = values_.find(option);
  if (found == values_.end()) {
    const Option* known = find_option(*command_, option);
    throw UsageError(fmt::format("{} needs {} {}", command_->name, option, known ? known->value : ""));
  }
  return found->second.back();
}

std::optional<std::string> Invocation::maybe(std::string_view option) const {
  return has(option) ? std::optional(text(option)) : std::nullopt;
}

std::vector<std::string> Invocation::all(std::string_view option) const {
  const auto found = values_.find(option);
  return found == values_.end() ? std::vector<std::string>() : found->second;
}

std::vector<std::string> Invocation::texts(std::string_view option) const {
  std::vector<std::string> values = all(option);
  for (const std::string& value : values) {
    try {
      TextReader::parse(value, false, std::string(option));
    } catch (const FileError& e) {
      throw UsageError(fmt::format("{}: expected {}, got {}", option, e.expected(), e.got()));
    }
  }
  return values;
}

std::int64_t Invocation::whole(std::string_view option, std::int64_t otherwise, std::int64_t least,
                               std::int64_t most) const {
  try {
    return has(option) ? parse_whole(option, text(option), least, most) : otherwise;
  } catch (const UsageError& e) {
    complain(option, e.what());
  }
}

double Invocation::number(std::string_view option, double otherwise, double least, double most) const {
  try {
    return has(option) ? parse_number(option, text(option), least, most) : otherwise;
  } catch (const UsageError& e) {
    complain(option, e.what());
  }
}

const std::string& Invocation::positional() const {
  if (positional_.empty()) throw UsageError(fmt::format("{} needs a {}", command_->name, command_->positional));
  return positional_[0];
}

void Invocation::set_default(std::string_view option, std::string value, const Origin& origin) {
  if (has(option) || origins_.contains(option)) return;
  const Option* known = find_option(*command_, option);
  if (!known) fail_option(*command_, option);
  origins_[std::string(option)] = origin;
  try {
    const bool is_switch = known->takes == Option::Takes::nothing;
    const bool on = value == "true" || value == "1", off = value == "false" || value == "0" || value.empty();
    if (is_switch && !on && !off)
      throw UsageError(fmt::format("{}: expected true or false, got \"{}\"", option, value));
    if (is_switch && on) values_[std::string(option)] = {"true"};
    if (!is_switch) take(*known, std::move(value));
  } catch (const UsageError& e) {
    complain(option, e.what());
  } catch (const ExitError& e) {
    throw ExitError(e.code, origin.name + ": " + e.what());
  }
}

int Invocation::place(std::string_view option) const {
  const auto origin = origins_.find(option);
  return origin == origins_.end() ? 0 : origin->second.file ? 2 : 1;
}

void Invocation::yield(std::string_view option, std::string_view other) {
  if (has(option) && has(other) && place(other) < place(option)) values_.erase(values_.find(option));
}

void Invocation::complain(std::string_view option, const std::string& what) const {
  const auto origin = origins_.find(option);
  if (origin == origins_.end()) throw UsageError(what);
  if (origin->second.file) throw FileError(FileFault::bad, origin->second.name, "", what);
  throw UsageError(origin->second.name + ": " + what);
}

void Invocation::require_one_of(std::initializer_list<std::string_view> options) const {
  const auto given = std::count_if(options.begin(), options.end(), [&](auto option) { return has(option); });
  if (given != 1)
    throw UsageError(
        fmt::format("{} needs {} of {}", command_->name, given == 0 ? "one" : "only one", fmt::join(options, ", ")));
}

std::uint64_t Invocation::seed() const {
  return static_cast<std::uint64_t>(whole("--seed", 0, 0, std::numeric_limits<std::int64_t>::max()));
}

std::optional<DType> Invocation::dtype() const {
  const std::string name = maybe("--dtype").value_or("auto");
  if (name == "f32") return DType::f32;
  if (name == "bf16") return DType::bf16;
  if (name == "f16") return DType::f16;
  return std::nullopt;
}

void Invocation::prepare() const {
  seed();
  if (has("--threads")) set_threads(static_cast<int>(whole("--threads", 0, 1, 4096)));
}

}  // namespace metal_candle::cli
