// The compiled normalization rules of SentencePiece, as the reference applies them: to whole graphemes of less than 6
// bytes, else to each character; and the rule is that of the shortest prefix that has one.
#include <cstring>

#include "io/tokenizer/normalizers.h"
#include "io/tokenizer/unicode.h"

namespace metal_candle::io::tok {
namespace {

class Precompiled final : public Normalizer {
 public:
  explicit Precompiled(std::string charsmap) : blob_(std::move(charsmap)) {
    std::uint32_t bytes = 0;
    if (blob_.size() < 4) return;
    std::memcpy(&bytes, blob_.data(), 4);
    if (bytes / 4 * 4 > blob_.size() - 4) return;
    trie_.resize(bytes / 4);
    if (trie_.empty()) return;
    std::memcpy(trie_.data(), blob_.data() + 4, trie_.size() * 4);
    rules_ = std::string_view(blob_).substr(4 + trie_.size() * 4);
    good_ = utf8_valid(rules_);
  }
  bool good() const { return good_; }

  void apply(Text& text) const override {
    const std::string_view s = text.view();
    Rewrite to(text);
    std::vector<Item> items;
    bool modified = false;
    for (std::size_t at = 0; at < s.size();) {
      const std::size_t end = grapheme_end(s, at);
      std::string_view with;
      if (end - at < 6 && rule(s.substr(at, end - at), with)) {
        replace(items, utf8_count(s.substr(at, end - at)), with);
        modified = true;
        at = end;
        continue;
      }
      for (std::size_t n; at < end; at += n) {
        n = utf8_length(s[at]);
        if (rule(s.substr(at, n), with)) {
          replace(items, 1, with);
          modified = true;
        } else {
          items.push_back({utf8_at(s.data() + at), 0});
        }
      }
    }
    if (!modified) return;
    for (const Item& x : items) to.put(x.c, x.change);
    text = std::move(to).done();
  }

 private:
  struct Item {
    char32_t c;
    int change;
  };

  static void replace(std::vector<Item>& items, std::size_t old_count, std::string_view with) {
    for (std::size_t i = 0; i < with.size(); i += utf8_length(with[i])) items.push_back({utf8_at(with.data() + i), 0});
    const std::size_t count = utf8_count(with);
    for (std::size_t k = old_count; k < count; ++k) items[items.size() - 1 - (k - old_count)].change = 1;
    if (count < old_count && !items.empty()) items.back().change -= static_cast<int>(old_count - count);
  }

  bool rule(std::string_view key, std::string_view& with) const {
    std::size_t node = 0;
    std::uint32_t unit = trie_[0];
    const auto offset = [](std::uint32_t u) { return static_cast<std::size_t>(u >> 10) << ((u & 1u << 9) >> 6); };
    node ^= offset(unit);
    for (const char k : key) {
      const auto b = static_cast<unsigned char>(k);
      if (b == 0) return false;
      node ^= b;
      if (node >= trie_.size()) return false;
      unit = trie_[node];
      if ((unit & (1u << 31 | 0xFF)) != b) return false;
      node ^= offset(unit);
      if (!(unit >> 8 & 1)) continue;
      if (node >= trie_.size()) return false;
      const std::size_t start = trie_[node] & ((1u << 31) - 1);
      if (start > rules_.size() || (start < rules_.size() && utf8_continues(rules_[start]))) return false;
      with = rules_.substr(start, rules_.find('\0', start) - start);
      return true;
    }
    return false;
  }

  /// The breaks that matter to graphemes of less than 6 bytes: those of Hangul, flags and conjuncts are longer.
  static std::size_t grapheme_end(std::string_view s, std::size_t at) {
    const CharTable& table = CharTable::get();
    const auto flags = [&](std::size_t i) { return table[utf8_at(s.data() + i)]; };
    std::uint32_t f = flags(at);
    if (s[at] == '\r' && at + 1 < s.size() && s[at + 1] == '\n') return at + 2;
    at += utf8_length(s[at]);
    if (f & kControl) return at;
    while ((f & kPrepend) && at < s.size() && !((f = flags(at)) & kControl)) at += utf8_length(s[at]);
    bool pictographic = f & kPictographic;
    while (at < s.size()) {
      f = flags(at);
      const bool after_joiner = at >= 3 && s.substr(at - 3, 3) == "\u200D";
      if (!(f & kExtend) && !(pictographic && after_joiner && (f & kPictographic))) break;
      at += utf8_length(s[at]);
    }
    return at;
  }

  std::string blob_;
  std::string_view rules_;
  std::vector<std::uint32_t> trie_;
  bool good_ = false;
};

}  // namespace

NormalizerPtr make_precompiled(std::string charsmap) {
  auto out = std::make_unique<Precompiled>(std::move(charsmap));
  return out->good() ? std::move(out) : nullptr;
}

}  // namespace metal_candle::io::tok
