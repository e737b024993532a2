// Byte pair encoding: of all neighbours that have a merge, the one of lowest rank is merged, the leftmost first, until
// there is none. Short words are searched anew for each merge; long ones keep a heap, so that time stays n log n.
#include <algorithm>
#include <array>
#include <bit>
#include <functional>

#include "io/tokenizer/model.h"
#include "io/tokenizer/normalizers.h"
#include "metal_candle/error.hpp"

namespace metal_candle::io::tok {
namespace {

using Symbol = ModelScratch::Symbol;
constexpr std::uint32_t kNoRank = 0xFFFFFFFF, kNowhere = 0xFFFFFFFF;
constexpr std::size_t kShort = 40;

class MergeTable {
 public:
  explicit MergeTable(const std::vector<Merge>& merges) {
    slots_.assign(std::bit_ceil(std::max<std::size_t>(16, merges.size() * 2)), {kFree, kNoRank, kNoToken});
    mask_ = slots_.size() - 1;
    for (const Merge& m : merges) {
      const std::uint64_t k = key(m.left, m.right);
      std::uint64_t at = start(k);
      while (slots_[at].key != kFree && slots_[at].key != k) at = (at + 1) & mask_;
      slots_[at] = {k, m.rank, m.to};
    }
  }
  /// Sets rank and result of the merge of `a` with the id `right`.
  void look_up(Symbol& a, std::int32_t right) const {
    const std::uint64_t k = key(a.id, right);
    std::uint64_t at = start(k);
    while (slots_[at].key != k && slots_[at].key != kFree) at = (at + 1) & mask_;
    const Slot& s = slots_[at];
    a.rank = s.rank;
    a.to = s.to;
  }

 private:
  struct Slot {
    std::uint64_t key;
    std::uint32_t rank;
    std::int32_t to;
  };
  static constexpr std::uint64_t kFree = ~std::uint64_t{0};
  static std::uint64_t key(std::int32_t left, std::int32_t right) {
    return static_cast<std::uint64_t>(static_cast<std::uint32_t>(left)) << 32 | static_cast<std::uint32_t>(right);
  }
  std::uint64_t start(std::uint64_t k) const {
    k *= 0x9E3779B97F4A7C15u;
    return (k ^ k >> 32) & mask_;
  }
  std::vector<Slot> slots_;
  std::uint64_t mask_;
};

class Bpe final : public Model {
 public:
  Bpe(Vocabulary vocabulary, const std::vector<Merge>& merges, BpeOptions options)
      : Model(std::move(vocabulary)), merges_(merges), on_(std::move(options)) {
    for (unsigned b = 0; b < 256; ++b) {
      std::string c;
      if (on_.bytes) {
        utf8_append(c, byte_character(static_cast<unsigned char>(b)));
      } else {
        c = std::string("<0x") + "0123456789ABCDEF"[b >> 4] + "0123456789ABCDEF"[b & 15] + '>';
      }
      byte_ids_[b] = vocabulary_.find(c);
    }
    if (on_.bytes && on_.ignore_merges) index_bytes();
    if (!on_.bytes) find_safe_cut(merges);
  }

  void tokenize(std::string_view word, ModelScratch& scratch, std::vector<Token>& out) const override {
    if (on_.ignore_merges) {
      const std::int32_t id = on_.bytes ? whole_.find(word) : vocabulary_.find(word);
      if (id != kNoToken) {
        out.push_back({id, {0, static_cast<std::uint32_t>(word.size())}});
        return;
      }
    }
    std::vector<Symbol>& symbols = scratch.symbols;
    symbols.clear();
    if (on_.bytes) {
      begin_with_bytes(word, symbols);
    } else {
      begin_with_characters(word, scratch);
    }
    if (symbols.size() <= kShort) {
      merge_short(symbols);
    } else {
      merge_long(symbols, scratch.heap);
    }
    std::uint32_t at = 0;
    for (const Symbol& s : symbols) {
      if (s.length == 0) continue;
      out.push_back({s.id, {at, at + s.length}});
      at += s.length;
    }
  }

  std::string_view safe_cut() const override { return safe_cut_; }

 private:
  /// The tokens spelled in byte characters, by the bytes they stand for.
  void index_bytes() {
    whole_.reserve(vocabulary_.count(), vocabulary_.count() * 8);
    std::string bytes;
    for (std::int32_t id = 0; id < vocabulary_.end(); ++id) {
      const std::string* token = vocabulary_.token(id);
      if (!token || vocabulary_.find(*token) != id) continue;
      bytes.clear();
      bool all = true;
      for (std::size_t i = 0; all && i < token->size(); i += utf8_length((*token)[i])) {
        const int b = character_byte(utf8_at(token->data() + i));
        all = b >= 0;
        bytes.push_back(static_cast<char>(b));
      }
      if (all) whole_.set(bytes, id);
    }
  }

  /// Vocabularies that spell spaces as U+2581 take whole texts as one word. If no merge puts that character behind
  /// another one, words can be told apart there (an unknown before it is written when it is met, fused or not).
  void find_safe_cut(const std::vector<Merge>& merges) {
    constexpr std::string_view kMark = "\u2581";
    if (vocabulary_.find(kMark) == kNoToken || !on_.prefix.empty() || !on_.suffix.empty() || on_.ignore_merges) return;
    for (const Merge& m : merges) {
      if (!vocabulary_.token(m.right)->starts_with(kMark)) continue;
      const std::string& left = *vocabulary_.token(m.left);
      for (std::size_t i = 0; i < left.size(); i += kMark.size()) {
        if (left.compare(i, kMark.size(), kMark) != 0) return;
      }
    }
    safe_cut_ = kMark;
  }

  [[noreturn]] void no_unknown() const {
    throw UserError(ErrorKind::argument,
                    "the text has a character that the vocabulary lacks, and the unknown token \"" +
                        on_.missing_unknown + "\" is not in the vocabulary either");
  }

  struct Unknown {
    std::uint32_t length = 0;
    bool any = false;
  };
  void add(std::vector<Symbol>& symbols, std::int32_t id, std::uint32_t length) const {
    symbols.push_back({id, length, kNoRank, kNoToken, kNowhere, kNowhere});
  }
  void write(std::vector<Symbol>& symbols, Unknown& unknown) const {
    if (unknown.any) add(symbols, on_.unknown, unknown.length);
    unknown = {};
  }
  void meet_unknown(std::vector<Symbol>& symbols, Unknown& unknown, std::uint32_t length) const {
    if (on_.unknown == kNoToken) {
      if (!on_.missing_unknown.empty()) no_unknown();
      return;  // without an unknown token the character is dropped
    }
    if (!on_.fuse_unknown) write(symbols, unknown);
    unknown = {unknown.length + length, true};
  }

  void begin_with_bytes(std::string_view word, std::vector<Symbol>& symbols) const {
    Unknown unknown;
    for (const char c : word) {
      const std::int32_t id = byte_ids_[static_cast<unsigned char>(c)];
      if (id != kNoToken) {
        write(symbols, unknown);
        add(symbols, id, 1);
      } else {
        meet_unknown(symbols, unknown, 1);
      }
    }
    write(symbols, unknown);
  }

  void begin_with_characters(std::string_view word, ModelScratch& scratch) const {
    std::vector<Symbol>& symbols = scratch.symbols;
    Unknown unknown;
    for (std::size_t i = 0, n; i < word.size(); i += n) {
      n = utf8_length(word[i]);
      std::string_view s = word.substr(i, n);
      const bool prefixed = i > 0 && !on_.prefix.empty(), suffixed = i + n == word.size() && !on_.suffix.empty();
      if (prefixed || suffixed) {
        scratch.text.assign(prefixed ? on_.prefix : "").append(s).append(suffixed ? on_.suffix : "");
        s = scratch.text;
      }
      const std::int32_t id = vocabulary_.find(s);
      if (id != kNoToken) {
        write(symbols, unknown);
        add(symbols, id, static_cast<std::uint32_t>(n));
      } else if (!on_.byte_fallback || !add_bytes(s, symbols)) {
        meet_unknown(symbols, unknown, static_cast<std::uint32_t>(n));
      }
    }
    write(symbols, unknown);
  }

  bool add_bytes(std::string_view s, std::vector<Symbol>& symbols) const {
    const auto id = [this](char c) { return byte_ids_[static_cast<unsigned char>(c)]; };
    if (std::any_of(s.begin(), s.end(), [&](char c) { return id(c) == kNoToken; })) return false;
    for (const char c : s) add(symbols, id(c), 1);
    return true;
  }

  void merge_short(std::vector<Symbol>& symbols) const {
    std::size_t n = symbols.size();
    for (std::size_t i = 0; i + 1 < n; ++i) merges_.look_up(symbols[i], symbols[i + 1].id);
    while (n > 1) {
      std::size_t best = 0;
      for (std::size_t i = 1; i + 1 < n; ++i) {
        if (symbols[i].rank < symbols[best].rank) best = i;
      }
      Symbol& s = symbols[best];
      if (s.rank == kNoRank) break;
      s.id = s.to;
      s.length += symbols[best + 1].length;
      std::move(symbols.begin() + static_cast<std::ptrdiff_t>(best) + 2,
                symbols.begin() + static_cast<std::ptrdiff_t>(n),
                symbols.begin() + static_cast<std::ptrdiff_t>(best) + 1);
      --n;
      if (best > 0) merges_.look_up(symbols[best - 1], s.id);
      if (best + 1 < n) {
        merges_.look_up(s, symbols[best + 1].id);
      } else {
        s.rank = kNoRank;
      }
    }
    symbols.resize(n);
  }

  void merge_long(std::vector<Symbol>& symbols, std::vector<std::uint64_t>& heap) const {
    const auto count = static_cast<std::uint32_t>(symbols.size());
    heap.clear();
    const auto entry = [&](std::uint32_t i) { return static_cast<std::uint64_t>(symbols[i].rank) << 32 | i; };
    for (std::uint32_t i = 0; i < count; ++i) {
      symbols[i].prev = i == 0 ? kNowhere : i - 1;
      symbols[i].next = i + 1 == count ? kNowhere : i + 1;
      if (i + 1 == count) break;
      merges_.look_up(symbols[i], symbols[i + 1].id);
      if (symbols[i].rank != kNoRank) heap.push_back(entry(i));
    }
    const auto later = std::greater<>();
    std::make_heap(heap.begin(), heap.end(), later);
    const auto renew = [&](std::uint32_t i) {
      Symbol& s = symbols[i];
      s.rank = kNoRank;
      if (s.next == kNowhere) return;
      merges_.look_up(s, symbols[s.next].id);
      if (s.rank == kNoRank) return;
      heap.push_back(entry(i));
      std::push_heap(heap.begin(), heap.end(), later);
    };
    while (!heap.empty()) {
      std::pop_heap(heap.begin(), heap.end(), later);
      const std::uint64_t top = heap.back();
      heap.pop_back();
      const auto at = static_cast<std::uint32_t>(top);
      Symbol& s = symbols[at];
      if (s.length == 0 || s.rank != top >> 32) continue;  // what it spoke of has been merged since
      Symbol& right = symbols[s.next];
      s.id = s.to;
      s.length += right.length;
      right.length = 0;
      s.next = right.next;
      if (s.next != kNowhere) symbols[s.next].prev = at;
      if (s.prev != kNowhere) renew(s.prev);
      renew(at);
    }
  }

  MergeTable merges_;
  BpeOptions on_;
  std::array<std::int32_t, 256> byte_ids_;
  StringMap whole_;
  std::string_view safe_cut_;
};

}  // namespace

ModelPtr make_bpe(Vocabulary vocabulary, const std::vector<Merge>& merges, BpeOptions options) {
  return std::make_unique<Bpe>(std::move(vocabulary), merges, std::move(options));
}

}  // namespace metal_candle::io::tok
