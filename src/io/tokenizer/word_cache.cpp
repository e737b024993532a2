#include "io/tokenizer/word_cache.h"

#include <algorithm>

namespace metal_candle::io::tok {

void WordCache::clear() {
  short_.reset();
  long_.clear();
  tokens_.clear();
  texts_.clear();
}

void WordCache::put(std::string_view word, const Token* tokens, std::size_t count) {
  if (word.size() > kLongest) return;
  if (tokens_.size() + count > kMostTokens) clear();
  if (!short_) {
    // Zeroed pages come as they are touched. A free entry has length 0, which no word has.
    short_.reset(static_cast<Short*>(std::calloc(std::size_t{1} << kShortBits, sizeof(Short))));
    if (!short_) throw std::bad_alloc();
    long_.assign(std::size_t{1} << kLongBits, {});
  }
  const auto store = [&] {
    const std::size_t at = tokens_.size();
    tokens_.insert(tokens_.end(), tokens, tokens + count);
    return at;
  };
  if (word.size() > 15) {
    Long& l = long_[slot_ >> (64 - kLongBits)];
    const std::size_t text = texts_.size();
    if (text > (std::size_t{64} << 20)) return;
    texts_.append(word);
    l = {slot_, static_cast<std::uint32_t>(text), static_cast<std::uint32_t>(word.size()),
         static_cast<std::uint32_t>(store()), static_cast<std::uint32_t>(count)};
    return;
  }
  Short& s = short_[slot_ >> (64 - kShortBits)];
  s.key = key_of(word);
  const bool fits = count <= 3 && std::all_of(tokens, tokens + count, [](const Token& t) { return t.at.end <= 15; });
  const unsigned about = fits ? static_cast<unsigned>(count) : kMany;
  s.about = static_cast<std::uint8_t>(about << 4 | word.size());
  if (about == kMany) {
    s.ids[0] = static_cast<std::int32_t>(store());
    s.ids[1] = static_cast<std::int32_t>(count);
    return;
  }
  for (std::size_t i = 0; i < count; ++i) {
    s.ids[i] = tokens[i].id;
    s.at[i] = static_cast<std::uint8_t>(tokens[i].at.begin << 4 | tokens[i].at.end);
  }
}

}  // namespace metal_candle::io::tok
