// Walking, measuring and slicing what has items.
#include <algorithm>

#include "io/jinja/budget.h"
#include "io/jinja/operations.h"
#include "io/jinja/text.h"

namespace metal_candle::jinja {

std::vector<Value> iterate(const Value& value) {
  std::vector<Value> items;
  switch (value.kind()) {
    case Kind::undefined: return {};
    case Kind::sequence: {
      const Sequence& sequence = value.sequence();
      spend(1 + sequence.items.size());
      if (sequence.form != Sequence::Form::generator) return sequence.items;
      if (std::exchange(sequence.spent, true)) return {};
      return sequence.items;
    }
    case Kind::dict:
      spend(1 + value.dict().size());
      for (const auto& [key, item] : value.dict().items()) items.push_back(key);
      return items;
    case Kind::text:
      spend(1 + value.text().size());
      for (char32_t c : decode(value.text())) items.push_back(Value(encode({&c, 1})));
      return items;
    default: fail_type("'" + type_name(value) + "' object is not iterable");
  }
}

bool is_iterable(const Value& value) {
  return value.is_sequence() || value.is_dict() || value.is_text() || value.is_undefined();
}

std::int64_t length(const Value& value) {
  spend(1);
  if (value.is_undefined()) return 0;
  if (value.is_text()) return static_cast<std::int64_t>(code_points(value.text()));
  if (value.is_dict()) return static_cast<std::int64_t>(value.dict().size());
  if (value.is_sequence() && value.sequence().has_length())
    return static_cast<std::int64_t>(value.sequence().items.size());
  fail_type("object of type '" + type_name(value) + "' has no len()");
}

std::int64_t to_int(const Value& value, std::string_view what) {
  require_defined(value);
  if (!value.is_whole()) fail_type(std::string(what) + " must be an int, not " + type_name(value));
  return value.whole();
}

std::vector<std::size_t> slice_places(std::size_t size, const Value& start, const Value& stop, const Value& step) {
  auto number = [](const Value& v, std::int64_t otherwise) {
    if (v.is_none()) return otherwise;
    if (!v.is_whole()) fail_type("slice indices must be integers or None or have an __index__ method");
    return v.whole();
  };
  const std::int64_t by = number(step, 1), count = static_cast<std::int64_t>(size);
  if (by == 0) fail(Reason::value, "slice step cannot be zero");
  const std::int64_t low = by > 0 ? 0 : -1, high = by > 0 ? count : count - 1;
  auto place = [&](std::int64_t i) { return std::clamp(i < 0 ? std::max(i, -count - 1) + count : i, low, high); };
  const std::int64_t from = start.is_none() ? (by > 0 ? low : high) : place(number(start, 0));
  const std::int64_t to = stop.is_none() ? (by > 0 ? high : low) : place(number(stop, 0));
  std::vector<std::size_t> places;
  const std::int64_t stride = std::clamp(by, -count - 1, count + 1);
  for (std::int64_t i = from; by > 0 ? i < to : i > to; i += stride) places.push_back(static_cast<std::size_t>(i));
  spend(1 + places.size() / 8);
  return places;
}

Value slice(const Value& subject, const Value& start, const Value& stop, const Value& step) {
  require_defined(subject);
  if (subject.is_text()) {
    spend_text(subject.text().size());
    const std::u32string codes = decode(subject.text());
    std::u32string part;
    for (std::size_t i : slice_places(codes.size(), start, stop, step)) part += codes[i];
    return Value(encode(part), subject.is_markup());
  }
  if (subject.is_dict()) fail_type("unhashable type: 'slice'");
  if (!subject.is_sequence() || !subject.sequence().has_index())
    fail_type("'" + type_name(subject) + "' object is not subscriptable");
  std::vector<Value> items;
  for (std::size_t i : slice_places(subject.sequence().items.size(), start, stop, step))
    items.push_back(subject.sequence().items[i]);
  return subject.sequence().is_tuple() ? Value::tuple(std::move(items)) : Value::list(std::move(items));
}

}  // namespace metal_candle::jinja
