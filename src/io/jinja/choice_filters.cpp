// map, select and reject: filters that apply filters and tests.
#include "io/jinja/budget.h"
#include "io/jinja/filters.h"
#include "io/jinja/operations.h"
#include "io/jinja/repr.h"

namespace metal_candle::jinja {

namespace {

/// The name that the argument at `i` is, and the arguments behind it.
const std::string& name_at(const Call& call, std::size_t i) {
  require_defined(call.positional[i]);
  if (!call.positional[i].is_text()) fail_type("the name of a filter or test must be str");
  return call.positional[i].text();
}
Call behind(const Call& call, std::size_t i) {
  return {{call.positional.begin() + static_cast<std::ptrdiff_t>(i), call.positional.end()}, call.named};
}

Value map_path(const Value& subject, const Call& call) {
  const Value *path = nullptr, *otherwise = nullptr;
  for (const auto& [name, value] : call.named) {
    if (name != "attribute" && name != "default") fail_type("Unexpected keyword argument " + in_quotes(name));
    (name == "attribute" ? path : otherwise) = &value;
  }
  if (!path) fail_type("map requires a filter argument");
  std::vector<Value> out;
  for (const Value& item : iterate(subject)) out.push_back(follow(item, *path, otherwise));
  return Value::generator(std::move(out));
}

Value map(const Value& subject, const Call& call) {
  if (!truthy(subject)) return Value::generator({});
  if (call.positional.empty()) return map_path(subject, call);
  const Filter* filter = find_filter(name_at(call, 0));
  if (!filter) fail(Reason::unsupported, "No filter named " + in_quotes(name_at(call, 0)) + ".");
  const Call rest = behind(call, 1);
  std::vector<Value> out;
  for (const Value& item : iterate(subject)) out.push_back(apply(*filter, item, rest));
  return Value::generator(std::move(out));
}

template <bool by_attribute, bool keep>
Value choose(const Value& subject, const Call& call) {
  if (!truthy(subject)) return Value::generator({});
  constexpr std::size_t first = by_attribute ? 1 : 0;
  if (by_attribute && call.positional.empty()) fail_type("Missing parameter for attribute name");
  const Predicate* predicate = nullptr;
  Call rest;
  if (call.positional.size() > first) {
    predicate = find_predicate(name_at(call, first));
    if (!predicate) fail(Reason::unsupported, "No test named " + in_quotes(name_at(call, first)) + ".");
    rest = behind(call, first + 1);
  }
  std::vector<Value> out;
  for (const Value& item : iterate(subject)) {
    const Value tested = by_attribute ? follow(item, call.positional[0]) : item;
    if ((predicate ? apply(*predicate, tested, rest) : truthy(tested)) == keep) out.push_back(item);
  }
  return Value::generator(std::move(out));
}

constexpr Filter kChoiceFilters[] = {
    {"map", nullptr, {}, map},
    {"reject", nullptr, {}, choose<false, false>},
    {"rejectattr", nullptr, {}, choose<true, false>},
    {"select", nullptr, {}, choose<false, true>},
    {"selectattr", nullptr, {}, choose<true, true>},
};

}  // namespace

std::span<const Filter> choice_filters() { return kChoiceFilters; }

}  // namespace metal_candle::jinja
