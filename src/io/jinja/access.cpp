// Attribute and item access, and the binding of arguments to built-ins.
#include "io/jinja/access.h"

#include <algorithm>

#include "io/jinja/budget.h"
#include "io/jinja/operations.h"
#include "io/jinja/repr.h"
#include "io/jinja/text.h"

namespace metal_candle::jinja {

namespace {

std::string object_name(const Value& value) {
  if (value.is_none()) return "None";
  const std::string type = type_name(value);
  if (type == "Markup") return "markupsafe.Markup object";
  if (value.kind() != Kind::object) return type + " object";
  return "jinja2." + type + " object";
}

Value no_attribute(const Value& subject, const Value& name) {
  if (!name.is_text()) return Value::undefined(object_name(subject) + " has no element " + repr(name));
  return Value::undefined(in_quotes(object_name(subject)) + " has no attribute " + in_quotes(name.text()));
}

std::optional<Value> find_group_part(const Value& subject, std::string_view name) {
  const Sequence& sequence = subject.sequence();
  if (sequence.form != Sequence::Form::group) return std::nullopt;
  if (name == "grouper") return sequence.items[0];
  if (name == "list") return sequence.items[1];
  return std::nullopt;
}

/// Methods that would change a list or dict: they are there, but may not be used.
bool changes(const Value& subject, std::string_view name) {
  constexpr std::string_view kList[] = {"append", "clear", "pop", "reverse", "insert", "extend", "sort", "remove"};
  constexpr std::string_view kDict[] = {"clear", "pop", "popitem", "setdefault", "update"};
  auto among = [&](auto& names) { return std::find(std::begin(names), std::end(names), name) != std::end(names); };
  if (subject.is_dict()) return among(kDict);
  return subject.is_sequence() && subject.sequence().form == Sequence::Form::list && among(kList);
}

/// What Python's getattr finds.
std::optional<Value> find_attribute(const Value& subject, std::string_view name) {
  const bool hidden = name.size() > 4 && name.starts_with("__") && name.ends_with("__");
  const bool known = name == "__class__" || name == "__init__" || name == "__doc__" || name == "__dict__" ||
                     name == "__getattribute__" || name == "__subclasshook__" || name == "__reduce__";
  if ((hidden && known) || changes(subject, name))
    return Value::undefined(
        "access to attribute " + in_quotes(name) + " of '" + type_name(subject) + "' object is unsafe.",
        Reason::security);
  switch (subject.kind()) {
    case Kind::text: return find_text_method(subject, name);
    case Kind::sequence:
      if (auto part = find_group_part(subject, name)) return part;
      return find_container_method(subject, name);
    case Kind::dict: return find_container_method(subject, name);
    case Kind::object: return subject.object()->attribute(name);
    default: return std::nullopt;
  }
}

std::optional<Value> item_at(const Value& subject, std::int64_t index) {
  if (subject.is_text()) {
    spend_text(subject.text().size());
    const std::u32string codes = decode(subject.text());
    const auto count = static_cast<std::int64_t>(codes.size());
    if (index < 0) index += count;
    if (index < 0 || index >= count) return std::nullopt;
    return Value(encode({&codes[static_cast<std::size_t>(index)], 1}), subject.is_markup());
  }
  if (!subject.is_sequence() || !subject.sequence().has_index()) return std::nullopt;
  const auto& items = subject.sequence().items;
  const auto count = static_cast<std::int64_t>(items.size());
  if (index < 0) index = index < -count ? -1 : index + count;
  if (index < 0 || index >= count) return std::nullopt;
  return items[static_cast<std::size_t>(index)];
}

std::optional<Value> find_item(const Value& subject, const Value& key) {
  if (subject.is_dict()) {
    if (key.is_dict() || (key.is_sequence() && key.sequence().form == Sequence::Form::list)) return std::nullopt;
    const Value* found = subject.dict().find(key);
    return found ? std::optional(*found) : std::nullopt;
  }
  return key.is_whole() ? item_at(subject, key.whole()) : std::nullopt;
}

}  // namespace

Value get_attribute(const Value& subject, std::string_view name) {
  require_defined(subject);
  spend(1);
  if (auto found = find_attribute(subject, name)) return *std::move(found);
  if (subject.is_dict())
    if (const Value* found = subject.dict().find(name)) return *found;
  return no_attribute(subject, name);
}

Value get_item(const Value& subject, const Value& key) {
  require_defined(subject);
  spend(1);
  if (auto found = find_item(subject, key)) return *std::move(found);
  if (key.is_text())
    if (auto found = find_attribute(subject, key.text())) return *std::move(found);
  return no_attribute(subject, key);
}

Parameters::Parameters(std::string_view callee, std::span<const char* const> names, const Call& call)
    : callee_(callee), names_(names) {
  if (call.positional.size() > names.size())
    fail_type(callee_ + "() takes at most " + std::to_string(names.size()) + " arguments, " +
              std::to_string(call.positional.size()) + " given");
  for (std::size_t i = 0; i < call.positional.size(); ++i) values_[i] = &call.positional[i];
  for (const auto& [name, value] : call.named) {
    const auto at = std::find(names.begin(), names.end(), name);
    if (at == names.end()) fail_type(callee_ + "() got an unexpected keyword argument " + in_quotes(name));
    const Value*& place = values_[at - names.begin()];
    if (place) fail_type(callee_ + "() got multiple values for argument " + in_quotes(name));
    place = &value;
  }
}

const Value& Parameters::required(std::size_t i) const {
  if (!values_[i]) fail_type(callee_ + "() missing argument '" + names_[i] + "'");
  return *values_[i];
}

std::int64_t Parameters::whole(std::size_t i, std::int64_t otherwise) const {
  if (!values_[i] || values_[i]->is_none()) return otherwise;
  return to_int(*values_[i], callee_ + "(): " + names_[i]);
}

bool Parameters::flag(std::size_t i, bool otherwise) const { return values_[i] ? truthy(*values_[i]) : otherwise; }

const std::string& Parameters::text(std::size_t i) const {
  const Value& value = required(i);
  require_defined(value);
  if (!value.is_text()) fail_type(callee_ + "(): " + names_[i] + " must be str, not " + type_name(value));
  return value.text();
}

std::string Parameters::text_or(std::size_t i, std::string otherwise) const {
  if (values_[i] && !values_[i]->is_none()) return text(i);
  return otherwise;
}

namespace {

struct BoundMethod : Object {
  BoundMethod(Value self_, const Method& method_) : self(std::move(self_)), method(method_) {
    depth = depth_around(self.depth());
  }
  std::string type() const override { return "builtin_function_or_method"; }
  bool callable() const override { return true; }
  std::string repr() const override { return std::string("<built-in method ") + method.name + ">"; }
  Value call(const Call& call) override {
    std::size_t count = 0;
    while (count < std::size(method.parameters) && method.parameters[count]) ++count;
    return method.run(self, Parameters(method.name, {method.parameters, count}, call));
  }

  Value self;
  const Method& method;
};

}  // namespace

Value bind(const Value& self, const Method& method) {
  return Value(std::shared_ptr<Object>(std::make_shared<BoundMethod>(self, method)));
}

}  // namespace metal_candle::jinja
