// The values of a template: Python's, as far as a template can tell.
//
// A Value is small and shares what it holds; everything but a namespace is immutable. Sequences and dicts know how deep
// they nest, so nothing that walks or destroys them can run out of stack.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <variant>
#include <vector>

#include "io/jinja/fault.h"

namespace metal_candle::jinja {

class Value;
class Dict;
struct Sequence;
struct Object;

/// Why there is no value: the message that using it gives.
struct Missing {
  std::string message;
  Reason reason = Reason::undefined;
};

struct Text {
  std::string bytes;
  bool markup = false;  // of `safe` and `escape`: not escaped again
};

enum class Kind { undefined, none, boolean, integer, real, text, sequence, dict, object };

class Value {
 public:
  Value() : data_(std::monostate{}) {}  // None
  Value(bool value) : data_(value) {}
  Value(std::int64_t value) : data_(value) {}
  Value(int value) : data_(std::int64_t{value}) {}
  Value(double value) : data_(value) {}
  Value(std::string text, bool markup = false);
  Value(std::string_view text) : Value(std::string(text)) {}
  Value(const char* text) : Value(std::string(text)) {}
  Value(Dict dict);
  Value(Sequence sequence);
  Value(std::shared_ptr<Object> object) : data_(std::move(object)) {}

  static Value undefined(std::string message, Reason reason = Reason::undefined);
  static Value list(std::vector<Value> items);
  static Value tuple(std::vector<Value> items);
  /// What Python would give as an iterator: walked once, no length, no index.
  static Value generator(std::vector<Value> items);

  Kind kind() const;
  bool is_undefined() const { return kind() == Kind::undefined; }
  bool is_none() const { return kind() == Kind::none; }
  bool is_text() const { return kind() == Kind::text; }
  bool is_dict() const { return kind() == Kind::dict; }
  bool is_sequence() const { return kind() == Kind::sequence; }
  bool is_whole() const { return kind() == Kind::integer || kind() == Kind::boolean; }  // an int, as Python counts
  bool is_number() const { return is_whole() || kind() == Kind::real; }
  bool is_markup() const { return is_text() && std::get<TextPointer>(data_)->markup; }

  // Each only of its kind.
  bool boolean() const { return std::get<bool>(data_); }
  std::int64_t whole() const { return kind() == Kind::boolean ? boolean() : std::get<std::int64_t>(data_); }
  double real() const { return kind() == Kind::real ? std::get<double>(data_) : static_cast<double>(whole()); }
  const std::string& text() const { return std::get<TextPointer>(data_)->bytes; }
  const Sequence& sequence() const { return *std::get<SequencePointer>(data_); }
  const Dict& dict() const { return *std::get<DictPointer>(data_); }
  const std::shared_ptr<Object>& object() const { return std::get<std::shared_ptr<Object>>(data_); }
  const Missing& missing() const { return *std::get<MissingPointer>(data_); }

  /// How many containers are within one another; 0: none.
  int depth() const;
  /// The same thing, as Python's `is` sees it.
  bool same_as(const Value& other) const;

 private:
  using MissingPointer = std::shared_ptr<const Missing>;
  using TextPointer = std::shared_ptr<const Text>;
  using SequencePointer = std::shared_ptr<const Sequence>;
  using DictPointer = std::shared_ptr<const Dict>;
  std::variant<MissingPointer, std::monostate, bool, std::int64_t, double, TextPointer, SequencePointer, DictPointer,
               std::shared_ptr<Object>>
      data_;
};

/// The largest Value::depth().
inline constexpr int kMaxValueDepth = 200;
/// The depth of what holds something `within` deep; Fault beyond the limit.
int depth_around(int within);

struct Sequence {
  enum class Form { list, tuple, group, range, keys, values, items, generator };
  Form form = Form::list;
  std::vector<Value> items;
  int depth = 1;
  std::string note = {};       // how a range is written
  mutable bool spent = false;  // a generator that was walked

  bool is_tuple() const { return form == Form::tuple || form == Form::group; }
  bool has_index() const { return form == Form::list || form == Form::range || is_tuple(); }
  bool has_length() const { return form != Form::generator; }
};

/// Keys in the order of their first writing. Keys are equal as Python has it: 1, 1.0 and true are one.
class Dict {
 public:
  using Item = std::pair<Value, Value>;
  /// Throws what an unhashable key gives.
  void set(Value key, Value value);
  const Value* find(const Value& key) const;
  const Value* find(std::string_view key) const;
  const std::vector<Item>& items() const { return items_; }
  std::size_t size() const { return items_.size(); }
  int depth() const { return depth_; }

 private:
  std::vector<Item> items_;
  std::unordered_multimap<std::size_t, std::size_t> index_;  // by hash, once there are many
  int depth_ = 1;
};

/// Arguments of a call.
struct Call {
  std::vector<Value> positional;
  std::vector<std::pair<std::string, Value>> named;
};

/// Whatever else a template can hold: namespaces, macros, the loop, methods.
struct Object {
  virtual ~Object() = default;
  virtual std::string type() const = 0;
  virtual std::optional<Value> attribute(std::string_view) const { return std::nullopt; }
  virtual bool callable() const { return false; }
  virtual Value call(const Call&);
  virtual std::string repr() const;
  /// Lets go of all values: objects may hold each other.
  virtual void release() {}
  int depth = 0;  // of the values it is made with, where it stays as it was made
};

/// An integer of a context that 64 bits do not hold (a schema's bounds have such): it is shown and tested, not computed
/// with.
struct LongInteger : Object {
  explicit LongInteger(std::string shown) : digits(std::move(shown)) {}
  std::string type() const override { return "int"; }
  std::string repr() const override { return digits; }
  const std::string digits;
};
/// Null for every other value.
const LongInteger* long_integer(const Value&);

/// Python's name of the type: "str", "NoneType".
std::string type_name(const Value&);
bool truthy(const Value&);
/// Throws if the value is undefined: most operations do.
void require_defined(const Value&);

}  // namespace metal_candle::jinja
