#include "io/tokenizer/decoders.h"

#include <algorithm>

#include "io/tokenizer/normalizers.h"
#include "io/tokenizer/utf8.h"

namespace metal_candle::io::tok {
namespace {

std::string replaced(std::string_view s, std::string_view from, std::string_view to) {
  std::string out;
  if (from.empty()) {
    // Everywhere between characters, as string replacement has it.
    out += to;
    for (std::size_t i = 0, n; i < s.size(); i += n) {
      n = utf8_length(s[i]);
      out.append(s.substr(i, n)).append(to);
    }
    return out;
  }
  std::size_t done = 0;
  for (std::size_t at; (at = s.find(from, done)) != std::string_view::npos; done = at + from.size())
    out.append(s.substr(done, at - done)).append(to);
  return out.append(s.substr(done));
}

/// The reference's cleaning of English; " do not" becomes " don't" too.
std::string cleaned(std::string s) {
  constexpr std::pair<std::string_view, std::string_view> kRules[] = {
      {" .", "."},   {" ?", "?"},           {" !", "!"},   {" ,", ","},     {" ' ", "'"},    {" n't", "n't"},
      {" 'm", "'m"}, {" do not", " don't"}, {" 's", "'s"}, {" 've", "'ve"}, {" 're", "'re"},
  };
  for (const auto& [from, to] : kRules) {
    if (s.find(from) != std::string::npos) s = replaced(s, from, to);
  }
  return s;
}

template <class Self>
class CopiedStage : public DecodeStage {
 public:
  std::unique_ptr<DecodeStage> copy() const final { return std::make_unique<Self>(static_cast<const Self&>(*this)); }
};

/// Applies a function to each token; with fragments, to all of them together at the end.
template <class F>
class MapStage final : public CopiedStage<MapStage<F>> {
 public:
  MapStage(F f, bool joined) : f_(std::move(f)), joined_(joined) {}
  void token(std::string_view text) override {
    if (joined_) {
      all_ += text;
    } else {
      this->next_->token(f_(text));
    }
  }
  void finish() override {
    if (joined_) this->next_->token(f_(all_));
    this->next_->finish();
  }

 private:
  F f_;
  bool joined_;
  std::string all_;
};
template <class F>
std::unique_ptr<DecodeStage> map_stage(F f, bool joined) {
  return std::make_unique<MapStage<F>>(std::move(f), joined);
}

/// Bytes to text: holds the beginning of a character until its end comes, and mends what goes nowhere.
class Bytes {
 public:
  void push(std::string_view bytes, std::string& out) {
    pending_ += bytes;
    drain(out, false);
  }
  void finish(std::string& out) { drain(out, true); }

 private:
  void drain(std::string& out, bool end) {
    std::string_view rest = pending_;
    while (!rest.empty()) {
      const std::size_t good = utf8_valid_prefix(rest);
      out.append(rest.substr(0, good));
      rest.remove_prefix(good);
      if (rest.empty()) break;
      const Utf8Step step = utf8_step(rest.data(), rest.data() + rest.size());
      if (step.cut && !end) break;
      out += kReplacement;
      rest.remove_prefix(step.size);
    }
    pending_.erase(0, pending_.size() - rest.size());
  }
  std::string pending_;
};

class ByteLevelStage final : public CopiedStage<ByteLevelStage> {
 public:
  explicit ByteLevelStage(bool joined) : joined_(joined) {}
  void token(std::string_view text) override {
    if (joined_) {
      all_ += text;
      return;
    }
    write(text);
  }
  void finish() override {
    if (joined_) write(all_);
    text_.clear();
    bytes_.finish(text_);
    next_->token(text_);
    next_->finish();
  }

 private:
  void write(std::string_view token) {
    spelled_.clear();
    for (std::size_t i = 0; i < token.size(); i += utf8_length(token[i])) {
      const int b = character_byte(utf8_at(token.data() + i));
      if (b < 0) {  // no byte-level token: it stands for itself
        spelled_ = token;
        break;
      }
      spelled_.push_back(static_cast<char>(b));
    }
    text_.clear();
    bytes_.push(spelled_, text_);
    if (!text_.empty()) next_->token(text_);
  }
  bool joined_;
  Bytes bytes_;
  std::string all_, spelled_, text_;
};

class ByteLevelDecoder final : public Decoder {
 public:
  std::unique_ptr<DecodeStage> start(bool joined) const override { return std::make_unique<ByteLevelStage>(joined); }
  bool joins() const override { return true; }
};

class WordPieceDecoder final : public Decoder {
 public:
  WordPieceDecoder(std::string prefix, bool cleanup) : prefix_(std::move(prefix)), cleanup_(cleanup) {}
  std::unique_ptr<DecodeStage> start(bool joined) const override {
    return map_stage(
        [this, first = true](std::string_view token) mutable {
          std::string s;
          if (first) {
            s = token;
          } else if (token.starts_with(prefix_)) {
            s = token.substr(prefix_.size());
          } else {
            s.append(" ").append(token);
          }
          first = false;
          return cleanup_ ? cleaned(std::move(s)) : s;
        },
        joined);
  }

 private:
  std::string prefix_;
  bool cleanup_;
};

class MetaspaceDecoder final : public Decoder {
 public:
  MetaspaceDecoder(std::string replacement, bool drops_first)
      : replacement_(std::move(replacement)), drops_first_(drops_first) {}
  std::unique_ptr<DecodeStage> start(bool joined) const override {
    return map_stage(
        [this, first = true](std::string_view token) mutable {
          std::string s = replaced(token, replacement_, first && drops_first_ ? "" : " ");
          first = false;
          return s;
        },
        joined);
  }

 private:
  std::string replacement_;
  bool drops_first_;
};

/// A run of byte tokens is text if all of it is valid, else a U+FFFD for each; so it must be waited for.
class ByteFallbackStage final : public CopiedStage<ByteFallbackStage> {
 public:
  void token(std::string_view text) override {
    if (const int b = byte(text); b >= 0) {
      run_.push_back(static_cast<char>(b));
      return;
    }
    flush();
    next_->token(text);
  }
  void finish() override {
    flush();
    next_->finish();
  }

 private:
  static int byte(std::string_view t) {
    if (t.size() != 6 || !t.starts_with("<0x") || t[5] != '>') return -1;
    const auto digit = [](char c) {
      return c >= '0' && c <= '9'   ? c - '0'
             : c >= 'a' && c <= 'f' ? c - 'a' + 10
             : c >= 'A' && c <= 'F' ? c - 'A' + 10
                                    : -1;
    };
    // The reference parses a number, so a sign may lead it.
    if (t[3] == '+') return digit(t[4]);
    return digit(t[3]) < 0 || digit(t[4]) < 0 ? -1 : digit(t[3]) * 16 + digit(t[4]);
  }
  void flush() {
    if (run_.empty()) return;
    if (utf8_valid(run_)) {
      next_->token(run_);
    } else {
      for (std::size_t i = 0; i < run_.size(); ++i) next_->token(kReplacement);
    }
    run_.clear();
  }
  std::string run_;
};

class ByteFallbackDecoder final : public Decoder {
 public:
  std::unique_ptr<DecodeStage> start(bool joined) const override {
    if (joined) {
      return map_stage([](std::string_view s) { return std::string(s); }, false);
    }
    return std::make_unique<ByteFallbackStage>();
  }
};

/// The suffix is a space, but nothing in the last token: each token waits for the next.
class BpeStage final : public CopiedStage<BpeStage> {
 public:
  BpeStage(const std::string& suffix, bool joined) : suffix_(suffix), joined_(joined) {}
  void token(std::string_view text) override {
    if (has_ && !joined_) next_->token(replaced(held_, suffix_, " "));
    if (!joined_) held_.clear();
    held_ += text;
    has_ = true;
  }
  void finish() override {
    if (has_) next_->token(replaced(held_, suffix_, ""));
    next_->finish();
  }

 private:
  const std::string& suffix_;
  bool joined_, has_ = false;
  std::string held_;
};

class BpeDecoder final : public Decoder {
 public:
  explicit BpeDecoder(std::string suffix) : suffix_(std::move(suffix)) {}
  std::unique_ptr<DecodeStage> start(bool joined) const override { return std::make_unique<BpeStage>(suffix_, joined); }

 private:
  std::string suffix_;
};

class FuseDecoder final : public Decoder {
 public:
  std::unique_ptr<DecodeStage> start(bool) const override {
    return map_stage([](std::string_view s) { return s; }, false);
  }
  bool joins() const override { return true; }
};

/// Cuts up to so many `content` from the ends of a token. A token that is made of nothing else loses all of them.
std::string_view stripped(std::string_view s, std::string_view content, std::size_t start, std::size_t stop) {
  while (start-- > 0 && s.starts_with(content)) s.remove_prefix(content.size());
  while (stop-- > 0 && s.ends_with(content)) s.remove_suffix(content.size());
  return s;
}

/// The same for fragments of one token: the beginning is cut as it comes, what could be the end is held back.
class StripStage final : public CopiedStage<StripStage> {
 public:
  StripStage(const std::string& content, std::size_t start, std::size_t stop)
      : content_(content), start_(start), stop_(stop) {}
  void token(std::string_view text) override {
    held_ += text;
    while (start_ > 0 && !held_.empty()) {
      if (std::string_view(held_).starts_with(content_)) {
        held_.erase(0, content_.size());
        --start_;
      } else if (std::string_view(content_).starts_with(held_)) {
        return;  // could become one
      } else {
        start_ = 0;
      }
    }
    std::size_t tail = held_.size();
    for (std::size_t k = 0; k < stop_ && std::string_view(held_).substr(0, tail).ends_with(content_); ++k)
      tail -= content_.size();
    if (tail > 0) next_->token(std::string_view(held_).substr(0, tail));
    held_.erase(0, tail);
  }
  void finish() override {
    next_->token(stripped(held_, content_, 0, stop_));
    next_->finish();
  }

 private:
  const std::string& content_;
  std::size_t start_, stop_;
  std::string held_;
};

class StripDecoder final : public Decoder {
 public:
  StripDecoder(char32_t content, std::size_t start, std::size_t stop) : start_(start), stop_(stop) {
    utf8_append(content_, content);
  }
  std::unique_ptr<DecodeStage> start(bool joined) const override {
    if (joined) return std::make_unique<StripStage>(content_, start_, stop_);
    return map_stage([this](std::string_view s) { return stripped(s, content_, start_, stop_); }, false);
  }

 private:
  std::string content_;
  std::size_t start_, stop_;
};

class ReplaceDecoder final : public Decoder {
 public:
  ReplaceDecoder(std::shared_ptr<const Pattern> pattern, std::string content)
      : pattern_(std::move(pattern)), content_(std::move(content)) {}
  std::unique_ptr<DecodeStage> start(bool joined) const override {
    return map_stage(
        [this](std::string_view token) {
          std::string s;
          Matches matches(*pattern_, token);
          std::uint32_t done = 0;
          // An empty token has no matches, not even of an empty pattern.
          for (Range m; !token.empty() && matches.next(m); done = m.end)
            s.append(token.substr(done, m.begin - done)).append(content_);
          return s.append(token.substr(done));
        },
        joined);
  }

 private:
  std::shared_ptr<const Pattern> pattern_;
  std::string content_;
};

class CtcStage final : public CopiedStage<CtcStage> {
 public:
  CtcStage(const std::string& pad, const std::string& delimiter, bool cleanup)
      : pad_(pad), delimiter_(delimiter), cleanup_(cleanup) {}
  void token(std::string_view text) override {
    if (any_ && text == last_) return;
    last_ = text;
    any_ = true;
    std::string s = replaced(text, pad_, "");
    if (cleanup_) s = replaced(cleaned(std::move(s)), delimiter_, " ");
    if (!s.empty()) next_->token(s);
  }

 private:
  const std::string &pad_, &delimiter_;
  bool cleanup_, any_ = false;
  std::string last_;
};

class CtcDecoder final : public Decoder {
 public:
  CtcDecoder(std::string pad, std::string delimiter, bool cleanup)
      : pad_(std::move(pad)), delimiter_(std::move(delimiter)), cleanup_(cleanup) {}
  std::unique_ptr<DecodeStage> start(bool joined) const override {
    if (!joined) return std::make_unique<CtcStage>(pad_, delimiter_, cleanup_);
    return map_stage(
        [this](std::string_view text) {
          const std::string s = replaced(text, pad_, "");
          return cleanup_ ? replaced(cleaned(s), delimiter_, " ") : s;
        },
        true);
  }

 private:
  std::string pad_, delimiter_;
  bool cleanup_;
};

class SpaceDecoder final : public Decoder {
 public:
  std::unique_ptr<DecodeStage> start(bool joined) const override {
    return map_stage(
        [first = true](std::string_view token) mutable {
          std::string s = first ? "" : " ";
          first = false;
          return s.append(token);
        },
        joined);
  }
};

}  // namespace

DecoderPtr make_byte_level_decoder() { return std::make_unique<ByteLevelDecoder>(); }
DecoderPtr make_word_piece_decoder(std::string prefix, bool cleanup) {
  return std::make_unique<WordPieceDecoder>(std::move(prefix), cleanup);
}
DecoderPtr make_metaspace_decoder(std::string replacement, bool drops_first) {
  return std::make_unique<MetaspaceDecoder>(std::move(replacement), drops_first);
}
DecoderPtr make_byte_fallback_decoder() { return std::make_unique<ByteFallbackDecoder>(); }
DecoderPtr make_bpe_decoder(std::string suffix) { return std::make_unique<BpeDecoder>(std::move(suffix)); }
DecoderPtr make_fuse_decoder() { return std::make_unique<FuseDecoder>(); }
DecoderPtr make_strip_decoder(char32_t content, std::size_t start, std::size_t stop) {
  return std::make_unique<StripDecoder>(content, start, stop);
}
DecoderPtr make_replace_decoder(std::shared_ptr<const Pattern> pattern, std::string content) {
  return std::make_unique<ReplaceDecoder>(std::move(pattern), std::move(content));
}
DecoderPtr make_ctc_decoder(std::string pad, std::string delimiter, bool cleanup) {
  return std::make_unique<CtcDecoder>(std::move(pad), std::move(delimiter), cleanup);
}
DecoderPtr make_space_decoder() { return std::make_unique<SpaceDecoder>(); }

DecodeChain::DecodeChain(const std::vector<DecoderPtr>& decoders) {
  bool joined = false;
  for (const DecoderPtr& d : decoders) {
    stages_.push_back(d->start(joined));
    joined |= d->joins();
  }
  link();
}

DecodeChain::DecodeChain(const DecodeChain& other) : out(other.out) {
  for (const auto& stage : other.stages_) stages_.push_back(stage->copy());
  link();
}

void DecodeChain::link() {
  for (std::size_t i = 0; i < stages_.size(); ++i)
    stages_[i]->to(i + 1 < stages_.size() ? static_cast<TokenSink*>(stages_[i + 1].get()) : this);
  if (!stages_.empty()) first_ = stages_[0].get();
}

}  // namespace metal_candle::io::tok
