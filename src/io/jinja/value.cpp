// Values: making them, their types and truth.
#include "io/jinja/value.h"

#include <algorithm>

#include "io/jinja/operations.h"

namespace metal_candle::jinja {

namespace {

constexpr std::size_t kIndexFrom = 9;  // below, looking through the keys is faster

Sequence make_sequence(Sequence::Form form, std::vector<Value> items) {
  return Sequence{.form = form, .items = std::move(items)};
}

}  // namespace

int depth_around(int within) {
  if (within >= kMaxValueDepth)
    fail(Reason::limit, "lists and dicts nest deeper than " + std::to_string(kMaxValueDepth) + " levels");
  return within + 1;
}

Value::Value(std::string text, bool markup) : data_(std::make_shared<const Text>(Text{std::move(text), markup})) {}

Value::Value(Dict dict) : data_(std::make_shared<const Dict>(std::move(dict))) {}

Value::Value(Sequence sequence) {
  int within = 0;
  for (const Value& item : sequence.items) within = std::max(within, item.depth());
  sequence.depth = depth_around(within);
  data_ = std::make_shared<const Sequence>(std::move(sequence));
}

Value Value::undefined(std::string message, Reason reason) {
  Value value;
  value.data_ = std::make_shared<const Missing>(Missing{std::move(message), reason});
  return value;
}

Value Value::list(std::vector<Value> items) { return make_sequence(Sequence::Form::list, std::move(items)); }
Value Value::tuple(std::vector<Value> items) { return make_sequence(Sequence::Form::tuple, std::move(items)); }
Value Value::generator(std::vector<Value> items) { return make_sequence(Sequence::Form::generator, std::move(items)); }

Kind Value::kind() const { return static_cast<Kind>(data_.index()); }

int Value::depth() const {
  if (is_sequence()) return sequence().depth;
  if (kind() == Kind::object) return object()->depth;
  return is_dict() ? dict().depth() : 0;
}

bool Value::same_as(const Value& other) const {
  // Whether two texts or numbers are one object is an accident of Python; equal ones count as the same here.
  if (kind() != other.kind()) return false;
  if (is_text()) return text() == other.text();
  if (is_undefined()) return missing().message == other.missing().message;
  return data_ == other.data_;
}

void Dict::set(Value key, Value value) {
  depth_ = std::max(depth_, depth_around(std::max(key.depth(), value.depth())));
  const std::size_t hash = hash_of(key);
  if (const Value* found = find(key)) {
    const_cast<Value&>(*found) = std::move(value);  // ours: `find` is const for readers
    return;
  }
  items_.emplace_back(std::move(key), std::move(value));
  if (items_.size() == kIndexFrom) {
    for (std::size_t i = 0; i < items_.size(); ++i) index_.emplace(hash_of(items_[i].first), i);
  } else if (items_.size() > kIndexFrom) {
    index_.emplace(hash, items_.size() - 1);
  }
}

const Value* Dict::find(const Value& key) const {
  const std::size_t hash = hash_of(key);
  if (items_.size() < kIndexFrom) {
    for (const Item& item : items_)
      if (equal(item.first, key)) return &item.second;
    return nullptr;
  }
  auto [from, to] = index_.equal_range(hash);
  for (; from != to; ++from)
    if (equal(items_[from->second].first, key)) return &items_[from->second].second;
  return nullptr;
}

const Value* Dict::find(std::string_view key) const {
  if (items_.size() >= kIndexFrom) return find(Value(key));
  for (const Item& item : items_)
    if (item.first.is_text() && item.first.text() == key) return &item.second;
  return nullptr;
}

namespace {

std::string type_name(const Sequence& sequence) {
  switch (sequence.form) {
    case Sequence::Form::list: return "list";
    case Sequence::Form::tuple: return "tuple";
    case Sequence::Form::group: return "_GroupTuple";
    case Sequence::Form::range: return "range";
    case Sequence::Form::keys: return "dict_keys";
    case Sequence::Form::values: return "dict_values";
    case Sequence::Form::items: return "dict_items";
    case Sequence::Form::generator: return "generator";
  }
  return "list";
}

}  // namespace

Value Object::call(const Call&) { fail_type("'" + type() + "' object is not callable"); }
std::string Object::repr() const { return "<" + type() + ">"; }

const LongInteger* long_integer(const Value& v) {
  return v.kind() == Kind::object ? dynamic_cast<const LongInteger*>(v.object().get()) : nullptr;
}

std::string type_name(const Value& value) {
  switch (value.kind()) {
    case Kind::undefined: return "Undefined";
    case Kind::none: return "NoneType";
    case Kind::boolean: return "bool";
    case Kind::integer: return "int";
    case Kind::real: return "float";
    case Kind::text: return value.is_markup() ? "Markup" : "str";
    case Kind::sequence: return type_name(value.sequence());
    case Kind::dict: return "dict";
    case Kind::object: return value.object()->type();
  }
  return "object";
}

bool truthy(const Value& value) {
  switch (value.kind()) {
    case Kind::undefined:
    case Kind::none: return false;
    case Kind::boolean: return value.boolean();
    case Kind::integer: return value.whole() != 0;
    case Kind::real: return value.real() != 0;
    case Kind::text: return !value.text().empty();
    case Kind::sequence: return !value.sequence().has_length() || !value.sequence().items.empty();
    case Kind::dict: return value.dict().size() != 0;
    case Kind::object: return true;
  }
  return true;
}

void require_defined(const Value& value) {
  if (value.is_undefined()) fail(value.missing().reason, value.missing().message);
}

}  // namespace metal_candle::jinja
