// The oracle's cases, as tests/fixtures/make_ops_fixtures.py writes them; the format is described there.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "metal_candle/tensor.hpp"

namespace metal_candle::test {

using Values = std::vector<double>;

struct Bound {
  double relative = 0, absolute = 0, half = 0, half_norm = 0, tail = 0;
};

struct Case {
  struct Array {
    std::string name, type;  // type: "real", "wide" or a dtype
    Shape shape;
    Values values;
  };
  std::string op, file;
  int line = 0;
  std::map<std::string, double> attrs;
  std::vector<Array> inputs, outputs, grads;
  Array seed;
  bool has_seed = false, pointwise = false;
  Bound bound, grad_bound;
  std::string only;

  double attr(const std::string& name, double otherwise = 0) const {
    const auto it = attrs.find(name);
    return it == attrs.end() ? otherwise : it->second;
  }
  /// The fixture's file and line, and the op.
  std::string where() const { return path_of(file) + ":" + std::to_string(line) + ": " + op; }
  /// What the op was called with, a line each: attributes, inputs, the cotangent.
  std::string given() const;

  static std::string path_of(const std::string& file) { return "tests/fixtures/ops/" + file + ".txt"; }
};

/// Every case of fixtures/ops/<file>.txt; throws when the file cannot be read or says what nobody understands.
std::vector<Case> read_cases(const std::string& file);

}  // namespace metal_candle::test
