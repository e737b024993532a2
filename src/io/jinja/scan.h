// Numbers, names and texts inside a tag.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>

#include "io/jinja/value.h"

namespace metal_candle::jinja {

/// Bytes of what stands at the beginning; 0: something else does.
struct Scanned {
  std::size_t size = 0;
  bool real = false;
  std::string digits = {};  // without underscores
};
/// A number of `source` at `at`. Behind a dot no real number begins: `list.0.1`.
Scanned scan_number(std::string_view source, std::size_t at);
Value value_of(const Scanned& number);

std::size_t scan_name(std::string_view text);
/// A text with its quotes.
std::size_t scan_text(std::string_view text);
/// What is between the quotes, escapes done.
std::string unescape(std::string_view text);

}  // namespace metal_candle::jinja
