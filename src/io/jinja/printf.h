// Python's two ways of formatting: "%5.1f" % value, and "{:>5}".format(value).
#pragma once

#include <string>
#include <string_view>

#include "io/jinja/value.h"

namespace metal_candle::jinja {

/// text % values, where values is a tuple, a dict (for "%(name)s") or one value.
Value printf_format(const Value& text, const Value& values);
/// text.format(...)
Value str_format(const Value& text, const Call& arguments);

/// What stands between % and its letter, or behind the colon of a replacement field.
struct FormatSpec {
  std::string fill = " ";
  char align = 0;   // < > ^ =
  char sign = '-';  // - + or a space
  bool alternate = false, comma = false, underscore = false;
  std::size_t width = 0;
  int precision = -1;
  char type = 0;
};

/// `body` (its sign apart) filled to the width.
std::string pad(const FormatSpec&, std::string_view sign, std::string body, char default_align);
/// Digits of a number by type b d o x X e E f F g G %; Fault for another type.
std::string format_number(const FormatSpec&, const Value&);
/// Width and precision are refused above this.
inline constexpr std::size_t kMaxFormatWidth = 1u << 20;
inline constexpr int kMaxFormatPrecision = 1000;

}  // namespace metal_candle::jinja
