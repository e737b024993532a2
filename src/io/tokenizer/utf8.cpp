#include "io/tokenizer/utf8.h"

#include <algorithm>
#include <cstring>

namespace metal_candle::io::tok {

std::size_t utf8_count(std::string_view s) {
  return static_cast<std::size_t>(std::count_if(s.begin(), s.end(), [](char c) { return !utf8_continues(c); }));
}

Utf8Step utf8_step(const char* p, const char* end) {
  const auto b0 = static_cast<unsigned char>(*p);
  if (b0 < 0x80) return {1, true, false};
  if (b0 < 0xC2 || b0 > 0xF4) return {1, false, false};
  // The second byte's range keeps out overlong forms, surrogates and what is above U+10FFFF.
  const unsigned char low = b0 == 0xE0 ? 0xA0 : b0 == 0xF0 ? 0x90 : 0x80;
  const unsigned char high = b0 == 0xED ? 0x9F : b0 == 0xF4 ? 0x8F : 0xBF;
  const std::uint8_t wanted = b0 < 0xE0 ? 2 : b0 < 0xF0 ? 3 : 4;
  for (std::uint8_t i = 1; i < wanted; ++i) {
    if (p + i == end) return {i, false, true};
    const auto b = static_cast<unsigned char>(p[i]);
    if (b < (i == 1 ? low : 0x80) || b > (i == 1 ? high : 0xBF)) return {i, false, false};
  }
  return {wanted, true, false};
}

std::size_t utf8_valid_prefix(std::string_view s) {
  const char* p = s.data();
  const char* const end = p + s.size();
  while (p < end) {
    while (end - p >= 8) {
      std::uint64_t word;
      std::memcpy(&word, p, 8);
      if (word & 0x8080808080808080u) break;
      p += 8;
    }
    if (p == end) break;
    const Utf8Step step = utf8_step(p, end);
    if (!step.valid) break;
    p += step.size;
  }
  return static_cast<std::size_t>(p - s.data());
}

std::string utf8_mended(std::string_view s) {
  std::string out;
  out.reserve(s.size() + 16);
  while (!s.empty()) {
    const std::size_t good = utf8_valid_prefix(s);
    out.append(s.substr(0, good));
    s.remove_prefix(good);
    if (s.empty()) break;
    out.append(kReplacement);
    s.remove_prefix(utf8_step(s.data(), s.data() + s.size()).size);
  }
  return out;
}

}  // namespace metal_candle::io::tok
