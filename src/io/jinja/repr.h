// Values as text: str, repr, JSON, HTML.
#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "io/jinja/value.h"

namespace metal_candle::jinja {

/// What `{{ value }}` writes.
std::string to_text(const Value&);
std::string repr(const Value&);
/// repr() of a text.
std::string in_quotes(std::string_view text);
/// The shortest digits that mean the number.
std::string digits(double);

struct JsonStyle {
  std::optional<std::string> indent = std::nullopt;  // set: one item a line
  std::string comma = ", ", colon = ": ";
  bool ascii = false, sort_keys = false;
};
std::string to_json(const Value&, const JsonStyle&);

std::string escape_html(std::string_view text);

}  // namespace metal_candle::jinja
