// Text as Python's str sees it: UTF-8 here, code points there.
#pragma once

#include <cstddef>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace metal_candle::jinja {

bool is_ascii(std::string_view text);
/// Bytes that are no UTF-8 become U+FFFD.
std::u32string decode(std::string_view text);
std::string encode(std::u32string_view text);
void append(std::string& text, char32_t code);
std::size_t code_points(std::string_view text);

inline bool is_digit(char c) { return c >= '0' && c <= '9'; }
bool is_space(char32_t);      // str.isspace
bool is_word(char32_t);       // \w of a regular expression
bool is_printable(char32_t);  // what repr leaves as it is

enum class Side { left, right, both };
/// Whitespace away, or any of `chars`.
std::string_view strip(std::string_view text, Side side, std::optional<std::string_view> chars = std::nullopt);

std::string upper(std::string_view text);
std::string lower(std::string_view text);
std::string capitalize(std::string_view text);
/// Python's str.title: a letter after a non-letter is large.
std::string title(std::string_view text);
std::string swap_case(std::string_view text);

/// str.isalpha and its like: of every code point, and there is one.
enum class CharClass { alpha, alnum, decimal, digit, numeric, space, ascii, printable };
bool all_are(std::string_view text, CharClass what);
/// There is a cased letter and all such are lower (upper).
bool is_lower(std::string_view text);
bool is_upper(std::string_view text);
bool is_title(std::string_view text);
bool is_identifier(std::string_view text);

std::vector<std::string> split_space(std::string_view text, long limit, bool from_right);
std::vector<std::string> split_at(std::string_view text, std::string_view separator, long limit, bool from_right);
std::vector<std::string> split_lines(std::string_view text, bool keep_ends);
/// At most `limit` times; all if it is negative. An empty `from` matches between all code points.
std::string replace(std::string_view text, std::string_view from, std::string_view to, long limit);

}  // namespace metal_candle::jinja
