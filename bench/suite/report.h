// What a run found: rows of named values and checks against the project's bounds, as a table and as JSON.
#pragma once

#include <optional>
#include <string>
#include <utility>
#include <vector>

namespace bench {

/// "what must be at least (or at most) bound", and what it was.
struct Check {
  std::string what;
  double value;
  bool at_least;
  double bound;
  std::optional<double> by_hand = {};  // the same of a bare program that did the same work, in turns with ours
  bool pass() const { return meets(value); }
  /// Missed, by the bare program too.
  bool out_of_reach() const { return !pass() && by_hand && !meets(*by_hand); }

 private:
  bool meets(double v) const { return at_least ? v >= bound : v <= bound; }
};

struct Row {
  std::string section, name;
  struct Value {
    std::string name, unit;
    double value;
  };
  std::vector<Value> values;
  std::vector<Check> checks;
  std::vector<std::string> notes;

  Row& add(std::string what, double value, std::string unit = {}) {
    values.push_back({std::move(what), std::move(unit), value});
    return *this;
  }
  Row& at_least(std::string what, double value, double bound) {
    checks.push_back({std::move(what), value, true, bound});
    return *this;
  }
  Row& at_most(std::string what, double value, double bound) {
    checks.push_back({std::move(what), value, false, bound});
    return *this;
  }
  /// What a bare program reaches of the bound that was added last.
  Row& by_hand(double value) {
    checks.back().by_hand = value;
    return *this;
  }
  Row& note(std::string text) {
    notes.push_back(std::move(text));
    return *this;
  }
};

class Report {
 public:
  /// Facts about the run: machine, commit, date, versions of peers.
  void fact(const std::string& name, const std::string& value);
  /// Prints the row as one line and keeps it.
  void add(Row row);
  /// Prints and keeps how long a section took.
  void took(const std::string& section, double seconds);
  /// Prints how many bounds were met, and those that were not: first what a bare program misses, too.
  void print_summary() const;
  void print_facts() const;
  /// Writes everything, by way of a temporary file.
  void save(const std::string& path) const;

 private:
  std::vector<std::pair<std::string, std::string>> facts_;
  std::vector<Row> rows_;
  std::vector<std::pair<std::string, double>> seconds_;
};

/// "1.234 ms", "56.7 GB/s": three or four digits and the unit.
std::string readable(double value, const std::string& unit);

}  // namespace bench
