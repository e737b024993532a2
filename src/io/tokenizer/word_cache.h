// What words became, for the next time they are met. Text repeats its words: most are found here.
#pragma once

#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <new>
#include <string>
#include <string_view>
#include <vector>

#include "io/tokenizer/model.h"

namespace metal_candle::io::tok {

/// Each word has one place; a newcomer takes it over. Words of at most 15 bytes lie in the table itself.
class WordCache {
 public:
  /// Calls use(tokens, count) and returns true if the word is known.
  template <class Use>
  bool find(std::string_view word, Use&& use) {
    if (word.size() > kLongest) return false;
    if (word.size() > 15) return find_long(word, use);
    const Key key = key_of(word);
    slot_ = key.hash();
    if (!short_) return false;
    const Short& s = short_[slot_ >> (64 - kShortBits)];
    if (s.key != key || (s.about & 15) != word.size()) return false;
    const unsigned count = s.about >> 4;
    if (count == kMany) {
      use(tokens_.data() + s.ids[0], static_cast<std::size_t>(s.ids[1]));
      return true;
    }
    Token out[3];
    for (unsigned i = 0; i < count; ++i)
      out[i] = {s.ids[i], {static_cast<std::uint32_t>(s.at[i] >> 4), static_cast<std::uint32_t>(s.at[i] & 15)}};
    use(out, static_cast<std::size_t>(count));
    return true;
  }

  /// After find failed for the same word.
  void put(std::string_view word, const Token* tokens, std::size_t count);

 private:
  static constexpr std::size_t kLongest = 128, kMostTokens = 1 << 20;
  static constexpr unsigned kShortBits = 16, kLongBits = 13, kMany = 15;

  struct Key {
    std::uint64_t a, b;
    friend bool operator==(const Key&, const Key&) = default;
    std::uint64_t hash() const {
      const std::uint64_t h = (a ^ b * 0x9E3779B97F4A7C15u) * 0xD6E8FEB86659FD93u;
      return (h ^ h >> 32) * 0xD6E8FEB86659FD93u;
    }
  };
  /// With the length, this is the word. (Halves may overlap.)
  static Key key_of(std::string_view w) {
    const auto load = [](const char* p, auto x) {
      std::memcpy(&x, p, sizeof x);
      return static_cast<std::uint64_t>(x);
    };
    const std::size_t n = w.size();
    const char* p = w.data();
    if (n >= 8) return {load(p, std::uint64_t{}), load(p + n - 8, std::uint64_t{})};
    if (n >= 4) return {load(p, std::uint32_t{}), load(p + n - 4, std::uint32_t{})};
    if (n >= 2) return {load(p, std::uint16_t{}), load(p + n - 2, std::uint16_t{}) | 1u << 16};
    return {static_cast<unsigned char>(*p), 2u << 16};
  }

  struct Short {
    Key key;
    std::int32_t ids[3];  // or where the tokens lie and how many, if there are many
    std::uint8_t at[3];   // begin << 4 | end
    std::uint8_t about;   // count << 4 | length
  };
  static_assert(sizeof(Short) == 32);
  struct Long {
    std::uint64_t hash;
    std::uint32_t text, length, tokens, count;
  };
  struct Free {
    void operator()(Short* p) const { std::free(p); }
  };

  template <class Use>
  bool find_long(std::string_view word, Use& use) {
    slot_ = hash_bytes(word);
    if (long_.empty()) return false;
    const Long& l = long_[slot_ >> (64 - kLongBits)];
    if (l.hash != slot_ || l.length != word.size() || texts_.compare(l.text, l.length, word) != 0) return false;
    use(tokens_.data() + l.tokens, static_cast<std::size_t>(l.count));
    return true;
  }
  void clear();

  std::unique_ptr<Short[], Free> short_;
  std::vector<Long> long_;
  std::vector<Token> tokens_;
  std::string texts_;
  std::uint64_t slot_ = 0;  // of the word looked for last
};

}  // namespace metal_candle::io::tok
