// What every template finds: range, dict, namespace, cycler, joiner, raise_exception, strftime_now.
#pragma once

#include <ctime>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "io/jinja/interpreter.h"
#include "io/jinja/value.h"

namespace metal_candle::jinja {

/// The one thing that a template can change.
struct Namespace : Object {
  std::string type() const override { return "Namespace"; }
  std::optional<Value> attribute(std::string_view name) const override;
  std::string repr() const override;
  void release() override { members = Dict(); }
  void set(const std::string& name, Value value);

  Dict members;
};

/// A function of ours.
Value function(std::string name, std::function<Value(const Call&)> run);

/// What they make is put into `keep`.
std::vector<std::pair<std::string, Value>> make_globals(const std::tm& now, Keep& keep);

}  // namespace metal_candle::jinja
