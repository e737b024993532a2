// The methods of list, tuple and dict that change nothing.
#include <algorithm>
#include <span>

#include "io/jinja/access.h"
#include "io/jinja/budget.h"
#include "io/jinja/operations.h"
#include "io/jinja/repr.h"

namespace metal_candle::jinja {

namespace {

Value count(const Value& self, const Parameters& p) {
  const auto& items = self.sequence().items;
  return static_cast<std::int64_t>(
      std::count_if(items.begin(), items.end(), [&](const Value& item) { return equal(item, p.required(0)); }));
}

Value index(const Value& self, const Parameters& p) {
  const auto& items = self.sequence().items;
  const auto size = static_cast<std::int64_t>(items.size());
  auto place = [&](std::int64_t i) { return std::clamp<std::int64_t>(i < 0 ? std::max(i, -size) + size : i, 0, size); };
  for (std::int64_t i = place(p.whole(1, 0)); i < place(p.whole(2, size)); ++i)
    if (equal(items[static_cast<std::size_t>(i)], p.required(0))) return i;
  fail(Reason::value, repr(p.required(0)) + " is not in " + type_name(self));
}

Value copy(const Value& self, const Parameters&) { return self; }

Value view(Sequence::Form form, std::vector<Value> items) {
  spend(1 + items.size());
  return Sequence{.form = form, .items = std::move(items)};
}

Value keys(const Value& self, const Parameters&) {
  std::vector<Value> out;
  for (const auto& [key, value] : self.dict().items()) out.push_back(key);
  return view(Sequence::Form::keys, std::move(out));
}

Value values(const Value& self, const Parameters&) {
  std::vector<Value> out;
  for (const auto& [key, value] : self.dict().items()) out.push_back(value);
  return view(Sequence::Form::values, std::move(out));
}

Value items(const Value& self, const Parameters&) {
  std::vector<Value> out;
  for (const auto& [key, value] : self.dict().items()) out.push_back(Value::tuple({key, value}));
  return view(Sequence::Form::items, std::move(out));
}

Value get(const Value& self, const Parameters& p) {
  if (const Value* found = self.dict().find(p.required(0))) return *found;
  return p.has(1) ? *p[1] : Value();
}

constexpr Method kOfTuples[] = {{"count", count, {"value"}}, {"index", index, {"value", "start", "stop"}}};
constexpr Method kOfLists[] = {
    {"count", count, {"value"}}, {"index", index, {"value", "start", "stop"}}, {"copy", copy, {}}};
constexpr Method kOfDicts[] = {{"items", items, {}},
                               {"keys", keys, {}},
                               {"values", values, {}},
                               {"get", get, {"key", "default"}},
                               {"copy", copy, {}}};

}  // namespace

std::optional<Value> find_container_method(const Value& self, std::string_view name) {
  std::span<const Method> methods = kOfTuples;
  if (self.is_dict()) methods = kOfDicts;
  else if (!self.sequence().has_index()) return std::nullopt;
  else if (self.sequence().form == Sequence::Form::list) methods = kOfLists;
  const auto found = std::find_if(methods.begin(), methods.end(), [&](const Method& m) { return m.name == name; });
  return found == methods.end() ? std::nullopt : std::optional(bind(self, *found));
}

}  // namespace metal_candle::jinja
