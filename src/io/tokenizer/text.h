// A text on its way to tokens: what normalization has made of it and, where that is asked for, which bytes of the
// original each byte came from.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "io/tokenizer/utf8.h"

namespace metal_candle::io::tok {

/// A range of bytes.
struct Range {
  std::uint32_t begin, end;
  std::uint32_t size() const { return end - begin; }
};

/// Valid UTF-8. Either a view of the original (it starts there at `origin`), or a text of its own; the latter has the
/// range of the original character for each byte if `tracked`.
class Text {
 public:
  Text() = default;
  Text(std::string_view original, std::uint32_t origin, bool tracked)
      : view_(original), origin_(origin), tracked_(tracked) {}
  Text(Text&& other) noexcept { *this = std::move(other); }
  Text& operator=(Text&& other) noexcept;

  std::string_view view() const { return view_; }
  bool tracked() const { return tracked_; }
  /// The original's bytes that the (not empty) range came from. Only if tracked or still a view of the original.
  Range source(Range range) const;
  /// The part of this text, as a view that must not outlive it.
  Text part(Range range) const;

 private:
  friend class Rewrite;
  std::string_view view_;
  std::uint32_t origin_ = 0;
  bool tracked_ = false, owned_ = false;
  std::string own_;
  const Range* sources_ = nullptr;  // of view_, null while it is the original
  std::vector<Range> own_sources_;
};

/// Makes a new text out of an old one, front to back.
class Rewrite {
 public:
  explicit Rewrite(const Text& from);
  /// As a source: no byte, but the place before the first one.
  static constexpr std::size_t kBeginning = ~std::size_t{0};
  /// Goes on reading at `at`.
  void seek(std::size_t at) { at_ = at; }
  std::size_t position() const { return at_; }
  std::size_t written() const { return out_.size(); }

  /// Copies up to `end`.
  void keep(std::size_t end);
  void skip(std::size_t bytes) { at_ += bytes; }
  /// Writes `c`. change 0: for the character read next; above: besides the one before; below: for the next and -change
  /// more.
  void put(char32_t c, int change);
  /// Writes what came from where the byte `source` came from.
  void insert(std::string_view text, std::size_t source);
  Text done() &&;

 private:
  Range source_at(std::size_t at) const;
  /// Ranges are 32 bits.
  void check() const;
  const Text& from_;
  std::size_t at_ = 0;
  std::string out_;
  std::vector<Range> sources_;
};

/// A text cut in pieces.
struct Pieces {
  Text text;
  std::vector<Range> ranges;  // in order, none empty
};

}  // namespace metal_candle::io::tok
