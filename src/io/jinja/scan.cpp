// The small tokens of a template.
#include "io/jinja/scan.h"

#include <cstdlib>

#include "io/jinja/text.h"

namespace metal_candle::jinja {

namespace {

int hex(char c) { return is_digit(c) ? c - '0' : (c | 0x20) >= 'a' && (c | 0x20) <= 'f' ? (c | 0x20) - 'a' + 10 : -1; }

/// Digits (_digits)* from `at`; the place behind them, or `at`.
std::size_t digits(std::string_view s, std::size_t at) {
  if (at >= s.size() || !is_digit(s[at])) return at;
  while (at < s.size()) {
    if (is_digit(s[at])) ++at;
    else if (s[at] == '_' && at + 1 < s.size() && is_digit(s[at + 1])) ++at;
    else break;
  }
  return at;
}

/// The end of a real number that begins at `at`, or 0.
std::size_t real_end(std::string_view s, std::size_t at) {
  std::size_t end = digits(s, at);
  if (end == at) return 0;
  bool real = false;
  if (end < s.size() && s[end] == '.') {
    const std::size_t behind = digits(s, end + 1);
    if (behind > end + 1) end = behind, real = true;
  }
  if (end < s.size() && (s[end] | 0x20) == 'e') {
    std::size_t from = end + 1;
    if (from < s.size() && (s[from] == '+' || s[from] == '-')) ++from;
    const std::size_t behind = digits(s, from);
    if (behind > from) end = behind, real = true;
  }
  return real ? end : 0;
}

std::size_t based_end(std::string_view s, std::size_t at, int base) {
  std::size_t end = at;
  for (;;) {
    const std::size_t next = end < s.size() && s[end] == '_' ? end + 1 : end;
    if (next >= s.size() || hex(s[next]) < 0 || hex(s[next]) >= base) return end;
    end = next + 1;
  }
}

std::size_t integer_end(std::string_view s, std::size_t at) {
  if (s[at] != '0') return digits(s, at);
  if (at + 1 < s.size()) {
    const char letter = static_cast<char>(s[at + 1] | 0x20);
    const int base = letter == 'x' ? 16 : letter == 'o' ? 8 : letter == 'b' ? 2 : 0;
    if (base != 0)
      if (const std::size_t end = based_end(s, at + 2, base); end > at + 2) return end;
  }
  while (at < s.size() && (s[at] == '0' || (s[at] == '_' && at + 1 < s.size() && s[at + 1] == '0'))) ++at;
  return at;
}

}  // namespace

Scanned scan_number(std::string_view s, std::size_t at) {
  if (at >= s.size() || !is_digit(s[at])) return {};
  const bool after_dot = at > 0 && s[at - 1] == '.';
  std::size_t end = after_dot ? 0 : real_end(s, at);
  Scanned number{.size = 0, .real = end != 0};
  if (!number.real) end = integer_end(s, at);
  number.size = end - at;
  for (const char c : s.substr(at, end - at))
    if (c != '_') number.digits += c;
  return number;
}

Value value_of(const Scanned& number) {
  if (number.real) return std::strtod(number.digits.c_str(), nullptr);
  std::string_view text = number.digits;
  int base = 10;
  if (text.size() > 1 && text[0] == '0' && !is_digit(text[1])) {
    base = (text[1] | 0x20) == 'x' ? 16 : (text[1] | 0x20) == 'o' ? 8 : 2;
    text.remove_prefix(2);
  }
  std::int64_t value = 0;
  for (const char c : text)
    if (__builtin_mul_overflow(value, std::int64_t{base}, &value) || __builtin_add_overflow(value, hex(c), &value))
      fail(Reason::limit, "an integer does not fit in 64 bits");
  return value;
}

std::size_t scan_name(std::string_view text) {
  std::size_t size = 0;
  while (size < text.size()) {
    const auto byte = static_cast<unsigned char>(text[size]);
    if (byte < 128 && !is_word(byte)) break;
    if (byte >= 128) {
      std::size_t width = 1;
      while (size + width < text.size() && width < 4 && (static_cast<unsigned char>(text[size + width]) & 0xC0) == 0x80)
        ++width;
      const std::u32string code = decode(text.substr(size, width));
      if (code.size() != 1 || !is_word(code[0])) break;
      size += width - 1;
    }
    ++size;
  }
  return size;
}

std::size_t scan_text(std::string_view text) {
  if (text.empty() || (text[0] != '"' && text[0] != '\'')) return 0;
  for (std::size_t i = 1; i < text.size(); ++i) {
    if (text[i] == text[0]) return i + 1;
    if (text[i] == '\\') ++i;
  }
  return 0;
}

namespace {

/// \xhh, \uhhhh and \Uhhhhhhhh; `at` stands behind the letter.
char32_t code_escape(std::string_view s, std::size_t& at, std::size_t count) {
  char32_t code = 0;
  for (std::size_t i = 0; i < count; ++i, ++at) {
    if (at >= s.size() || hex(s[at]) < 0) fail(Reason::syntax, "truncated \\ escape in a string");
    code = code * 16 + static_cast<char32_t>(hex(s[at]));
  }
  if (code > 0x10FFFF) fail(Reason::syntax, "illegal Unicode character");
  return code;
}

char32_t octal_escape(std::string_view s, std::size_t& at) {
  char32_t code = 0;
  for (int i = 0; i < 3 && at < s.size() && s[at] >= '0' && s[at] <= '7'; ++i, ++at)
    code = code * 8 + static_cast<char32_t>(s[at] - '0');
  return code;
}

void escape(std::string_view s, std::size_t& at, std::string& out) {
  constexpr std::string_view kLetters = "\\'\"abfnrtv", kMeant = "\\'\"\a\b\f\n\r\t\v";
  const char c = s[at];
  if (const auto i = kLetters.find(c); i != kLetters.npos) {
    out += kMeant[i];
    ++at;
  } else if (c == '\n') {
    ++at;
  } else if (c == 'x' || c == 'u' || c == 'U') {
    char32_t code = code_escape(s, ++at, c == 'x' ? 2 : c == 'u' ? 4 : 8);
    const bool pair = code >= 0xD800 && code < 0xDC00 && s.substr(at).starts_with("\\u");
    if (pair) {
      // Python keeps the halves apart and cannot write them; here they are the character they mean.
      std::size_t second = at + 2;
      const char32_t low = code_escape(s, second, 4);
      if (low >= 0xDC00 && low < 0xE000) code = 0x10000 + ((code - 0xD800) << 10) + (low - 0xDC00), at = second;
    }
    append(out, code);
  } else if (c >= '0' && c <= '7') {
    append(out, octal_escape(s, at));
  } else if (c == 'N') {
    fail(Reason::unsupported, "\\N{...} in a string is not supported");
  } else {
    out += '\\';  // as it stands
  }
}

}  // namespace

std::string unescape(std::string_view text) {
  std::string out;
  for (std::size_t at = 0; at < text.size();) {
    if (text[at] != '\\' || at + 1 >= text.size()) out += text[at++];
    else escape(text, ++at, out);
  }
  return out;
}

}  // namespace metal_candle::jinja
