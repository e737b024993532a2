// NFC, NFD, NFKC, NFKD. Most text is in its form already, so a scan looks for characters that are not inert, and only
// the stretch around them is taken apart.
#include <algorithm>

#include "io/tokenizer/normalizers.h"
#include "io/tokenizer/unicode.h"

namespace metal_candle::io::tok {
namespace {

struct Item {
  char32_t c;
  int change;  // as in Rewrite::put
  std::uint8_t cls;
};

void push_hangul(char32_t c, std::vector<Item>& out) {
  const char32_t s = c - kHangulBase;
  out.push_back({0x1100 + s / 588, 0, 0});
  out.push_back({0x1161 + s % 588 / 28, 1, 0});
  if (s % 28) out.push_back({0x11A7 + s % 28, 1, 0});
}

void decompose(std::string_view s, bool compatible, std::vector<Item>& out) {
  for (std::size_t i = 0; i < s.size(); i += utf8_length(s[i])) {
    const char32_t c = utf8_at(s.data() + i);
    if (is_hangul(c)) {
      push_hangul(c, out);
      continue;
    }
    const std::u32string_view d = compatible ? compatible_decomposition(c) : canonical_decomposition(c);
    if (d.empty()) out.push_back({c, 0, combining_class(c)});
    for (std::size_t k = 0; k < d.size(); ++k) out.push_back({d[k], k > 0, combining_class(d[k])});
  }
  for (auto begin = out.begin(); begin != out.end();) {
    const auto end = std::find_if(begin + 1, out.end(), [](const Item& x) { return x.cls == 0; });
    std::stable_sort(begin + (begin->cls == 0), end, [](const Item& a, const Item& b) { return a.cls < b.cls; });
    begin = end;
  }
}

/// Composes what decompose made, in place.
void compose(std::vector<Item>& items) {
  std::size_t out = 0, starter = items.size();  // the last starter's place, none yet
  int last = -1;                                // class of the last mark that stayed behind it
  for (const Item& x : items) {
    if (starter < items.size() && (last < 0 || last < x.cls)) {
      if (const char32_t c = composition(items[starter].c, x.c)) {
        items[starter].c = c;
        items[starter].change += x.change - 1;
        continue;
      }
    }
    if (x.cls == 0) {
      starter = out;
      last = -1;
    } else {
      last = x.cls;
    }
    items[out++] = x;
  }
  items.resize(out);
}

class NormalForm final : public Normalizer {
 public:
  explicit NormalForm(Form form)
      : compatible_(form == Form::nfkc || form == Form::nfkd),
        composes_(form == Form::nfc || form == Form::nfkc),
        active_(composes_ ? (compatible_ ? kNfkcActive : kNfcActive) : (compatible_ ? kNfkdActive : kNfdActive)) {}

  void apply(Text& text) const override {
    const std::string_view s = text.view();
    std::size_t at = next_active(s, 0);
    if (at == s.size()) return;
    Rewrite to(text);
    std::vector<Item> items;
    while (at < s.size()) {
      // What composes may do so with the character before.
      std::size_t begin = at;
      if (composes_ && begin > to.position()) begin = utf8_before(s, begin);
      std::size_t end = at;
      while (end < s.size() && (table_[utf8_at(s.data() + end)] & active_)) end += utf8_length(s[end]);
      to.keep(begin);
      items.clear();
      decompose(s.substr(begin, end - begin), compatible_, items);
      if (composes_) compose(items);
      for (const Item& x : items) to.put(x.c, x.change);
      to.seek(end);
      at = next_active(s, end);
    }
    to.keep(s.size());
    text = std::move(to).done();
  }

 private:
  std::size_t next_active(std::string_view s, std::size_t at) const {
    while (at < s.size()) {
      const auto b = static_cast<unsigned char>(s[at]);
      if (b < 0xC0) {  // no ASCII character is active
        ++at;
        continue;
      }
      if (table_[utf8_at(s.data() + at)] & active_) break;
      at += utf8_length(s[at]);
    }
    return at;
  }

  bool compatible_, composes_;
  std::uint32_t active_;
  const CharTable& table_ = CharTable::get();
};

}  // namespace

NormalizerPtr make_form(Form form) { return std::make_unique<NormalForm>(form); }

}  // namespace metal_candle::io::tok
