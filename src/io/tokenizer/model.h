// The models of tokenizer.json: each makes a word (a piece of text after pre-tokenization) into tokens.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "io/tokenizer/text.h"
#include "io/tokenizer/vocabulary.h"

namespace metal_candle::io::tok {

/// A token of a word: its id, and the bytes it stands for.
struct Token {
  std::int32_t id;
  Range at;
};

/// What a model needs while it works, kept from word to word.
struct ModelScratch {
  struct Symbol {
    std::int32_t id;
    std::uint32_t length;  // in bytes; 0 once it is part of the one before
    std::uint32_t rank;    // of the merge with the next one
    std::int32_t to;       // what that makes
    std::uint32_t prev, next;
  };
  struct Node {
    double score;
    std::uint32_t begin;
    std::int32_t id;
  };
  std::vector<Symbol> symbols;
  std::vector<std::uint64_t> heap;
  std::vector<Node> nodes;
  std::string text;
};

class Model {
 public:
  virtual ~Model() = default;
  /// Appends the tokens of `word`, which is not empty. Throws UserError if it cannot be said (no unknown token).
  virtual void tokenize(std::string_view word, ModelScratch& scratch, std::vector<Token>& out) const = 0;
  const Vocabulary& vocabulary() const { return vocabulary_; }
  /// Where a long text may be cut without changing its tokens: before this character, if another one precedes it.
  /// Empty if nowhere.
  virtual std::string_view safe_cut() const { return {}; }

 protected:
  explicit Model(Vocabulary vocabulary) : vocabulary_(std::move(vocabulary)) {}
  Vocabulary vocabulary_;
};
using ModelPtr = std::unique_ptr<const Model>;

struct Merge {
  std::int32_t left, right, to;
  std::uint32_t rank;
};
struct BpeOptions {
  std::int32_t unknown = kNoToken;
  /// A name for the unknown token that no token has: meeting an unknown character is an error.
  std::string missing_unknown;
  std::string prefix, suffix;  // continuing_subword_prefix, end_of_word_suffix
  bool fuse_unknown = false, byte_fallback = false, ignore_merges = false;
  /// Words come as bytes; tokens are spelled in byte characters.
  bool bytes = false;
};
ModelPtr make_bpe(Vocabulary vocabulary, const std::vector<Merge>& merges, BpeOptions options);

struct WordPieceOptions {
  std::string unknown = "[UNK]", prefix = "##";
  std::size_t max_characters = 100;
};
ModelPtr make_word_piece(Vocabulary vocabulary, WordPieceOptions options);
ModelPtr make_word_level(Vocabulary vocabulary, std::string unknown);

/// scores[id]; `unknown` may be kNoToken.
ModelPtr make_unigram(Vocabulary vocabulary, std::vector<double> scores, std::int32_t unknown, bool byte_fallback);

}  // namespace metal_candle::io::tok
