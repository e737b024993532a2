// The names in the oracle's fixtures as calls of the public functions.
#pragma once

#include <functional>
#include <map>
#include <string>
#include <vector>

#include "metal_candle/lazy_tensor.hpp"
#include "tests/ops/fixture.h"

namespace metal_candle::test {

struct Arguments {
  const Case& what;
  std::map<std::string, LazyTensor> inputs;

  /// Undefined when the case has none of that name.
  LazyTensor operator[](const std::string& name) const {
    const auto it = inputs.find(name);
    return it == inputs.end() ? LazyTensor() : it->second;
  }
  double real(const std::string& name, double otherwise = 0) const { return what.attr(name, otherwise); }
  std::int64_t integer(const std::string& name, double otherwise = 0) const {
    return static_cast<std::int64_t>(what.attr(name, otherwise));
  }
  int axis() const { return static_cast<int>(integer("axis")); }
};

using OracleCall = std::function<std::vector<LazyTensor>(const Arguments&)>;
const std::map<std::string, OracleCall>& oracle_calls();

}  // namespace metal_candle::test
