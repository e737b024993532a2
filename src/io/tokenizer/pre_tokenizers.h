// The pre-tokenizers of tokenizer.json: each cuts the pieces of a text into smaller ones.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "io/tokenizer/pattern.h"
#include "io/tokenizer/text.h"

namespace metal_candle::io::tok {

class PreTokenizer {
 public:
  virtual ~PreTokenizer() = default;
  virtual void apply(Pieces& pieces) const = 0;
  /// Not null: the same as isolating this scanner's matches, with the text unchanged.
  virtual Scanner scanner() const { return nullptr; }
  /// Isolates each number character.
  virtual bool isolates_numbers() const { return false; }
  /// Asks for the origin of pieces.
  virtual bool needs_sources() const { return false; }
};
using PreTokenizerPtr = std::unique_ptr<const PreTokenizer>;

enum class Behavior { removed, isolated, merged_with_previous, merged_with_next, contiguous };

PreTokenizerPtr make_split(std::shared_ptr<const Pattern> pattern, Behavior behavior, bool invert);
/// \w+|[^\w\s]+
PreTokenizerPtr make_whitespace();
PreTokenizerPtr make_whitespace_split();
PreTokenizerPtr make_punctuation(Behavior behavior);
PreTokenizerPtr make_digits(bool individual);
PreTokenizerPtr make_char_delimiter(char32_t delimiter);
PreTokenizerPtr make_fixed_length(std::size_t characters);
/// Where the script changes; what is of none goes with what is before it, and is dropped in front.
PreTokenizerPtr make_unicode_scripts();

enum class PrependScheme { first, never, always };
PreTokenizerPtr make_metaspace(std::string replacement, PrependScheme scheme, bool split);

/// `map_bytes`: spells each byte as its character; without, words stay bytes for a model that wants them.
PreTokenizerPtr make_byte_level(bool add_prefix_space, bool use_regex, bool map_bytes);

}  // namespace metal_candle::io::tok
