// UTF-8: reading and writing one character, validating a text, and mending one that is not valid.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

namespace metal_candle::io::tok {

/// Bytes of the character that starts with `lead`, which must start one.
inline std::size_t utf8_length(char lead) {
  const auto b = static_cast<unsigned char>(lead);
  return b < 0x80 ? 1 : b < 0xE0 ? 2 : b < 0xF0 ? 3 : 4;
}

/// The character at `p` of valid UTF-8.
inline char32_t utf8_at(const char* p) {
  const auto b = [p](int i) { return static_cast<char32_t>(static_cast<unsigned char>(p[i])); };
  if (b(0) < 0x80) return b(0);
  if (b(0) < 0xE0) return (b(0) & 0x1F) << 6 | (b(1) & 0x3F);
  if (b(0) < 0xF0) return (b(0) & 0x0F) << 12 | (b(1) & 0x3F) << 6 | (b(2) & 0x3F);
  return (b(0) & 0x07) << 18 | (b(1) & 0x3F) << 12 | (b(2) & 0x3F) << 6 | (b(3) & 0x3F);
}

inline bool utf8_continues(char c) { return (static_cast<unsigned char>(c) & 0xC0) == 0x80; }

/// Start of the character before `at`, which is a boundary above 0.
inline std::size_t utf8_before(std::string_view s, std::size_t at) {
  do {
    --at;
  } while (at > 0 && utf8_continues(s[at]));
  return at;
}

inline void utf8_append(std::string& out, char32_t c) {
  const auto put = [&out](char32_t b) { out.push_back(static_cast<char>(b)); };
  if (c < 0x80) {
    put(c);
  } else if (c < 0x800) {
    put(0xC0 | c >> 6);
    put(0x80 | (c & 0x3F));
  } else if (c < 0x10000) {
    put(0xE0 | c >> 12);
    put(0x80 | (c >> 6 & 0x3F));
    put(0x80 | (c & 0x3F));
  } else {
    put(0xF0 | c >> 18);
    put(0x80 | (c >> 12 & 0x3F));
    put(0x80 | (c >> 6 & 0x3F));
    put(0x80 | (c & 0x3F));
  }
}

inline std::size_t utf8_size(char32_t c) { return c < 0x80 ? 1 : c < 0x800 ? 2 : c < 0x10000 ? 3 : 4; }

std::size_t utf8_count(std::string_view s);

/// What stands at `p`: a character of `size` bytes; else as many bytes as one U+FFFD replaces, `valid` false; or the
/// beginning of a character that the text ends within, `cut` true besides.
struct Utf8Step {
  std::uint8_t size;
  bool valid, cut;
};
Utf8Step utf8_step(const char* p, const char* end);

/// Length of the longest valid prefix.
std::size_t utf8_valid_prefix(std::string_view s);
inline bool utf8_valid(std::string_view s) { return utf8_valid_prefix(s) == s.size(); }

/// Each longest beginning of a character that goes nowhere, and each byte that begins none, becomes U+FFFD.
std::string utf8_mended(std::string_view s);

constexpr std::string_view kReplacement = "\xEF\xBF\xBD";

}  // namespace metal_candle::io::tok
