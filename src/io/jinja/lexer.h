// A template's source as tokens, whitespace control done.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "io/jinja/value.h"

namespace metal_candle::jinja {

struct Token {
  enum class Kind { data, print_begin, print_end, tag_begin, tag_end, name, text, integer, real, sign, end };
  Kind kind = Kind::end;
  std::string text = {};  // data, the name, the sign; of a text its content
  Value number = {};
  int line = 1, column = 1;

  bool is_name(std::string_view name) const { return kind == Kind::name && text == name; }
  bool is_sign(std::string_view sign) const { return kind == Kind::sign && text == sign; }
};

/// Ends with a token `end`. Throws Fault with the place.
std::vector<Token> tokenize(std::string_view source);

/// A token in the words of an error message.
std::string describe(const Token&);

}  // namespace metal_candle::jinja
