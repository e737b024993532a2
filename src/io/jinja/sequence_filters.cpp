// Filters that take sequences apart and put them together.
#include <algorithm>

#include "io/jinja/budget.h"
#include "io/jinja/filters.h"
#include "io/jinja/operations.h"
#include "io/jinja/repr.h"
#include "io/jinja/text.h"

namespace metal_candle::jinja {

namespace {

Value length_of(const Value& subject, const Parameters&) { return length(subject); }
Value as_list(const Value& subject, const Parameters&) { return Value::list(iterate(subject)); }

Value first(const Value& subject, const Parameters&) {
  const std::vector<Value> items = iterate(subject);
  return items.empty() ? Value::undefined("No first item, sequence was empty.") : items.front();
}

Value last(const Value& subject, const Parameters&) {
  if (subject.is_undefined() || (subject.is_sequence() && !subject.sequence().has_length()))
    fail_type("'" + type_name(subject) + "' object is not reversible");
  const std::vector<Value> items = iterate(subject);
  return items.empty() ? Value::undefined("No last item, sequence was empty.") : items.back();
}

/// One of the items, and always the same: a prompt should not change from one rendering to the next.
Value any_one(const Value& subject, const Parameters&) {
  const std::vector<Value> items = iterate(subject);
  if (items.empty()) return Value::undefined("No random item, sequence was empty.");
  return items[(items.size() * 7 + 3) / 10 % items.size()];
}

Value reverse(const Value& subject, const Parameters&) {
  if (subject.is_text()) return slice(subject, Value(), Value(), Value(-1));
  std::vector<Value> items = iterate(subject);
  std::reverse(items.begin(), items.end());
  return Value::generator(std::move(items));
}

Value join(const Value& subject, const Parameters& p) {
  const std::string separator = p.has(0) ? to_text(*p[0]) : "";
  std::string out;
  bool any = false;
  for (const Value& item : iterate(subject)) {
    if (std::exchange(any, true)) out += separator;
    out += to_text(p.has(1) && !p[1]->is_none() ? follow(item, *p[1]) : item);
    spend_text(out.size() / 32);
  }
  spend_text(out.size());
  return out;
}

Value items(const Value& subject, const Parameters&) {
  if (subject.is_undefined()) return Value::generator({});
  if (!subject.is_dict()) fail_type("Can only get item pairs from a mapping.");
  std::vector<Value> pairs;
  for (const auto& [key, value] : subject.dict().items()) pairs.push_back(Value::tuple({key, value}));
  spend(pairs.size());
  return Value::generator(std::move(pairs));
}

Value batch(const Value& subject, const Parameters& p) {
  const std::int64_t count = to_int(p.required(0), "linecount");
  const bool fill = p.has(1) && !p[1]->is_none();
  std::vector<Value> rows, row;
  for (const Value& item : iterate(subject)) {
    if (static_cast<std::int64_t>(row.size()) == count) rows.push_back(Value::list(std::exchange(row, {})));
    row.push_back(item);
  }
  while (fill && !row.empty() && static_cast<std::int64_t>(row.size()) < count) {
    spend(1);
    row.push_back(*p[1]);
  }
  if (!row.empty()) rows.push_back(Value::list(std::move(row)));
  return Value::generator(std::move(rows));
}

Value slices(const Value& subject, const Parameters& p) {
  const std::int64_t count = to_int(p.required(0), "slices");
  const bool fill = p.has(1) && !p[1]->is_none();
  if (count == 0) fail(Reason::value, "division by zero");
  const std::vector<Value> all = iterate(subject);
  const auto size = static_cast<std::int64_t>(all.size());
  std::vector<Value> rows;
  std::int64_t from = 0;
  for (std::int64_t i = 0; i < count; ++i) {
    const bool more = i < size % count;
    const std::int64_t to = from + size / count + more;
    std::vector<Value> row(all.begin() + from, all.begin() + to);
    if (fill && !more) row.push_back(*p[1]);
    spend(1 + row.size());
    rows.push_back(Value::list(std::move(row)));
    from = to;
  }
  return Value::generator(std::move(rows));
}

Value sum(const Value& subject, const Parameters& p) {
  Value total = p.has(1) ? *p[1] : Value(0);
  if (total.is_text()) fail_type("sum() can't sum strings [use ''.join(seq) instead]");
  for (const Value& item : iterate(subject))
    total = binary(Operator::add, total, p.has(0) && !p[0]->is_none() ? follow(item, *p[0]) : item);
  return total;
}

Value attribute(const Value& subject, const Parameters& p) {
  const std::string& name = p.text(0);
  require_defined(subject);
  if (subject.is_dict() && !find_container_method(subject, name))  // attributes only: items do not count here
    return Value::undefined("'dict object' has no attribute " + in_quotes(name));
  return get_attribute(subject, name);
}

Value otherwise(const Value& subject, const Parameters& p) {
  const bool wanted = subject.is_undefined() || (p.flag(1, false) && !truthy(subject));
  return wanted ? (p.has(0) ? *p[0] : Value("")) : subject;
}

constexpr Filter kSequenceFilters[] = {
    {"attr", attribute, {"name"}},
    {"batch", batch, {"linecount", "fill_with"}},
    {"count", length_of},
    {"d", otherwise, {"default_value", "boolean"}},
    {"default", otherwise, {"default_value", "boolean"}},
    {"first", first},
    {"items", items},
    {"join", join, {"d", "attribute"}},
    {"last", last},
    {"length", length_of},
    {"list", as_list},
    {"random", any_one},
    {"reverse", reverse},
    {"slice", slices, {"slices", "fill_with"}},
    {"sum", sum, {"attribute", "start"}},
};

}  // namespace

std::span<const Filter> sequence_filters() { return kSequenceFilters; }

}  // namespace metal_candle::jinja
