// The normalizers of tokenizer.json: each makes a text into another.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "io/tokenizer/text.h"

namespace metal_candle::io::tok {

class Normalizer {
 public:
  virtual ~Normalizer() = default;
  virtual void apply(Text& text) const = 0;
  std::string operator()(std::string_view text) const {
    Text t(text, 0, false);
    apply(t);
    return std::string(t.view());
  }
};
using NormalizerPtr = std::unique_ptr<const Normalizer>;

enum class Form { nfc, nfd, nfkc, nfkd };
NormalizerPtr make_form(Form form);
NormalizerPtr make_lowercase();
NormalizerPtr make_strip(bool left, bool right);
NormalizerPtr make_strip_accents();
NormalizerPtr make_prepend(std::string text);
NormalizerPtr make_nmt();
NormalizerPtr make_byte_level_normalizer();
NormalizerPtr make_normalizer_sequence(std::vector<NormalizerPtr> steps);

class Pattern;
NormalizerPtr make_replace(std::shared_ptr<const Pattern> pattern, std::string content);

struct BertOptions {
  bool clean_text = true, handle_chinese_chars = true, strip_accents = true, lowercase = true;
};
NormalizerPtr make_bert_normalizer(BertOptions options);

/// SentencePiece's compiled rules: u32 size of the trie in bytes, the trie (a double array), the replacements, each
/// ending with NUL. Null if it is not that.
NormalizerPtr make_precompiled(std::string charsmap);

/// The character that stands for a byte in byte-level vocabularies, and back (-1 if it stands for none).
char32_t byte_character(unsigned char byte);
int character_byte(char32_t c);

}  // namespace metal_candle::io::tok
