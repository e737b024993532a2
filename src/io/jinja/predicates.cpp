// What may stand behind `is`.
#include <algorithm>

#include "io/jinja/budget.h"
#include "io/jinja/filters.h"
#include "io/jinja/operations.h"
#include "io/jinja/repr.h"
#include "io/jinja/text.h"

namespace metal_candle::jinja {

namespace {

template <Comparison comparison>
bool compared(const Value& subject, const Call& call) {
  return compare(comparison, subject, call.positional[0]);
}

template <Kind kind>
bool is_kind(const Value& subject, const Call&) {
  return subject.kind() == kind;
}

bool divisible(const Value& subject, const Value& by) { return equal(binary(Operator::modulo, subject, by), Value(0)); }

bool odd(const Value& subject, const Call&) { return equal(binary(Operator::modulo, subject, Value(2)), Value(1)); }
bool even(const Value& subject, const Call&) { return divisible(subject, Value(2)); }
bool divisible_by(const Value& subject, const Call& call) { return divisible(subject, call.positional[0]); }
bool defined(const Value& subject, const Call&) { return !subject.is_undefined(); }
bool is_true(const Value& subject, const Call&) { return subject.kind() == Kind::boolean && subject.boolean(); }
bool is_false(const Value& subject, const Call&) { return subject.kind() == Kind::boolean && !subject.boolean(); }
bool number(const Value& subject, const Call&) { return subject.is_number() || long_integer(subject); }
bool integer(const Value& subject, const Call&) { return subject.kind() == Kind::integer || long_integer(subject); }
bool lower_case(const Value& subject, const Call&) { return is_lower(to_text(subject)); }
bool upper_case(const Value& subject, const Call&) { return is_upper(to_text(subject)); }
bool escaped(const Value& subject, const Call&) { return subject.is_markup(); }
bool iterable(const Value& subject, const Call&) { return is_iterable(subject); }
bool same_as(const Value& subject, const Call& call) { return subject.same_as(call.positional[0]); }
bool in(const Value& subject, const Call& call) { return contains(call.positional[0], subject); }

bool sequence(const Value& subject, const Call&) {
  return subject.is_undefined() || subject.is_text() || subject.is_dict() ||
         (subject.is_sequence() && subject.sequence().has_index());
}
bool callable(const Value& subject, const Call&) {
  return subject.is_undefined() || (subject.kind() == Kind::object && subject.object()->callable());
}
bool filter(const Value& subject, const Call&) { return subject.is_text() && find_filter(subject.text()); }
bool test(const Value& subject, const Call&) { return subject.is_text() && find_predicate(subject.text()); }

constexpr Predicate kPredicates[] = {
    {"!=", compared<Comparison::unequal>, 1},
    {"<", compared<Comparison::less>, 1},
    {"<=", compared<Comparison::less_equal>, 1},
    {"==", compared<Comparison::equal>, 1},
    {">", compared<Comparison::greater>, 1},
    {">=", compared<Comparison::greater_equal>, 1},
    {"boolean", is_kind<Kind::boolean>},
    {"callable", callable},
    {"defined", defined},
    {"divisibleby", divisible_by, 1},
    {"eq", compared<Comparison::equal>, 1},
    {"equalto", compared<Comparison::equal>, 1},
    {"escaped", escaped},
    {"even", even},
    {"false", is_false},
    {"filter", filter},
    {"float", is_kind<Kind::real>},
    {"ge", compared<Comparison::greater_equal>, 1},
    {"greaterthan", compared<Comparison::greater>, 1},
    {"gt", compared<Comparison::greater>, 1},
    {"in", in, 1},
    {"integer", integer},
    {"iterable", iterable},
    {"le", compared<Comparison::less_equal>, 1},
    {"lessthan", compared<Comparison::less>, 1},
    {"lower", lower_case},
    {"lt", compared<Comparison::less>, 1},
    {"mapping", is_kind<Kind::dict>},
    {"ne", compared<Comparison::unequal>, 1},
    {"none", is_kind<Kind::none>},
    {"number", number},
    {"odd", odd},
    {"sameas", same_as, 1},
    {"sequence", sequence},
    {"string", is_kind<Kind::text>},
    {"test", test},
    {"true", is_true},
    {"undefined", is_kind<Kind::undefined>},
    {"upper", upper_case},
};

}  // namespace

const Predicate* find_predicate(std::string_view name) {
  const auto* found =
      std::find_if(std::begin(kPredicates), std::end(kPredicates), [&](const Predicate& p) { return p.name == name; });
  return found == std::end(kPredicates) ? nullptr : found;
}

bool apply(const Predicate& predicate, const Value& subject, const Call& call) {
  spend(1);
  if (!call.named.empty() || call.positional.size() != predicate.arguments)
    fail_type("the test " + in_quotes(std::string(predicate.name)) + " takes " + std::to_string(predicate.arguments) +
              " argument(s)");
  return predicate.run(subject, call);
}

}  // namespace metal_candle::jinja
