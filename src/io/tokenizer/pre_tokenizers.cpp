#include "io/tokenizer/pre_tokenizers.h"

#include <algorithm>

#include "io/tokenizer/normalizers.h"
#include "io/tokenizer/unicode.h"

namespace metal_candle::io::tok {
namespace {

std::uint32_t u32(std::size_t n) { return static_cast<std::uint32_t>(n); }

/// Cuts one piece: matches and what is between them go in, in order; the new pieces come out by the behavior.
class Cutter {
 public:
  Cutter(Behavior behavior, bool invert, std::vector<Range>& out) : behavior_(behavior), invert_(invert), out_(out) {}

  void begin() {
    spans_.clear();
    first_ = out_.size();
  }
  void add(Range at, bool match) {
    match ^= invert_;
    // Only these need to see all of them.
    if (behavior_ == Behavior::merged_with_next) {
      spans_.push_back({at, match});
      return;
    }
    const bool extends = behavior_ == Behavior::contiguous             ? match == previous_
                         : behavior_ == Behavior::merged_with_previous ? match && !previous_
                                                                       : false;
    if (extends && has_last_) {
      last_.end = at.end;
    } else {
      flush();
      if (!(behavior_ == Behavior::removed && match)) {
        last_ = at;
        has_last_ = true;
      }
    }
    previous_ = match;
  }
  void finish() {
    if (behavior_ == Behavior::merged_with_next) merge_backwards();
    flush();
    previous_ = false;
  }

 private:
  void flush() {
    if (has_last_ && last_.size() > 0) out_.push_back(last_);
    has_last_ = false;
  }
  void merge_backwards() {
    for (auto s = spans_.rbegin(); s != spans_.rend(); ++s) {
      if (s->match && !previous_ && has_last_) {
        last_.begin = s->at.begin;
      } else {
        flush();
        last_ = s->at;
        has_last_ = true;
      }
      previous_ = s->match;
    }
    flush();
    std::reverse(out_.begin() + static_cast<std::ptrdiff_t>(first_), out_.end());
  }

  struct Span {
    Range at;
    bool match;
  };
  Behavior behavior_;
  bool invert_;
  std::vector<Range>& out_;
  std::vector<Span> spans_;
  std::size_t first_ = 0;
  Range last_{};
  bool has_last_ = false, previous_ = false;
};

class Split final : public PreTokenizer {
 public:
  Split(std::shared_ptr<const Pattern> pattern, Behavior behavior, bool invert)
      : pattern_(std::move(pattern)), behavior_(behavior), invert_(invert) {}

  void apply(Pieces& pieces) const override {
    std::vector<Range> out;
    out.reserve(pieces.ranges.size() * 2);
    Cutter cutter(behavior_, invert_, out);
    for (const Range piece : pieces.ranges) {
      const std::string_view s = pieces.text.view().substr(piece.begin, piece.size());
      Matches matches(*pattern_, s);
      cutter.begin();
      std::uint32_t done = 0;
      for (Range m; matches.next(m); done = m.end) {
        if (done != m.begin) cutter.add({piece.begin + done, piece.begin + m.begin}, false);
        cutter.add({piece.begin + m.begin, piece.begin + m.end}, true);
      }
      if (done != s.size()) cutter.add({piece.begin + done, piece.end}, false);
      cutter.finish();
    }
    pieces.ranges = std::move(out);
  }
  Scanner scanner() const override { return behavior_ == Behavior::isolated ? pattern_->scanner() : nullptr; }

 private:
  std::shared_ptr<const Pattern> pattern_;
  Behavior behavior_;
  bool invert_;
};

/// Each character for which `is` holds is a match.
template <class Is>
class CharacterSplit final : public PreTokenizer {
 public:
  CharacterSplit(Is is, Behavior behavior, bool numbers = false) : is_(is), behavior_(behavior), numbers_(numbers) {}

  void apply(Pieces& pieces) const override {
    const std::string_view s = pieces.text.view();
    std::vector<Range> out;
    out.reserve(pieces.ranges.size() * 2);
    Cutter cutter(behavior_, false, out);
    for (const Range piece : pieces.ranges) {
      cutter.begin();
      std::uint32_t done = piece.begin;
      for (std::uint32_t at = piece.begin, next; at < piece.end; at = next) {
        next = at + u32(utf8_length(s[at]));
        if (!is_(utf8_at(s.data() + at))) continue;
        if (done != at) cutter.add({done, at}, false);
        cutter.add({at, next}, true);
        done = next;
      }
      if (done != piece.end) cutter.add({done, piece.end}, false);
      cutter.finish();
    }
    pieces.ranges = std::move(out);
  }
  bool isolates_numbers() const override { return numbers_ && behavior_ == Behavior::isolated; }

 private:
  Is is_;
  Behavior behavior_;
  bool numbers_;
};

template <class Is>
PreTokenizerPtr make_character_split(Is is, Behavior behavior, bool numbers = false) {
  return std::make_unique<CharacterSplit<Is>>(is, behavior, numbers);
}

class Whitespace final : public PreTokenizer {
 public:
  void apply(Pieces& pieces) const override {
    const CharTable& table = CharTable::get();
    const std::string_view s = pieces.text.view();
    std::vector<Range> out;
    // Words, runs of what is neither word nor space, and runs of spaces, which go.
    const auto kind = [&](std::uint32_t at) {
      const std::uint32_t f = table[utf8_at(s.data() + at)];
      return f & kWord ? 0 : f & kWhite ? 1 : 2;
    };
    for (const Range piece : pieces.ranges) {
      for (std::uint32_t at = piece.begin; at < piece.end;) {
        const std::uint32_t begin = at;
        const int k = kind(at);
        while (at < piece.end && kind(at) == k) at += u32(utf8_length(s[at]));
        if (k != 1) out.push_back({begin, at});
      }
    }
    pieces.ranges = std::move(out);
  }
};

class FixedLength final : public PreTokenizer {
 public:
  explicit FixedLength(std::size_t characters) : characters_(characters) {}
  void apply(Pieces& pieces) const override {
    const std::string_view s = pieces.text.view();
    std::vector<Range> out;
    for (const Range piece : pieces.ranges) {
      for (std::uint32_t at = piece.begin; at < piece.end;) {
        const std::uint32_t begin = at;
        for (std::size_t i = 0; i < characters_ && at < piece.end; ++i) at += u32(utf8_length(s[at]));
        out.push_back({begin, at});
      }
    }
    pieces.ranges = std::move(out);
  }

 private:
  std::size_t characters_;
};

class UnicodeScripts final : public PreTokenizer {
 public:
  void apply(Pieces& pieces) const override {
    const std::string_view s = pieces.text.view();
    std::vector<Range> out;
    for (const Range piece : pieces.ranges) {
      int last = -1;
      std::uint32_t begin = piece.end;
      for (std::uint32_t at = piece.begin; at < piece.end;) {
        const std::uint32_t here = at;
        const int script = script_of(utf8_at(s.data() + at));
        at += u32(utf8_length(s[at]));
        if (script == 0 || script == last) continue;
        if (last >= 0) out.push_back({begin, here});
        begin = here;
        last = script;
      }
      if (begin < piece.end) out.push_back({begin, piece.end});
    }
    pieces.ranges = std::move(out);
  }
};

/// Writes each piece anew: write(piece, to), then its new range is known.
template <class Write>
void rewrite_pieces(Pieces& pieces, Write write) {
  Rewrite to(pieces.text);
  std::vector<Range> out;
  out.reserve(pieces.ranges.size());
  for (const Range piece : pieces.ranges) {
    const std::size_t begin = to.written();
    to.seek(piece.begin);
    write(piece, to);
    out.push_back({u32(begin), u32(to.written())});
  }
  pieces.text = std::move(to).done();
  pieces.ranges = std::move(out);
}

class Metaspace final : public PreTokenizer {
 public:
  Metaspace(std::string replacement, PrependScheme scheme, bool split)
      : replacement_(std::move(replacement)), scheme_(scheme) {
    if (split) split_ = make_split(make_literal(replacement_), Behavior::merged_with_next, false);
  }

  void apply(Pieces& pieces) const override {
    const Text& text = pieces.text;
    const std::string_view s = text.view();
    rewrite_pieces(pieces, [&](Range piece, Rewrite& to) {
      const bool has = s[piece.begin] == ' ' || s.substr(piece.begin, piece.size()).starts_with(replacement_);
      const bool prepends =
          scheme_ == PrependScheme::always || (scheme_ == PrependScheme::first && text.source(piece).begin == 0);
      if (prepends && !has) to.insert(replacement_, piece.begin);
      for (std::size_t at = s.find(' ', piece.begin); at < piece.end; at = s.find(' ', at + 1)) {
        to.keep(at);
        to.insert(replacement_, at);
        to.seek(at + 1);
      }
      to.keep(piece.end);
    });
    if (split_) split_->apply(pieces);
  }
  bool needs_sources() const override { return scheme_ == PrependScheme::first; }

 private:
  std::string replacement_;
  PrependScheme scheme_;
  PreTokenizerPtr split_;
};

class ByteLevel final : public PreTokenizer {
 public:
  ByteLevel(bool add_prefix_space, bool use_regex, bool map_bytes)
      : prefix_(add_prefix_space), regex_(use_regex), map_(map_bytes) {
    split_ = make_split(make_regex(kGpt2Pattern), Behavior::isolated, false);
  }

  void apply(Pieces& pieces) const override {
    if (prefix_) {
      const std::string_view s = pieces.text.view();
      rewrite_pieces(pieces, [&](Range piece, Rewrite& to) {
        if (s[piece.begin] != ' ') to.insert(" ", piece.begin);
        to.keep(piece.end);
      });
    }
    if (regex_) split_->apply(pieces);
    if (!map_) return;
    const std::string_view s = pieces.text.view();
    rewrite_pieces(pieces, [&](Range piece, Rewrite& to) {
      for (std::size_t at = piece.begin, n; at < piece.end; at += n) {
        n = utf8_length(s[at]);
        for (std::size_t i = 0; i < n; ++i) to.put(byte_character(static_cast<unsigned char>(s[at + i])), i > 0);
      }
    });
  }
  Scanner scanner() const override { return regex_ && !prefix_ && !map_ ? split_->scanner() : nullptr; }

 private:
  bool prefix_, regex_, map_;
  PreTokenizerPtr split_;
};

bool is(char32_t c, std::uint32_t flag) { return (CharTable::get()[c] & flag) != 0; }

}  // namespace

PreTokenizerPtr make_split(std::shared_ptr<const Pattern> pattern, Behavior behavior, bool invert) {
  return std::make_unique<Split>(std::move(pattern), behavior, invert);
}
PreTokenizerPtr make_whitespace() { return std::make_unique<Whitespace>(); }
PreTokenizerPtr make_whitespace_split() {
  return make_character_split([](char32_t c) { return is(c, kWhite); }, Behavior::removed);
}
PreTokenizerPtr make_punctuation(Behavior behavior) {
  return make_character_split([](char32_t c) { return is(c, kPunctuation); }, behavior);
}
PreTokenizerPtr make_digits(bool individual) {
  return make_character_split([](char32_t c) { return is(c, kNumeric); },
                              individual ? Behavior::isolated : Behavior::contiguous, true);
}
PreTokenizerPtr make_char_delimiter(char32_t delimiter) {
  return make_character_split([delimiter](char32_t c) { return c == delimiter; }, Behavior::removed);
}
PreTokenizerPtr make_fixed_length(std::size_t characters) { return std::make_unique<FixedLength>(characters); }
PreTokenizerPtr make_unicode_scripts() { return std::make_unique<UnicodeScripts>(); }
PreTokenizerPtr make_metaspace(std::string replacement, PrependScheme scheme, bool split) {
  return std::make_unique<Metaspace>(std::move(replacement), scheme, split);
}
PreTokenizerPtr make_byte_level(bool add_prefix_space, bool use_regex, bool map_bytes) {
  return std::make_unique<ByteLevel>(add_prefix_space, use_regex, map_bytes);
}

}  // namespace metal_candle::io::tok
