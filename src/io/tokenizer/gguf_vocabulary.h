// The vocabulary in a GGUF file, checked.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "io/tokenizer/model.h"
#include "metal_candle/gguf.hpp"

namespace metal_candle::io::tok {

enum GgufTokenType : std::int64_t { kNormalToken = 1, kUnknownToken, kControlToken, kUserToken };

/// How a named pre-tokenizer cuts: by patterns, each isolating its matches in what the ones before left.
struct GgufCut {
  std::vector<std::string_view> names;
  std::vector<const char*> patterns;
  bool nfc = false, ignore_merges = false, adds_first = false;
};
/// Among the patterns: each number by itself.
inline constexpr const char* kEachNumber = R"(\p{N})";

struct GgufVocabulary {
  const Gguf& file;
  bool sentence_piece = false;  // else byte-level BPE
  std::vector<std::string_view> tokens;
  std::vector<std::int64_t> types;

  explicit GgufVocabulary(const Gguf& file);
  bool flag(const char* key, bool absent) const;
  std::optional<std::int32_t> id(const char* key) const;
  bool special(std::size_t i) const { return types[i] == kUnknownToken || types[i] == kControlToken; }
  /// Recognised in the text before all else.
  bool added(std::size_t i) const { return special(i) || types[i] == kUserToken; }
  /// What stands before and after each text.
  std::optional<std::int32_t> first() const;
  std::optional<std::int32_t> last() const;
  bool space_prefix() const { return flag("tokenizer.ggml.add_space_prefix", true); }
  std::int32_t unknown() const { return id("tokenizer.ggml.unknown_token_id").value_or(0); }

  const GgufCut& cut() const;
  Vocabulary vocabulary() const;
  /// In the order of their ranks. Those of SentencePiece follow from the scores: any two tokens that make a third may
  /// merge; the better the third one's score, the sooner.
  std::vector<Merge> merges(const Vocabulary& vocabulary) const;
};

}  // namespace metal_candle::io::tok
