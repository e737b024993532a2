#include "io/json_lexer.h"

#include <fmt/format.h>
#include <locale.h>
#include <stdlib.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstring>

#include "metal_candle/error.hpp"

namespace metal_candle::io {
namespace {

bool is_space(char c) { return c == ' ' || c == '\n' || c == '\r' || c == '\t'; }
bool is_digit(char c) { return c >= '0' && c <= '9'; }

/// Whether one of eight bytes is a quote, a backslash, a control character or not ASCII.
bool has_special(std::uint64_t word) {
  constexpr std::uint64_t kOnes = 0x0101010101010101u, kHighs = 0x8080808080808080u;
  const auto zero_in = [](std::uint64_t x) { return (x - kOnes) & ~x; };
  return ((zero_in(word ^ kOnes * '"') | zero_in(word ^ kOnes * '\\') | ((word - kOnes * 0x20) & ~word) | word) &
          kHighs) != 0;
}

}  // namespace

int utf8_length(const char* p, const char* end) {
  const auto byte = [&](int i) { return p + i < end ? static_cast<unsigned char>(p[i]) : 0u; };
  const auto tail = [&](int i) { return (byte(i) & 0xc0u) == 0x80u; };
  const unsigned lead = byte(0);
  if (lead < 0x80) return p < end ? 1 : 0;
  if (lead >= 0xc2 && lead < 0xe0) return tail(1) ? 2 : 0;
  if (lead >= 0xe0 && lead < 0xf0) {
    if (!tail(1) || !tail(2)) return 0;
    if (lead == 0xe0 && byte(1) < 0xa0) return 0;   // longer than needed
    if (lead == 0xed && byte(1) >= 0xa0) return 0;  // a surrogate
    return 3;
  }
  if (lead >= 0xf0 && lead < 0xf5) {
    if (!tail(1) || !tail(2) || !tail(3)) return 0;
    if (lead == 0xf0 && byte(1) < 0x90) return 0;
    if (lead == 0xf4 && byte(1) >= 0x90) return 0;  // beyond U+10FFFF
    return 4;
  }
  return 0;
}

char* put_utf8(char* to, std::uint32_t code) {
  const auto put = [&](std::uint32_t byte) { *to++ = static_cast<char>(byte); };
  if (code < 0x80) {
    put(code);
  } else if (code < 0x800) {
    put(0xc0 | code >> 6), put(0x80 | (code & 0x3f));
  } else if (code < 0x10000) {
    put(0xe0 | code >> 12), put(0x80 | (code >> 6 & 0x3f)), put(0x80 | (code & 0x3f));
  } else {
    put(0xf0 | code >> 18), put(0x80 | (code >> 12 & 0x3f)), put(0x80 | (code >> 6 & 0x3f)), put(0x80 | (code & 0x3f));
  }
  return to;
}

std::string in_quotes(std::string_view text) {
  constexpr std::size_t kMost = 60;
  std::string out = "\"";
  const char *p = text.data(), *end = p + text.size();
  while (p < end) {
    if (out.size() > kMost) return out + "...\"";
    const int length = utf8_length(p, end);
    if (length == 0 || static_cast<unsigned char>(*p) < 0x20 || *p == 0x7f) {
      out += fmt::format("\\x{:02x}", static_cast<unsigned char>(*p++));
    } else {
      out.append(p, static_cast<std::size_t>(length));
      p += length;
    }
  }
  return out + '"';
}

JsonLexer::JsonLexer(std::string_view text, std::string_view origin, JsonArena& arena, std::string_view part)
    : begin_(text.data()), next_(begin_), end_(begin_ + text.size()), origin_(origin), part_(part), arena_(arena) {}

char JsonLexer::peek() {
  while (next_ < end_ && is_space(*next_)) ++next_;
  return next_ < end_ ? *next_ : '\0';
}

void JsonLexer::must(char wanted) {
  if (!take(wanted)) fail(fmt::format("\"{}\"", wanted));
}

bool JsonLexer::more(char close) {
  if (take(',')) return true;
  if (!take(close)) fail(fmt::format("\",\" or \"{}\"", close));
  return false;
}

void JsonLexer::must_word(std::string_view word) {
  if (std::string_view(next_, static_cast<std::size_t>(end_ - next_)).substr(0, word.size()) != word) fail("a value");
  next_ += word.size();
}

namespace {

/// Whether an origin says which line of a file it is ("rows.jsonl:7"), which a row's own first line would contradict.
bool names_line(std::string_view origin) {
  const std::size_t end = origin.find_last_not_of("0123456789");
  return end != std::string_view::npos && end + 1 < origin.size() && origin[end] == ':';
}

}  // namespace

void JsonLexer::fail(std::string_view expected) {
  const auto line = std::count(begin_, next_, '\n') + 1;
  const char* start = next_;
  while (start > begin_ && start[-1] != '\n') --start;
  std::string got = "the end";
  if (next_ < end_) {
    const int length = std::max(1, utf8_length(next_, end_));
    got = in_quotes({next_, static_cast<std::size_t>(length)});
  }
  const std::string in_line = line == 1 && names_line(origin_) ? "" : fmt::format("line {}, ", line);
  throw FileError(FileFault::bad, std::string(origin_),
                  fmt::format("{}{}{}column {}", part_, part_.empty() ? "" : ", ", in_line, next_ - start + 1),
                  std::string(expected), got);
}

// ---- strings --------------------------------------------------------------------------------------------------------

const char* JsonLexer::skip_plain(const char* p) const {
  for (; end_ - p >= 8; p += 8) {
    std::uint64_t word;
    std::memcpy(&word, p, 8);
    if (has_special(word)) break;
  }
  while (p < end_ && *p != '"' && *p != '\\' && static_cast<signed char>(*p) >= 0x20) ++p;
  return p;
}

/// Past the sequence at p, which is not ASCII.
const char* JsonLexer::check_utf8(const char* p) {
  const int length = utf8_length(p, end_);
  if (length == 0) {
    next_ = p;
    fail("valid UTF-8");
  }
  return p + length;
}

std::string_view JsonLexer::string() {
  must('"');
  const char* const start = next_;
  const char* p = start;
  for (;;) {
    p = skip_plain(p);
    if (p == end_) break;
    if (*p == '"') {
      next_ = p + 1;
      return {start, static_cast<std::size_t>(p - start)};
    }
    if (*p == '\\') return escaped(start, p);
    if (static_cast<unsigned char>(*p) < 0x80) break;
    p = check_utf8(p);
  }
  next_ = p;
  fail(p == end_ ? "a closing quote" : "no control character in a string");
}

/// The rest of a string whose first escape is at p.
std::string_view JsonLexer::escaped(const char* start, const char* p) {
  char* const to = arena_.next();
  char* out = std::copy(start, p, to);
  for (;;) {
    if (p < end_ && *p == '\\') {
      p = unescape(p, out);
    } else if (p < end_ && *p == '"') {
      break;
    } else if (p < end_ && static_cast<unsigned char>(*p) >= 0x20) {
      const char* after = static_cast<unsigned char>(*p) < 0x80 ? skip_plain(p) : check_utf8(p);
      out = std::copy(p, after, out);
      p = after;
    } else {
      next_ = p;
      fail(p == end_ ? "a closing quote" : "no control character in a string");
    }
  }
  next_ = p + 1;
  const auto length = static_cast<std::size_t>(out - to);
  arena_.use(length);
  return {to, length};
}

const char* JsonLexer::unescape(const char* p, char*& to) {
  next_ = p;
  constexpr std::string_view kNames = "\"\\/bfnrt", kValues = "\"\\/\b\f\n\r\t";
  if (end_ - p >= 2 && kNames.find(p[1]) != std::string_view::npos) {
    *to++ = kValues[kNames.find(p[1])];
    return p + 2;
  }
  if (end_ - p < 2 || p[1] != 'u') fail("an escape that JSON knows");
  std::uint32_t code = hex4(p + 2);
  p += 6;
  if (code >= 0xdc00 && code < 0xe000) fail("a high surrogate before a low one");
  if (code >= 0xd800 && code < 0xdc00) {
    const std::uint32_t low = end_ - p >= 2 && p[0] == '\\' && p[1] == 'u' ? hex4(p + 2) : 0;
    if (low < 0xdc00 || low >= 0xe000) fail("a low surrogate after a high one");
    code = 0x10000 + ((code - 0xd800) << 10) + (low - 0xdc00);
    p += 6;
  }
  to = put_utf8(to, code);
  return p;
}

std::uint32_t JsonLexer::hex4(const char* p) {
  std::uint32_t code = 0;
  const auto have = std::min<std::ptrdiff_t>(4, end_ - p);
  const auto [stop, error] = std::from_chars(p, p + have, code, 16);
  if (have < 4 || error != std::errc{} || stop != p + 4) fail("four hexadecimal digits after \\u");
  return code;
}

// ---- numbers --------------------------------------------------------------------------------------------------------

JsonNumber JsonLexer::number() {
  const char* p = next_;
  const auto digits = [&] {
    if (p == end_ || !is_digit(*p)) {
      next_ = p;
      fail("a digit");
    }
    while (p < end_ && is_digit(*p)) ++p;
  };
  if (p < end_ && *p == '-') ++p;
  if (p < end_ && *p == '0') {
    ++p;
    if (p < end_ && is_digit(*p)) {
      next_ = p;
      fail("no digit after a leading zero");
    }
  } else {
    digits();
  }
  const char* const whole = p;
  if (p < end_ && *p == '.') ++p, digits();
  if (p < end_ && (*p == 'e' || *p == 'E')) {
    ++p;
    if (p < end_ && (*p == '+' || *p == '-')) ++p;
    digits();
  }
  JsonNumber out;
  out.text = {next_, static_cast<std::size_t>(p - next_)};
  if (p != whole) {
    out.kind = JsonNumber::Kind::real;
    out.real = real(out.text);
  } else if (std::from_chars(next_, p, out.integer).ec != std::errc{}) {
    out.kind = JsonNumber::Kind::wide;
  }
  next_ = p;
  return out;
}

double JsonLexer::real(std::string_view digits) {
  double value = 0;
  if (std::from_chars(digits.data(), digits.data() + digits.size(), value).ec == std::errc{}) return value;
  // Too large, or so small that it is 0 or nearly: rare, and only strtod tells which.
  static const locale_t kPlain = newlocale(LC_ALL_MASK, "C", nullptr);
  value = strtod_l(std::string(digits).c_str(), nullptr, kPlain);
  if (!std::isfinite(value)) fail("a number within the range of a double");
  return value;
}

}  // namespace metal_candle::io
