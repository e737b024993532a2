// What the reference tokenizer thinks of each character. The data are written by tools/make_unicode_tables.py, which
// explains why they follow no single version of Unicode.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace metal_candle::io::tok {

enum CharFlag : std::uint32_t {
  kLetter = 1u << 0,  // \p{L}, \p{N}, \s of split patterns
  kNumber = 1u << 1,
  kSpace = 1u << 2,
  kWhite = 1u << 3,        // whitespace to everything that is no pattern
  kNumeric = 1u << 4,      // Digits
  kPunctuation = 1u << 5,  // Punctuation, BertPreTokenizer
  kOther = 1u << 6,        // dropped by BertNormalizer's clean_text, with NUL and U+FFFD
  kNonspacing = 1u << 7,   // dropped by its strip_accents
  kCombining = 1u << 8,    // dropped by StripAccents
  kWord = 1u << 9,         // \w of Whitespace and of single_word
  kNfdActive = 1u << 10,   // decomposes or has a combining class
  kNfkdActive = 1u << 11,
  kNfcActive = 1u << 12,  // changes, has a combining class, or composes with what is before it
  kNfkcActive = 1u << 13,
  kLowers = 1u << 14,
  kExtend = 1u << 15,  // grapheme breaks: Extend, ZWJ and SpacingMark
  kPrepend = 1u << 16,
  kControl = 1u << 17,
  kPictographic = 1u << 18,
};

/// Two-stage table, made on first use.
class CharTable {
 public:
  static const CharTable& get();
  std::uint32_t operator[](char32_t c) const { return blocks_[index_[c >> 8]][c & 0xFF]; }
  /// All flags of the first 256 characters.
  const std::uint32_t* latin() const { return blocks_[index_[0]].data(); }

 private:
  CharTable();
  struct Block {
    std::uint32_t value[256];
    const std::uint32_t& operator[](std::size_t i) const { return value[i]; }
    const std::uint32_t* data() const { return value; }
    friend bool operator==(const Block&, const Block&) = default;
  };
  std::uint16_t index_[0x1100];
  std::vector<Block> blocks_;
};

std::uint8_t combining_class(char32_t c);
/// The full decomposition; empty if c has none. Hangul is in neither table.
std::u32string_view canonical_decomposition(char32_t c);
std::u32string_view compatible_decomposition(char32_t c);
/// 0 if they do not compose. Hangul included.
char32_t composition(char32_t a, char32_t b);
/// Empty if c stays.
std::u32string_view lowercase(char32_t c);

/// The number of its script for UnicodeScripts, which counts kana as Han; 0 for none. From tools/make_script_table.py.
int script_of(char32_t c);

/// Characters that a regular expression library of Unicode 14 does not know, with their categories.
struct LateRange {
  char32_t first, last;
  char category[3];
};
std::span<const LateRange> late_ranges();

constexpr char32_t kHangulBase = 0xAC00, kHangulCount = 11172;
inline bool is_hangul(char32_t c) { return c - kHangulBase < kHangulCount; }

}  // namespace metal_candle::io::tok
