// WordPiece, WordLevel and Unigram.
#include <algorithm>
#include <limits>

#include "io/tokenizer/model.h"
#include "io/tokenizer/trie.h"
#include "metal_candle/error.hpp"

namespace metal_candle::io::tok {
namespace {

[[noreturn]] void no_unknown(const std::string& name) {
  throw UserError(ErrorKind::argument, "the text has a word that the vocabulary lacks, and the unknown token \"" +
                                           name + "\" is not in the vocabulary either");
}

Range whole(std::string_view word) { return {0, static_cast<std::uint32_t>(word.size())}; }

class WordPiece final : public Model {
 public:
  WordPiece(Vocabulary vocabulary, WordPieceOptions options) : Model(std::move(vocabulary)), on_(std::move(options)) {
    for (std::int32_t id = 0; id < vocabulary_.end(); ++id) {
      const std::string* token = vocabulary_.token(id);
      if (token && vocabulary_.find(*token) == id) trie_.add(*token, id);
    }
    unknown_ = vocabulary_.find(on_.unknown);
    inside_ = trie_.walk(Trie::kRoot, on_.prefix);
  }

  void tokenize(std::string_view word, ModelScratch&, std::vector<Token>& out) const override {
    const std::size_t first = out.size();
    if (word.size() <= on_.max_characters || utf8_count(word) <= on_.max_characters) {
      std::uint32_t at = 0;
      while (at < word.size()) {
        std::uint32_t end = at;
        const std::int32_t id = longest(word, at > 0, end);
        if (id == kNoToken) break;
        out.push_back({id, {at, end}});
        at = end;
      }
      if (at == word.size()) return;
      out.resize(first);
    }
    if (unknown_ == kNoToken) no_unknown(on_.unknown);
    out.push_back({unknown_, whole(word)});
  }

 private:
  std::int32_t longest(std::string_view word, bool inside, std::uint32_t& end) const {
    std::uint32_t node = inside ? inside_ : Trie::kRoot;
    std::int32_t best = kNoToken;
    for (auto i = end; i < word.size() && node != Trie::kNone;) {
      node = trie_.step(node, word[i++]);
      if (node == Trie::kNone) break;
      if (const std::int32_t id = trie_.value(node); id != kNoToken) {
        best = id;
        end = i;
      }
    }
    return best;
  }

  WordPieceOptions on_;
  Trie trie_;
  std::int32_t unknown_;
  std::uint32_t inside_;
};

class WordLevel final : public Model {
 public:
  WordLevel(Vocabulary vocabulary, std::string unknown)
      : Model(std::move(vocabulary)), name_(std::move(unknown)), unknown_(vocabulary_.find(name_)) {}

  void tokenize(std::string_view word, ModelScratch&, std::vector<Token>& out) const override {
    std::int32_t id = vocabulary_.find(word);
    if (id == kNoToken) id = unknown_;
    if (id == kNoToken) no_unknown(name_);
    out.push_back({id, whole(word)});
  }

 private:
  std::string name_;
  std::int32_t unknown_;
};

/// The most probable segmentation, found front to back; of equals the one found first.
class Unigram final : public Model {
 public:
  Unigram(Vocabulary vocabulary, std::vector<double> scores, std::int32_t unknown, bool byte_fallback)
      : Model(std::move(vocabulary)), scores_(std::move(scores)), unknown_(unknown), byte_fallback_(byte_fallback) {
    double least = std::numeric_limits<double>::infinity();
    for (std::int32_t id = 0; id < vocabulary_.end(); ++id) {
      least = std::min(least, scores_[id]);
      // Of equal tokens the last one counts.
      trie_.add(*vocabulary_.token(id), id);
    }
    unknown_score_ = least - 10.0;
    for (unsigned b = 0; b < 256; ++b) {
      const std::string name = std::string("<0x") + "0123456789ABCDEF"[b >> 4] + "0123456789ABCDEF"[b & 15] + '>';
      byte_ids_[b] = vocabulary_.find(name);
    }
  }

  void tokenize(std::string_view word, ModelScratch& scratch, std::vector<Token>& out) const override {
    search(word, scratch.nodes);
    const std::size_t first = out.size();
    auto end = static_cast<std::uint32_t>(word.size());
    while (end > 0) {
      std::uint32_t begin = scratch.nodes[end].begin;
      const std::int32_t id = scratch.nodes[end].id;
      if (id != unknown_) {
        out.push_back({id, {begin, end}});
      } else {
        while (begin > 0 && scratch.nodes[begin].id == unknown_) begin = scratch.nodes[begin].begin;
        add_unknown(word, {begin, end}, out);
      }
      end = begin;
    }
    std::reverse(out.begin() + static_cast<std::ptrdiff_t>(first), out.end());
  }

 private:
  void search(std::string_view word, std::vector<ModelScratch::Node>& nodes) const {
    constexpr std::uint32_t kUnset = 0xFFFFFFFF;
    nodes.assign(word.size() + 1, {0.0, kUnset, 0});
    const auto offer = [&](std::uint32_t begin, std::uint32_t end, double score, std::int32_t id) {
      ModelScratch::Node& n = nodes[end];
      const double total = score + nodes[begin].score;
      if (n.begin == kUnset || total > n.score) n = {total, begin, id};
    };
    for (std::uint32_t at = 0; at < word.size();) {
      const auto step = static_cast<std::uint32_t>(utf8_length(word[at]));
      bool single = false;
      std::uint32_t node = Trie::kRoot;
      for (std::uint32_t i = at; i < word.size();) {
        node = trie_.step(node, word[i++]);
        if (node == Trie::kNone) break;
        const std::int32_t id = trie_.value(node);
        if (id == kNoToken) continue;
        offer(at, i, scores_[id], id);
        single |= i - at == step;
      }
      if (!single) {
        if (unknown_ == kNoToken)
          throw UserError(ErrorKind::argument,
                          "the text has a character that the vocabulary lacks, and it has no unknown "
                          "token (unk_id)");
        offer(at, at + step, unknown_score_, unknown_);
      }
      at += step;
    }
  }

  /// Appends back to front, like everything here.
  void add_unknown(std::string_view word, Range at, std::vector<Token>& out) const {
    const std::string_view text = word.substr(at.begin, at.size());
    std::int32_t id = vocabulary_.find(text);
    const auto byte_id = [this](char c) { return byte_ids_[static_cast<unsigned char>(c)]; };
    if (id == kNoToken && byte_fallback_ &&
        std::all_of(text.begin(), text.end(), [&](char c) { return byte_id(c) != kNoToken; })) {
      for (std::size_t i = text.size(); i-- > 0;) out.push_back({byte_id(text[i]), at});
      return;
    }
    out.push_back({id == kNoToken ? unknown_ : id, at});
  }

  std::vector<double> scores_;
  Trie trie_;
  std::int32_t unknown_;
  bool byte_fallback_;
  double unknown_score_;
  std::int32_t byte_ids_[256];
};

}  // namespace

ModelPtr make_word_piece(Vocabulary vocabulary, WordPieceOptions options) {
  return std::make_unique<WordPiece>(std::move(vocabulary), std::move(options));
}
ModelPtr make_word_level(Vocabulary vocabulary, std::string unknown) {
  return std::make_unique<WordLevel>(std::move(vocabulary), std::move(unknown));
}
ModelPtr make_unigram(Vocabulary vocabulary, std::vector<double> scores, std::int32_t unknown, bool byte_fallback) {
  return std::make_unique<Unigram>(std::move(vocabulary), std::move(scores), unknown, byte_fallback);
}

}  // namespace metal_candle::io::tok
