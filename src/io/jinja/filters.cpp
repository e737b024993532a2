// Looking filters up and calling them, and what several of them share.
#include "io/jinja/filters.h"

#include <algorithm>

#include "io/jinja/budget.h"
#include "io/jinja/operations.h"
#include "io/jinja/repr.h"
#include "io/jinja/text.h"

namespace metal_candle::jinja {

const Filter* find_filter(std::string_view name) {
  for (auto part :
       {text_filters(), layout_filters(), number_filters(), sequence_filters(), order_filters(), choice_filters()})
    for (const Filter& filter : part)
      if (filter.name == name) return &filter;
  return nullptr;
}

Value apply(const Filter& filter, const Value& subject, const Call& call) {
  spend(1);
  if (filter.run_any) return filter.run_any(subject, call);
  std::size_t count = 0;
  while (count < std::size(filter.parameters) && filter.parameters[count]) ++count;
  return filter.run(subject, Parameters(filter.name, {filter.parameters, count}, call));
}

namespace {

/// One step of a path: digits are an index.
Value step(const std::string& part) {
  const bool index = all_are(part, CharClass::ascii) && all_are(part, CharClass::digit) && part.size() < 18;
  return index ? Value(std::int64_t{std::stoll(part)}) : Value(part);
}

}  // namespace

Value follow(const Value& subject, const Value& path, const Value* otherwise) {
  if (path.is_none()) return subject;
  std::vector<Value> parts;
  if (path.is_text())
    for (const std::string& part : split_at(path.text(), ".", -1, false)) parts.push_back(step(part));
  else parts.push_back(path);
  Value item = subject;
  for (const Value& part : parts) {
    item = get_item(item, part);
    if (otherwise && !otherwise->is_none() && item.is_undefined()) item = *otherwise;
  }
  return item;
}

Value fold_case(const Value& value) { return value.is_text() ? Value(lower(value.text())) : value; }

Value soft_text(const Value& value) { return value.is_text() ? value : Value(to_text(value)); }

}  // namespace metal_candle::jinja
