// Calling macros: parameters, defaults, and what else is caught.
#include "io/jinja/macro.h"

#include <algorithm>

#include "io/jinja/repr.h"

namespace metal_candle::jinja {

std::optional<Value> Macro::attribute(std::string_view what) const {
  if (what == "name") return Value(name);
  if (what == "caller") return statement.signature.uses_caller;
  if (what == "catch_kwargs") return statement.signature.uses_kwargs;
  if (what == "catch_varargs") return statement.signature.uses_varargs;
  if (what != "arguments") return std::nullopt;
  std::vector<Value> names;
  for (const auto& [number, text] : statement.signature.parameters) names.emplace_back(text);
  return Value::tuple(std::move(names));
}

std::string Macro::repr() const { return "<Macro " + in_quotes(name) + ">"; }

void Macro::bind(Call call) {
  const Signature& signature = statement.signature;
  const std::size_t count = signature.parameters.size(), plain = count - signature.defaults.size();
  auto take_named = [&](std::string_view wanted) -> std::optional<Value> {
    const auto found =
        std::find_if(call.named.begin(), call.named.end(), [&](const auto& n) { return n.first == wanted; });
    if (found == call.named.end()) return std::nullopt;
    Value value = std::move(found->second);
    call.named.erase(found);
    return value;
  };
  Scope& own = *interpreter.scope_;
  std::vector<std::optional<Value>> given(count);
  bool has_caller = false;
  for (std::size_t i = 0; i < count; ++i) {
    const std::string& text = signature.parameters[i].second;
    given[i] = i < call.positional.size() ? std::optional(call.positional[i]) : take_named(text);
    has_caller |= text == "caller";
  }
  if (signature.uses_caller && !has_caller)
    own.set(Names::caller, take_named("caller").value_or(Value::undefined("No caller defined")));
  if (signature.uses_kwargs) {
    Dict rest;
    for (auto& [key, value] : call.named) rest.set(Value(key), value);
    own.set(Names::kwargs, Value(std::move(rest)));
  } else if (!call.named.empty()) {
    fail_type("macro " + in_quotes(name) + " takes no keyword argument " + in_quotes(call.named[0].first));
  }
  const auto over = call.positional.begin() + static_cast<std::ptrdiff_t>(std::min(count, call.positional.size()));
  if (signature.uses_varargs) own.set(Names::varargs, Value::tuple({over, call.positional.end()}));
  else if (over != call.positional.end())
    fail_type("macro " + in_quotes(name) + " takes not more than " + std::to_string(count) + " argument(s)");
  for (std::size_t i = 0; i < count; ++i) {
    const auto& [number, text] = signature.parameters[i];
    if (!given[i] && i >= plain) given[i] = interpreter.eval(*signature.defaults[i - plain]);
    own.set(number, given[i] ? *given[i] : Value::undefined("parameter " + in_quotes(text) + " was not provided"));
  }
}

Value Macro::call(const Call& call) {
  const Level level;
  const int line = interpreter.line_, column = interpreter.column_;
  Capture capture(interpreter);
  Inner inner(interpreter, scope);
  bind(call);
  interpreter.run(statement.bodies[0]);
  interpreter.line_ = line, interpreter.column_ = column;
  return Value(std::move(capture.text));
}

}  // namespace metal_candle::jinja
