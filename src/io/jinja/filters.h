// Filters (`value | name(...)`) and tests (`value is name(...)`), by name.
#pragma once

#include <span>
#include <string_view>

#include "io/jinja/access.h"
#include "io/jinja/value.h"

namespace metal_candle::jinja {

struct Filter {
  const char* name;
  Value (*run)(const Value& subject, const Parameters&);
  const char* parameters[6] = {};                            // null behind the last
  Value (*run_any)(const Value& subject, const Call&) = {};  // instead, where any arguments are taken
};

struct Predicate {
  const char* name;
  bool (*run)(const Value& subject, const Call&);
  std::size_t arguments = 0;
};

/// Null if there is none of that name.
const Filter* find_filter(std::string_view name);
const Predicate* find_predicate(std::string_view name);

Value apply(const Filter&, const Value& subject, const Call&);
bool apply(const Predicate&, const Value& subject, const Call&);

// The table, in parts.
std::span<const Filter> text_filters();
std::span<const Filter> layout_filters();
std::span<const Filter> number_filters();
std::span<const Filter> sequence_filters();
std::span<const Filter> order_filters();
std::span<const Filter> choice_filters();

/// Follows a path like "function.name" or 0 from a value; an undefined part becomes `otherwise`, if given.
Value follow(const Value& subject, const Value& path, const Value* otherwise = nullptr);
/// Text in small letters, anything else as it is: how sorting and grouping compare unless told otherwise.
Value fold_case(const Value&);
/// str() of anything; markup stays markup.
Value soft_text(const Value&);

}  // namespace metal_candle::jinja
