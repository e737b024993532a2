#include "io/tokenizer/normalizers.h"

#include <array>

#include "io/tokenizer/pattern.h"
#include "io/tokenizer/unicode.h"

namespace metal_candle::io::tok {
namespace {

/// Calls act(c, rewrite) for the characters that are active; it writes something for c with change 0, or nothing, and
/// then c has gone. Others are kept.
template <class Active, class Act>
void rewrite_active(Text& text, Active active, Act act) {
  const std::string_view s = text.view();
  const auto next = [&](std::size_t at) {
    while (at < s.size() && !active(utf8_at(s.data() + at))) at += utf8_length(s[at]);
    return at;
  };
  std::size_t at = next(0);
  if (at == s.size()) return;
  Rewrite to(text);
  for (; at < s.size(); at = next(at)) {
    to.keep(at);
    act(utf8_at(s.data() + at), to);
    at += utf8_length(s[at]);
    to.seek(at);
  }
  to.keep(s.size());
  text = std::move(to).done();
}

const CharTable& chars() { return CharTable::get(); }

void put_lower(char32_t c, Rewrite& to) {
  int change = 0;
  for (const char32_t l : lowercase(c)) to.put(l, change++);
}

class Lowercase final : public Normalizer {
 public:
  void apply(Text& text) const override {
    rewrite_active(
        text, [&t = chars()](char32_t c) { return (t[c] & kLowers) != 0; }, put_lower);
  }
};

class StripAccents final : public Normalizer {
 public:
  void apply(Text& text) const override {
    rewrite_active(
        text, [&t = chars()](char32_t c) { return (t[c] & kCombining) != 0; }, [](char32_t, Rewrite&) {});
  }
};

class Strip final : public Normalizer {
 public:
  Strip(bool left, bool right) : left_(left), right_(right) {}
  void apply(Text& text) const override {
    const std::string_view s = text.view();
    std::size_t begin = 0, end = s.size();
    const auto white = [&](std::size_t at) { return (chars()[utf8_at(s.data() + at)] & kWhite) != 0; };
    while (left_ && begin < end && white(begin)) begin += utf8_length(s[begin]);
    while (right_ && end > begin && white(utf8_before(s, end))) end = utf8_before(s, end);
    if (begin == 0 && end == s.size()) return;
    Rewrite to(text);
    to.seek(begin);
    to.keep(end);
    text = std::move(to).done();
  }

 private:
  bool left_, right_;
};

class Prepend final : public Normalizer {
 public:
  explicit Prepend(std::string text) : text_(std::move(text)) {}
  void apply(Text& text) const override {
    if (text.view().empty()) return;
    Rewrite to(text);
    to.insert(text_, 0);
    to.keep(text.view().size());
    text = std::move(to).done();
  }

 private:
  std::string text_;
};

class Nmt final : public Normalizer {
 public:
  void apply(Text& text) const override {
    rewrite_active(
        text, [](char32_t c) { return drops(c) || blank(c); },
        [](char32_t c, Rewrite& to) {
          if (!drops(c)) to.put(U' ', 0);
        });
  }

 private:
  static bool drops(char32_t c) {
    return (c >= 1 && c <= 8) || c == 0xB || (c >= 0xE && c <= 0x1F) || c == 0x7F || c == 0x8F || c == 0x9F;
  }
  static bool blank(char32_t c) {
    return c == 0x9 || c == 0xA || c == 0xC || c == 0xD || c == 0x1680 || (c >= 0x200B && c <= 0x200F) || c == 0x2028 ||
           c == 0x2029 || c == 0x2581 || c == 0xFEFF || c == 0xFFFD;
  }
};

class ByteLevelNormalizer final : public Normalizer {
 public:
  void apply(Text& text) const override {
    const std::string_view s = text.view();
    Rewrite to(text);
    for (std::size_t at = 0; at < s.size();) {
      const std::size_t n = utf8_length(s[at]);
      for (std::size_t i = 0; i < n; ++i) to.put(byte_character(static_cast<unsigned char>(s[at + i])), i > 0);
      at += n;
    }
    text = std::move(to).done();
  }
};

class Replace final : public Normalizer {
 public:
  Replace(std::shared_ptr<const Pattern> pattern, std::string content)
      : pattern_(std::move(pattern)), content_(std::move(content)) {}
  void apply(Text& text) const override {
    const std::string_view s = text.view();
    Matches matches(*pattern_, s);
    Range m;
    if (!matches.next(m)) return;
    Rewrite to(text);
    do {
      to.keep(m.begin);
      to.seek(m.end);
      to.insert(content_, m.end > 0 ? m.end - 1 : Rewrite::kBeginning);
    } while (matches.next(m));
    to.keep(s.size());
    text = std::move(to).done();
  }

 private:
  std::shared_ptr<const Pattern> pattern_;
  std::string content_;
};

class BertNormalizer final : public Normalizer {
 public:
  explicit BertNormalizer(BertOptions options) : on_(options), nfd_(make_form(Form::nfd)) {}

  void apply(Text& text) const override {
    const CharTable& t = chars();
    if (on_.clean_text) {
      const auto drops = [&t](char32_t c) { return c == 0 || c == 0xFFFD || (t[c] & kOther); };
      rewrite_active(
          text, [&](char32_t c) { return drops(c) || (c != U' ' && (t[c] & kWhite)); },
          [&](char32_t c, Rewrite& to) {
            if (!drops(c)) to.put(U' ', 0);
          });
    }
    if (on_.handle_chinese_chars) {
      rewrite_active(text, ideograph, [](char32_t c, Rewrite& to) {
        to.put(U' ', 0);
        to.put(c, 1);
        to.put(U' ', 1);
      });
    }
    if (on_.strip_accents) {
      nfd_->apply(text);
      rewrite_active(
          text, [&t](char32_t c) { return (t[c] & kNonspacing) != 0; }, [](char32_t, Rewrite&) {});
    }
    if (on_.lowercase)
      rewrite_active(
          text, [&t](char32_t c) { return (t[c] & kLowers) != 0; }, put_lower);
  }

 private:
  static bool ideograph(char32_t c) {
    return (c >= 0x4E00 && c <= 0x9FFF) || (c >= 0x3400 && c <= 0x4DBF) || (c >= 0x20000 && c <= 0x2A6DF) ||
           (c >= 0x2A700 && c <= 0x2B73F) || (c >= 0x2B740 && c <= 0x2B81F) || (c >= 0x2B920 && c <= 0x2CEAF) ||
           (c >= 0xF900 && c <= 0xFAFF) || (c >= 0x2F800 && c <= 0x2FA1F);
  }
  BertOptions on_;
  NormalizerPtr nfd_;
};

class NormalizerSequence final : public Normalizer {
 public:
  explicit NormalizerSequence(std::vector<NormalizerPtr> steps) : steps_(std::move(steps)) {}
  void apply(Text& text) const override {
    for (const NormalizerPtr& step : steps_) step->apply(text);
  }

 private:
  std::vector<NormalizerPtr> steps_;
};

struct ByteCharacters {
  std::array<char32_t, 256> to;
  std::array<std::int16_t, 512> from;
  ByteCharacters() {
    from.fill(-1);
    char32_t next = 256;
    for (unsigned b = 0; b < 256; ++b) {
      const bool same = (b >= 33 && b <= 126) || (b >= 161 && b <= 172) || b >= 174;
      to[b] = same ? b : next++;
      from[to[b]] = static_cast<std::int16_t>(b);
    }
  }
};
const ByteCharacters& byte_characters() {
  static const ByteCharacters table;
  return table;
}

}  // namespace

NormalizerPtr make_lowercase() { return std::make_unique<Lowercase>(); }
NormalizerPtr make_strip(bool left, bool right) { return std::make_unique<Strip>(left, right); }
NormalizerPtr make_strip_accents() { return std::make_unique<StripAccents>(); }
NormalizerPtr make_prepend(std::string text) { return std::make_unique<Prepend>(std::move(text)); }
NormalizerPtr make_nmt() { return std::make_unique<Nmt>(); }
NormalizerPtr make_byte_level_normalizer() { return std::make_unique<ByteLevelNormalizer>(); }
NormalizerPtr make_bert_normalizer(BertOptions options) { return std::make_unique<BertNormalizer>(options); }
NormalizerPtr make_normalizer_sequence(std::vector<NormalizerPtr> steps) {
  return std::make_unique<NormalizerSequence>(std::move(steps));
}
NormalizerPtr make_replace(std::shared_ptr<const Pattern> pattern, std::string content) {
  return std::make_unique<Replace>(std::move(pattern), std::move(content));
}

char32_t byte_character(unsigned char byte) { return byte_characters().to[byte]; }
int character_byte(char32_t c) { return c < 512 ? byte_characters().from[c] : -1; }

}  // namespace metal_candle::io::tok
