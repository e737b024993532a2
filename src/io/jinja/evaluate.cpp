// Expressions.
#include "io/jinja/access.h"
#include "io/jinja/interpreter.h"
#include "io/jinja/repr.h"

namespace metal_candle::jinja {

Value Interpreter::eval(const Expression& e) {
  const Level level;
  spend(1);
  using Kind = Expression::Kind;
  switch (e.kind) {
    case Kind::constant: return e.value;
    case Kind::name:
    case Kind::target: return name(e);
    case Kind::list: return Value::list(eval_all(e.parts));
    case Kind::tuple: return Value::tuple(eval_all(e.parts));
    case Kind::dict: return dict(e);
    case Kind::slice: return slice(e);
    case Kind::call: return call(e);
    case Kind::filter: return filter(e);
    case Kind::test: return test(e);
    case Kind::concat: return concat(e);
    case Kind::compare: return compare(e);
    case Kind::conditional: return conditional(e);
    default: break;
  }
  const Value first = eval(*e.parts[0]);
  switch (e.kind) {
    case Kind::attribute: at(e); return get_attribute(first, e.text);
    case Kind::logical_not: return !truthy(first);
    case Kind::logical_and: return truthy(first) ? eval(*e.parts[1]) : first;
    case Kind::logical_or: return truthy(first) ? first : eval(*e.parts[1]);
    case Kind::minus: at(e); return negative(first);
    case Kind::plus: at(e); return positive(first);
    default: break;
  }
  const Value second = eval(*e.parts[1]);
  at(e);
  return e.kind == Kind::item ? get_item(first, second) : binary(e.op, first, second);
}

Value Interpreter::name(const Expression& e) const {
  for (const Scope* scope = scope_.get(); scope; scope = scope->outer.get())
    if (const Value* found = scope->find(e.name)) return *found;
  if (const auto& given = given_[static_cast<std::size_t>(e.name)]) return *given;
  return Value::undefined(in_quotes(program_.names.text(e.name)) + " is undefined");
}

std::vector<Value> Interpreter::eval_all(const std::vector<ExpressionPointer>& parts) {
  std::vector<Value> values;
  values.reserve(parts.size());
  for (const auto& part : parts) values.push_back(eval(*part));
  return values;
}

Value Interpreter::dict(const Expression& e) {
  Dict dict;
  for (std::size_t i = 0; i + 1 < e.parts.size(); i += 2) {
    Value key = eval(*e.parts[i]), value = eval(*e.parts[i + 1]);
    at(e);
    dict.set(std::move(key), std::move(value));
  }
  return dict;
}

Value Interpreter::slice(const Expression& e) {
  Value values[4];
  for (std::size_t i = 0; i < 4; ++i)
    if (e.parts[i]) values[i] = eval(*e.parts[i]);
  at(e);
  return jinja::slice(values[0], values[1], values[2], values[3]);
}

Call Interpreter::arguments(const Arguments& from) {
  Call call{.positional = eval_all(from.positional), .named = {}};
  for (const auto& [name, value] : from.named) call.named.emplace_back(name, eval(*value));
  if (from.spread)
    for (Value& value : iterate(eval(*from.spread))) call.positional.push_back(std::move(value));
  if (from.spread_named) {
    const Value more = eval(*from.spread_named);
    if (!more.is_dict()) fail_type("argument after ** must be a mapping, not " + type_name(more));
    for (const auto& [key, value] : more.dict().items()) {
      if (!key.is_text()) fail_type("keywords must be strings");
      call.named.emplace_back(key.text(), value);
    }
  }
  return call;
}

Value Interpreter::call(const Expression& e, std::optional<Value> caller) {
  const Value callee = eval(*e.parts[0]);
  Call with = arguments(e.arguments);
  if (caller) with.named.emplace_back("caller", *std::move(caller));
  at(e);
  require_defined(callee);
  if (callee.kind() != Kind::object) fail_type("'" + type_name(callee) + "' object is not callable");
  return callee.object()->call(with);
}

Value Interpreter::filter(const Expression& e) {
  const Value subject = e.parts[0] ? eval(*e.parts[0]) : *block_text_;
  const Call with = arguments(e.arguments);
  at(e);
  if (!e.filter) fail(Reason::unsupported, "No filter named " + in_quotes(e.text) + " found.");
  return apply(*e.filter, subject, with);
}

bool Interpreter::test(const Expression& e) {
  const Value subject = eval(*e.parts[0]);
  const Call with = arguments(e.arguments);
  at(e);
  if (!e.predicate) fail(Reason::unsupported, "No test named " + in_quotes(e.text) + " found.");
  return apply(*e.predicate, subject, with);
}

Value Interpreter::concat(const Expression& e) {
  std::string text;
  for (const auto& part : e.parts) {
    const std::string more = to_text(eval(*part));
    at(e);
    spend_growth(more.size(), text.size() + more.size());
    text += more;
  }
  return text;
}

bool Interpreter::compare(const Expression& e) {
  Value left = eval(*e.parts[0]);
  for (std::size_t i = 0; i < e.comparisons.size(); ++i) {
    Value right = eval(*e.parts[i + 1]);
    at(e);
    if (!jinja::compare(e.comparisons[i], left, right)) return false;
    left = std::move(right);
  }
  return true;
}

Value Interpreter::conditional(const Expression& e) {
  if (truthy(eval(*e.parts[1]))) return eval(*e.parts[0]);
  if (e.parts[2]) return eval(*e.parts[2]);
  return Value::undefined("the inline if-expression on line " + std::to_string(e.line) +
                          " evaluated to false and no else section was defined.");
}

}  // namespace metal_candle::jinja
