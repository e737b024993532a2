// The words of JSON: strict scanning of one text, without recursion and without memory of its own. The tree's parser
// and readers of large regular texts (headers of tensor files) are written over it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>

namespace metal_candle::io {

/// A number as it was written: an int64, or the digits of a larger integer, or a finite real.
struct JsonNumber {
  enum class Kind { integer, wide, real } kind = Kind::integer;
  std::int64_t integer = 0;
  double real = 0;
  std::string_view text;
};

/// Where strings with escapes are decoded to: one block as long as the text, because decoding never lengthens, made
/// when the first such string is met.
class JsonArena {
 public:
  explicit JsonArena(std::size_t bytes) : bytes_(bytes) {}
  char* next() {
    if (!block_) block_ = std::make_unique_for_overwrite<char[]>(bytes_);
    return block_.get() + used_;
  }
  void use(std::size_t bytes) { used_ += bytes; }

 private:
  std::unique_ptr<char[]> block_;
  std::size_t bytes_, used_ = 0;
};

class JsonLexer {
 public:
  /// Text, origin and arena must outlive the lexer, text and arena also the strings it gives.
  /// `part` says in errors where in the file the text is, if it is not all of it.
  JsonLexer(std::string_view text, std::string_view origin, JsonArena& arena, std::string_view part = {});

  /// The next byte after white space, '\0' at the end (a NUL in the text is refused by whoever meets it).
  char peek();
  bool at_end() {
    peek();
    return next_ == end_;
  }
  /// Takes the byte if it is the next one.
  bool take(char wanted) {
    if (peek() != wanted || next_ == end_) return false;
    ++next_;
    return true;
  }
  void must(char wanted);
  /// After an element: true for a comma, false for the closing byte.
  bool more(char close);
  /// Takes "true", "false" or "null", whose first byte is next.
  void must_word(std::string_view word);
  /// A string, decoded.
  std::string_view string();
  JsonNumber number();

  std::size_t position() const { return static_cast<std::size_t>(next_ - begin_); }
  /// Throws a FileError that names line and column of the next byte.
  [[noreturn]] void fail(std::string_view expected);

 private:
  const char* skip_plain(const char* p) const;
  const char* check_utf8(const char* p);
  std::string_view escaped(const char* start, const char* p);
  const char* unescape(const char* p, char*& to);
  std::uint32_t hex4(const char* p);
  double real(std::string_view digits);

  const char *begin_, *next_, *end_;
  std::string_view origin_, part_;
  JsonArena& arena_;
};

/// Length of the valid UTF-8 sequence at p, 0 if there is none.
int utf8_length(const char* p, const char* end);
/// Writes a code point up to U+10FFFF; returns the end.
char* put_utf8(char* to, std::uint32_t code);
/// The text in quotes for an error: cut at 60 bytes, control characters and broken UTF-8 escaped.
std::string in_quotes(std::string_view text);

}  // namespace metal_candle::io
