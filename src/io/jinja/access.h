// value.name, value[key], and the methods of texts, lists and dicts.
#pragma once

#include <optional>
#include <span>
#include <string>
#include <string_view>

#include "io/jinja/value.h"

namespace metal_candle::jinja {

/// As the sandbox has it: methods first, then items; what is not there is undefined, what is private may not be used.
Value get_attribute(const Value& subject, std::string_view name);
/// Items first, then methods.
Value get_item(const Value& subject, const Value& key);

/// A built-in method of the value, bound; nothing if there is none of that name.
std::optional<Value> find_text_method(const Value& self, std::string_view name);
std::optional<Value> find_container_method(const Value& self, std::string_view name);

/// The arguments of a built-in, by the names of its parameters.
class Parameters {
 public:
  Parameters(std::string_view callee, std::span<const char* const> names, const Call& call);
  /// Null where nothing was given.
  const Value* operator[](std::size_t i) const { return values_[i]; }
  bool has(std::size_t i) const { return values_[i] != nullptr; }

  const Value& required(std::size_t i) const;
  /// Of the type wanted, or `otherwise` where nothing (or None) was given.
  std::int64_t whole(std::size_t i, std::int64_t otherwise) const;
  bool flag(std::size_t i, bool otherwise) const;
  const std::string& text(std::size_t i) const;
  std::string text_or(std::size_t i, std::string otherwise) const;

 private:
  std::string callee_;
  std::span<const char* const> names_;
  const Value* values_[8] = {};
};

/// A method, with what it belongs to.
struct Method {
  const char* name;
  Value (*run)(const Value& self, const Parameters&);
  const char* parameters[4];  // null behind the last
};

Value bind(const Value& self, const Method& method);

}  // namespace metal_candle::jinja
