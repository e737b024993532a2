#include "suite/report.h"

#include <fmt/format.h>

#include <cmath>
#include <cstdio>
#include <fstream>

namespace bench {
namespace {

std::string quoted(const std::string& text) {
  std::string out = "\"";
  for (const char c : text) {
    if (c == '"' || c == '\\') out += '\\';
    if (static_cast<unsigned char>(c) < 0x20) out += ' ';
    else out += c;
  }
  return out + '"';
}

std::string number(double value) { return std::isfinite(value) ? fmt::format("{:.6g}", value) : "null"; }

std::string verdict(const Check& check) {
  return fmt::format("{} {} {:.4g} ({} {:.4g}){}", check.pass() ? "PASS" : "MISS", check.what, check.value,
                     check.at_least ? ">=" : "<=", check.bound,
                     check.by_hand ? fmt::format("; by hand {:.4g}", *check.by_hand) : "");
}

std::string json(const Row& row) {
  std::string out =
      fmt::format("{{\"section\": {}, \"name\": {}, \"values\": {{", quoted(row.section), quoted(row.name));
  const char* comma = "";
  for (const Row::Value& v : row.values) {
    out +=
        fmt::format("{}{}: {}", comma, quoted(v.unit.empty() ? v.name : v.name + " [" + v.unit + "]"), number(v.value));
    comma = ", ";
  }
  out += "}, \"checks\": [";
  comma = "";
  for (const Check& c : row.checks) {
    out += fmt::format("{}{{\"what\": {}, \"value\": {}, \"{}\": {}, \"pass\": {}", comma, quoted(c.what),
                       number(c.value), c.at_least ? "at_least" : "at_most", number(c.bound), c.pass());
    if (c.by_hand) out += fmt::format(", \"by_hand\": {}, \"out_of_reach\": {}", number(*c.by_hand), c.out_of_reach());
    out += "}";
    comma = ", ";
  }
  out += "], \"notes\": [";
  comma = "";
  for (const std::string& n : row.notes) {
    out += comma + quoted(n);
    comma = ", ";
  }
  return out + "]}";
}

}  // namespace

std::string readable(double value, const std::string& unit) {
  if (unit != "s") return fmt::format("{:.4g}{}{}", value, unit.empty() ? "" : " ", unit);
  if (value < 1e-6) return fmt::format("{:.3g} ns", value * 1e9);
  if (value < 1e-3) return fmt::format("{:.4g} us", value * 1e6);
  if (value < 1) return fmt::format("{:.4g} ms", value * 1e3);
  return fmt::format("{:.4g} s", value);
}

void Report::fact(const std::string& name, const std::string& value) { facts_.emplace_back(name, value); }

void Report::add(Row row) {
  if (rows_.empty() || rows_.back().section != row.section) fmt::print("\n== {} ==\n", row.section);
  std::string line = fmt::format("{:<34}", row.name);
  for (const Row::Value& v : row.values) line += fmt::format(" | {} {}", v.name, readable(v.value, v.unit));
  fmt::print("{}\n", line);
  for (const Check& c : row.checks) fmt::print("    {}\n", verdict(c));
  for (const std::string& n : row.notes) fmt::print("    ({})\n", n);
  std::fflush(stdout);
  rows_.push_back(std::move(row));
}

void Report::took(const std::string& section, double seconds) {
  seconds_.emplace_back(section, seconds);
  fmt::print("({} took {:.0f} s)\n", section, seconds);
  std::fflush(stdout);
}

void Report::print_facts() const {
  for (const auto& [name, value] : facts_) fmt::print("{:<10} {}\n", name, value);
  std::fflush(stdout);
}

void Report::print_summary() const {
  int passed = 0, far = 0, missed = 0;
  std::string lines[2];
  for (const Row& row : rows_)
    for (const Check& c : row.checks) {
      ++(c.pass() ? passed : c.out_of_reach() ? far : missed);
      if (!c.pass())
        lines[c.out_of_reach() ? 0 : 1] += fmt::format("  {:<14} {:<34} {}\n", row.section, row.name, verdict(c));
    }
  fmt::print("\n== {} bounds met, {} out of reach by hand, too, {} missed ==\n{}{}", passed, far, missed, lines[0],
             lines[1]);
}

void Report::save(const std::string& path) const {
  const std::string temporary = path + ".part";
  {
    std::ofstream out(temporary);
    out << "{";
    for (const auto& [name, value] : facts_) out << quoted(name) << ": " << quoted(value) << ",\n ";
    out << "\"seconds\": {";
    for (std::size_t i = 0; i < seconds_.size(); ++i)
      out << (i ? ", " : "") << quoted(seconds_[i].first) << ": " << number(seconds_[i].second);
    out << "},\n \"rows\": [";
    for (std::size_t i = 0; i < rows_.size(); ++i) out << (i ? ",\n  " : "\n  ") << json(rows_[i]);
    out << "\n]}\n";
    if (!out.flush()) {
      fmt::print(stderr, "bench: cannot write {}\n", temporary);
      return;
    }
  }
  if (std::rename(temporary.c_str(), path.c_str()) != 0) fmt::print(stderr, "bench: cannot write {}\n", path);
}

}  // namespace bench
