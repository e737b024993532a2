// Code points: decoding, classes, case.
#include "io/jinja/text.h"

#include <utf8proc.h>

#include <algorithm>
#include <utility>

namespace metal_candle::jinja {

namespace {

constexpr char32_t kReplacement = 0xFFFD;

utf8proc_category_t category(char32_t c) { return utf8proc_category(static_cast<utf8proc_int32_t>(c)); }

/// The code point at `at`, which moves behind it. Overlong forms and surrogates are no UTF-8.
char32_t next(std::string_view text, std::size_t& at) {
  utf8proc_int32_t code = -1;
  const auto* bytes = reinterpret_cast<const utf8proc_uint8_t*>(text.data()) + at;
  const utf8proc_ssize_t used = utf8proc_iterate(bytes, static_cast<utf8proc_ssize_t>(text.size() - at), &code);
  if (used <= 0) {
    ++at;
    return kReplacement;
  }
  at += static_cast<std::size_t>(used);
  return static_cast<char32_t>(code);
}

bool is_letter(char32_t c) {
  const auto k = category(c);
  return k >= UTF8PROC_CATEGORY_LU && k <= UTF8PROC_CATEGORY_LO;
}
bool is_large(char32_t c) { return c < 128 ? c >= 'A' && c <= 'Z' : utf8proc_isupper(static_cast<int>(c)) != 0; }
bool is_small(char32_t c) { return c < 128 ? c >= 'a' && c <= 'z' : utf8proc_islower(static_cast<int>(c)) != 0; }
bool is_titled(char32_t c) { return category(c) == UTF8PROC_CATEGORY_LT; }
bool is_cased(char32_t c) { return is_large(c) || is_small(c) || is_titled(c); }

constexpr char32_t kSharpS = 0xDF;

void append_upper(std::u32string& out, char32_t c) {
  if (c == kSharpS) out += U"SS";
  else out += static_cast<char32_t>(utf8proc_toupper(static_cast<utf8proc_int32_t>(c)));
}
void append_title(std::u32string& out, char32_t c) {
  if (c == kSharpS) out += U"Ss";
  else out += static_cast<char32_t>(utf8proc_totitle(static_cast<utf8proc_int32_t>(c)));
}
char32_t small(char32_t c) { return static_cast<char32_t>(utf8proc_tolower(static_cast<utf8proc_int32_t>(c))); }

bool is_mark_or_number(char32_t c) {
  const auto k = category(c);
  return (k >= UTF8PROC_CATEGORY_MN && k <= UTF8PROC_CATEGORY_ME) ||
         (k >= UTF8PROC_CATEGORY_ND && k <= UTF8PROC_CATEGORY_NO);
}

}  // namespace

bool is_ascii(std::string_view text) {
  return std::all_of(text.begin(), text.end(), [](char c) { return static_cast<unsigned char>(c) < 128; });
}

std::u32string decode(std::string_view text) {
  std::u32string codes;
  codes.reserve(text.size());
  for (std::size_t at = 0; at < text.size();) codes += next(text, at);
  return codes;
}

void append(std::string& text, char32_t code) {
  if (code > 0x10FFFF || (code >= 0xD800 && code < 0xE000)) code = kReplacement;
  utf8proc_uint8_t bytes[4];
  const auto count = utf8proc_encode_char(static_cast<utf8proc_int32_t>(code), bytes);
  text.append(reinterpret_cast<const char*>(bytes), static_cast<std::size_t>(count));
}

std::string encode(std::u32string_view codes) {
  std::string text;
  text.reserve(codes.size());
  for (char32_t c : codes) append(text, c);
  return text;
}

std::size_t code_points(std::string_view text) {
  std::size_t count = 0;
  for (std::size_t at = 0; at < text.size(); ++count) next(text, at);
  return count;
}

bool is_space(char32_t c) {
  if (c < 128) return c == ' ' || (c >= 9 && c <= 13) || (c >= 0x1C && c <= 0x1F);
  const auto k = category(c);
  return c == 0x85 || k == UTF8PROC_CATEGORY_ZS || k == UTF8PROC_CATEGORY_ZL || k == UTF8PROC_CATEGORY_ZP;
}

bool is_word(char32_t c) {
  const auto k = category(c);
  return c == '_' || is_letter(c) || (k >= UTF8PROC_CATEGORY_ND && k <= UTF8PROC_CATEGORY_NO);
}

bool is_printable(char32_t c) {
  if (c == ' ') return true;
  const auto k = category(c);
  return k != UTF8PROC_CATEGORY_CN && k < UTF8PROC_CATEGORY_ZS;
}

std::string_view strip(std::string_view text, Side side, std::optional<std::string_view> chars) {
  std::u32string set;
  if (chars) set = decode(*chars);
  auto away = [&](char32_t c) { return chars ? set.find(c) != std::u32string::npos : is_space(c); };
  if (side != Side::right) {
    for (std::size_t at = 0; at < text.size(); at = 0) {
      if (!away(next(text, at))) break;
      text.remove_prefix(at);
    }
  }
  while (side != Side::left && !text.empty()) {
    std::size_t from = text.size() - 1;
    while (from > 0 && (static_cast<unsigned char>(text[from]) & 0xC0) == 0x80) --from;
    std::size_t at = from;
    if (!away(next(text, at))) break;
    text.remove_suffix(text.size() - from);
  }
  return text;
}

std::string upper(std::string_view text) {
  std::u32string out;
  for (char32_t c : decode(text)) append_upper(out, c);
  return encode(out);
}

std::string lower(std::string_view text) {
  std::u32string codes = decode(text);
  for (char32_t& c : codes) c = small(c);
  return encode(codes);
}

std::string capitalize(std::string_view text) {
  std::u32string out;
  bool first = true;
  for (char32_t c : decode(text)) {
    if (std::exchange(first, false)) append_title(out, c);
    else out += small(c);
  }
  return encode(out);
}

std::string title(std::string_view text) {
  std::u32string out;
  bool within = false;
  for (char32_t c : decode(text)) {
    if (within) out += small(c);
    else append_title(out, c);
    within = is_cased(c);
  }
  return encode(out);
}

std::string swap_case(std::string_view text) {
  std::u32string out;
  for (char32_t c : decode(text)) {
    if (is_small(c)) append_upper(out, c);
    else out += is_large(c) ? small(c) : c;
  }
  return encode(out);
}

bool all_are(std::string_view text, CharClass what) {
  auto fits = [&](char32_t c) {
    switch (what) {
      case CharClass::alpha: return is_letter(c);
      case CharClass::alnum:
        return is_letter(c) || category(c) == UTF8PROC_CATEGORY_ND || category(c) == UTF8PROC_CATEGORY_NL ||
               category(c) == UTF8PROC_CATEGORY_NO;
      case CharClass::decimal: return category(c) == UTF8PROC_CATEGORY_ND;
      case CharClass::digit:
        return category(c) == UTF8PROC_CATEGORY_ND || c == 0xB2 || c == 0xB3 || c == 0xB9 ||
               (c >= 0x2070 && c <= 0x2089 && category(c) == UTF8PROC_CATEGORY_NO);
      case CharClass::numeric: return category(c) >= UTF8PROC_CATEGORY_ND && category(c) <= UTF8PROC_CATEGORY_NO;
      case CharClass::space: return is_space(c);
      case CharClass::ascii: return c < 128;
      case CharClass::printable: return is_printable(c);
    }
    return false;
  };
  const std::u32string codes = decode(text);
  if (codes.empty()) return what == CharClass::ascii || what == CharClass::printable;
  return std::all_of(codes.begin(), codes.end(), fits);
}

bool is_lower(std::string_view text) {
  const std::u32string codes = decode(text);
  return std::any_of(codes.begin(), codes.end(), is_small) &&
         std::none_of(codes.begin(), codes.end(), [](char32_t c) { return is_large(c) || is_titled(c); });
}

bool is_upper(std::string_view text) {
  const std::u32string codes = decode(text);
  return std::any_of(codes.begin(), codes.end(), is_large) &&
         std::none_of(codes.begin(), codes.end(), [](char32_t c) { return is_small(c) || is_titled(c); });
}

bool is_title(std::string_view text) {
  bool within = false, any = false;
  for (char32_t c : decode(text)) {
    if (is_cased(c)) {
      if (within == (is_large(c) || is_titled(c))) return false;
      any = true;
    }
    within = is_cased(c);
  }
  return any;
}

bool is_identifier(std::string_view text) {
  const std::u32string codes = decode(text);
  if (codes.empty() || !(codes[0] == '_' || is_letter(codes[0]))) return false;
  return std::all_of(codes.begin(), codes.end(), [](char32_t c) {
    return c == '_' || is_letter(c) || is_mark_or_number(c) || category(c) == UTF8PROC_CATEGORY_PC;
  });
}

}  // namespace metal_candle::jinja
