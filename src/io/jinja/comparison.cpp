// ==, <, in; hashes of keys.
#include <algorithm>
#include <cmath>
#include <compare>
#include <functional>

#include "io/jinja/budget.h"
#include "io/jinja/operations.h"

namespace metal_candle::jinja {

namespace {

std::partial_ordering turned(std::partial_ordering order) {
  if (std::is_lt(order)) return std::partial_ordering::greater;
  return std::is_gt(order) ? std::partial_ordering::less : order;
}

/// Numbers of different kinds compare by value, and no int is rounded on the way.
std::partial_ordering order_numbers(const Value& a, const Value& b) {
  if (a.is_whole() && b.is_whole()) return a.whole() <=> b.whole();
  if (a.kind() == Kind::real && b.kind() == Kind::real) return a.real() <=> b.real();
  if (a.kind() == Kind::real) return turned(order_numbers(b, a));
  const double real = b.real();
  if (std::isnan(real)) return std::partial_ordering::unordered;
  if (real >= 9223372036854775808.0) return std::partial_ordering::less;
  if (real < -9223372036854775808.0) return std::partial_ordering::greater;
  const auto whole = static_cast<std::int64_t>(real);
  if (a.whole() != whole) return a.whole() <=> whole;
  return 0.0 <=> real - static_cast<double>(whole);
}

bool equal_items(const std::vector<Value>& a, const std::vector<Value>& b) {
  return std::equal(a.begin(), a.end(), b.begin(), b.end(), [](const Value& x, const Value& y) { return equal(x, y); });
}

bool equal_dicts(const Dict& a, const Dict& b) {
  if (a.size() != b.size()) return false;
  for (const auto& [key, value] : a.items()) {
    const Value* other = b.find(key);
    if (!other || !equal(value, *other)) return false;
  }
  return true;
}

bool equal_sequences(const Value& a, const Value& b) {
  using Form = Sequence::Form;
  auto form = [](const Sequence& s) { return s.form == Form::group ? Form::tuple : s.form; };
  const Sequence &x = a.sequence(), &y = b.sequence();
  if (&x == &y) return true;
  const bool by_items = x.has_index();
  return by_items && form(x) == form(y) && equal_items(x.items, y.items);
}

const char* symbol(Comparison c) {
  constexpr const char* kSymbols[] = {"==", "!=", "<", "<=", ">", ">="};
  return kSymbols[static_cast<int>(c)];
}

[[noreturn]] void fail_order(Comparison c, const Value& a, const Value& b) {
  fail_type("'" + std::string(symbol(c)) + "' not supported between instances of '" + type_name(a) + "' and '" +
            type_name(b) + "'");
}

bool holds(Comparison c, std::partial_ordering order) {
  switch (c) {
    case Comparison::less: return std::is_lt(order);
    case Comparison::less_equal: return std::is_lteq(order);
    case Comparison::greater: return std::is_gt(order);
    default: return std::is_gteq(order);
  }
}

bool in_order(Comparison c, const Value& a, const Value& b) {
  require_defined(a);
  require_defined(b);
  spend(1);
  if (a.is_number() && b.is_number()) return holds(c, order_numbers(a, b));
  // Of valid UTF-8, bytes are in the order of code points.
  if (a.is_text() && b.is_text()) return holds(c, a.text().compare(b.text()) <=> 0);
  if (!a.is_sequence() || !b.is_sequence()) fail_order(c, a, b);
  const Sequence &x = a.sequence(), &y = b.sequence();
  if (x.is_tuple() != y.is_tuple() || !x.has_index() || !y.has_index() || x.form == Sequence::Form::range)
    fail_order(c, a, b);
  for (std::size_t i = 0; i < std::min(x.items.size(), y.items.size()); ++i)
    if (!equal(x.items[i], y.items[i])) return in_order(c, x.items[i], y.items[i]);
  return holds(c, x.items.size() <=> y.items.size());
}

std::size_t hash_number(const Value& v) {
  if (v.is_whole()) return std::hash<std::int64_t>{}(v.whole());
  const double real = v.real();
  if (std::floor(real) == real && std::abs(real) < 9e18)
    return std::hash<std::int64_t>{}(static_cast<std::int64_t>(real));
  return std::hash<double>{}(real);
}

}  // namespace

bool equal(const Value& a, const Value& b) {
  spend(1);
  if (a.is_number() && b.is_number()) return std::is_eq(order_numbers(a, b));
  if (a.kind() != b.kind()) return false;
  switch (a.kind()) {
    case Kind::text: return a.text() == b.text();
    case Kind::sequence: return equal_sequences(a, b);
    case Kind::dict: return &a.dict() == &b.dict() || equal_dicts(a.dict(), b.dict());
    case Kind::object: {
      const LongInteger *x = long_integer(a), *y = long_integer(b);
      return x && y ? x->digits == y->digits : a.object() == b.object();
    }
    default: return true;  // None, undefined
  }
}

bool compare(Comparison c, const Value& a, const Value& b) {
  switch (c) {
    case Comparison::equal: return equal(a, b);
    case Comparison::unequal: return !equal(a, b);
    case Comparison::in: return contains(b, a);
    case Comparison::not_in: return !contains(b, a);
    default: return in_order(c, a, b);
  }
}

std::size_t hash_of(const Value& v) {
  spend(1);
  switch (v.kind()) {
    case Kind::text: return std::hash<std::string>{}(v.text());
    case Kind::boolean:
    case Kind::integer:
    case Kind::real: return hash_number(v);
    case Kind::object:
      if (const LongInteger* integer = long_integer(v)) return std::hash<std::string>{}(integer->digits);
      return std::hash<const void*>{}(v.object().get());
    case Kind::sequence: {
      if (v.sequence().form == Sequence::Form::list) break;
      std::size_t hash = 17;
      for (const Value& item : v.sequence().items) hash = hash * 1000003 ^ hash_of(item);
      return hash;
    }
    case Kind::dict: break;
    default: return static_cast<std::size_t>(v.kind());
  }
  fail_type("unhashable type: '" + type_name(v) + "'");
}

bool contains(const Value& container, const Value& item) {
  if (container.is_text()) {
    require_defined(item);
    if (!item.is_text()) fail_type("'in <string>' requires string as left operand, not " + type_name(item));
    spend_text(container.text().size());
    return container.text().find(item.text()) != std::string::npos;
  }
  if (container.is_dict()) return container.dict().find(item) != nullptr;
  if (!is_iterable(container)) fail_type("argument of type '" + type_name(container) + "' is not iterable");
  for (const Value& candidate : iterate(container))
    if (equal(candidate, item)) return true;
  return false;
}

}  // namespace metal_candle::jinja
