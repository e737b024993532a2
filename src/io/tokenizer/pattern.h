// Patterns of tokenizer.json: a literal, or a regular expression in the dialect of the reference's engine (Oniguruma).
// The expressions of the well-known byte-level tokenizers have scanners written by hand; others are translated and run
// by PCRE2.
#pragma once

#include <memory>
#include <stdexcept>
#include <string>
#include <string_view>

#include "io/tokenizer/scanners.h"
#include "io/tokenizer/text.h"

namespace metal_candle::io::tok {

/// An expression that is wrong or that cannot be translated; the loader adds where it stood.
class PatternError : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

class Pattern {
 public:
  virtual ~Pattern() = default;
  /// The first match at or after `from`, a boundary. Text before it is context.
  virtual bool find(std::string_view text, std::size_t from, Range& match) const = 0;
  /// If not null: each match begins where the one before ended, and this finds its end.
  virtual Scanner scanner() const { return nullptr; }
};

std::shared_ptr<const Pattern> make_literal(std::string text);
/// Throws PatternError.
std::shared_ptr<const Pattern> make_regex(const std::string& expression);

/// The expression for PCRE2 that matches what `expression` matches in the reference. Throws PatternError.
std::string translate_regex(const std::string& expression);

/// All matches, one after the other. An empty match right after another match does not count.
class Matches {
 public:
  Matches(const Pattern& pattern, std::string_view text) : pattern_(pattern), text_(text) {}
  bool next(Range& match);

 private:
  const Pattern& pattern_;
  std::string_view text_;
  std::size_t from_ = 0;
  std::size_t last_end_ = std::string_view::npos;
};

}  // namespace metal_candle::io::tok
