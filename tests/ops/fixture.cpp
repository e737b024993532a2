#include "tests/ops/fixture.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstdlib>
#include <fstream>
#include <sstream>
#include <stdexcept>

namespace metal_candle::test {
namespace {

// "2 3 : v v v v v v"
void read_values(std::istringstream& in, Case::Array& to) {
  std::string word;
  while (in >> word && word != ":") to.shape.push_back(std::stoll(word));
  while (in >> word) {
    char* end = nullptr;
    to.values.push_back(std::strtod(word.c_str(), &end));
    if (*end) throw std::runtime_error("not a number: " + word);
  }
  if (static_cast<std::int64_t>(to.values.size()) != to.shape.numel()) throw std::runtime_error("values are missing");
}

Bound read_bound(std::istringstream& in) {
  Bound b;
  if (!(in >> b.relative >> b.absolute >> b.half >> b.half_norm)) throw std::runtime_error("a bound has four numbers");
  in >> b.tail;  // a fifth, where there is one
  return b;
}

void read_line(const std::string& line, Case& c) {
  std::istringstream in(line);
  std::string key;
  in >> key;
  Case::Array array;
  if (key == "attr") {
    in >> key;
    in >> c.attrs[key];
  } else if (key == "in" || key == "grad" || key == "out" || key == "seed") {
    if (key == "in" || key == "grad") in >> array.name;
    if (key == "in" || key == "out") in >> array.type;
    read_values(in, array);
    if (key == "in") c.inputs.push_back(array);
    if (key == "out") c.outputs.push_back(array);
    if (key == "grad") c.grads.push_back(array);
    if (key == "seed") c.seed = array, c.has_seed = true;
  } else if (key == "bound") {
    c.bound = read_bound(in);
  } else if (key == "gradbound") {
    c.grad_bound = read_bound(in);
  } else if (key == "only") {
    in >> c.only;
  } else if (key == "pointwise") {
    c.pointwise = true;
  } else {
    throw std::runtime_error("unknown: " + key);
  }
}

/// The first values, and how many more there are: the fixture's line has them all.
std::string values_of(const Case::Array& a) {
  constexpr std::size_t kMost = 64;
  std::string text = a.type + a.shape.str() + ":";
  for (std::size_t i = 0; i < std::min(kMost, a.values.size()); ++i) text += fmt::format(" {}", a.values[i]);
  return a.values.size() <= kMost ? text : text + fmt::format(" ... and {} more", a.values.size() - kMost);
}

}  // namespace

std::string Case::given() const {
  std::string text;
  for (const auto& [name, value] : attrs) text += fmt::format("  {} = {}\n", name, value);
  for (const Array& in : inputs) text += fmt::format("  {} = {}\n", in.name, values_of(in));
  if (has_seed) text += "  cotangent = " + values_of(seed) + "\n";
  return text;
}

std::vector<Case> read_cases(const std::string& file) {
  std::ifstream in(METAL_CANDLE_TESTS_DIR "/../" + Case::path_of(file));
  if (!in) throw std::runtime_error("cannot read " + Case::path_of(file));
  std::vector<Case> cases;
  std::string line;
  for (int number = 1; std::getline(in, line); ++number) {
    if (line.empty() || line[0] == '#' || line == "end") continue;
    if (line.starts_with("case ")) {
      cases.emplace_back();
      cases.back().op = line.substr(5);
      cases.back().file = file;
      cases.back().line = number;
    } else {
      read_line(line, cases.at(cases.size() - 1));
    }
  }
  return cases;
}

}  // namespace metal_candle::test
