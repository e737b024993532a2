// Added tokens: strings that are tokens before any model sees the text.
#pragma once

#include <map>
#include <string>
#include <string_view>
#include <unordered_set>
#include <vector>

#include "io/tokenizer/model.h"
#include "io/tokenizer/normalizers.h"
#include "io/tokenizer/trie.h"

namespace metal_candle::io::tok {

struct AddedToken {
  std::string content;
  bool single_word = false, lstrip = false, rstrip = false, normalized = false, special = false;
};

class AddedTokens {
 public:
  /// In the file's order. Ids are those of the vocabulary; what is not in it gets the next free one, as in the
  /// reference.
  void add(AddedToken token, const Vocabulary& vocabulary, const Normalizer* normalizer);
  /// The same with a given id.
  void add(AddedToken token, std::int32_t id, const Normalizer* normalizer);
  /// After the last one.
  void finish();

  struct Found {
    std::int32_t id;
    Range at;
  };
  /// The tokens in `text`, in order; of those with normalized = `normalized`. Without `special`, special ones are text.
  void find(std::string_view text, bool normalized, bool special, std::vector<Found>& out) const;
  bool any(bool normalized) const { return !tries_[normalized].empty(); }

  std::int32_t id(std::string_view content) const;
  /// What the id decodes to: for normalized tokens the normalized form. Null if it is no added token.
  const std::string* text(std::int32_t id) const;
  const AddedToken* token(std::int32_t id) const;
  bool special(std::string_view text) const { return special_.count(std::string(text)) > 0; }
  /// The largest id + 1.
  std::int32_t end() const { return end_; }

 private:
  struct Entry {
    AddedToken token;
    std::string shown;
  };
  std::map<std::int32_t, Entry> by_id_;  // of two that are shown alike the later one is found
  StringMap ids_;
  std::unordered_set<std::string> special_;
  Trie tries_[2];
  bool starts_[2][256] = {};
  std::int32_t end_ = 0;
};

}  // namespace metal_candle::io::tok
