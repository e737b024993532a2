#include "io/tokenizer/added_tokens.h"

#include <algorithm>

#include "io/tokenizer/unicode.h"

namespace metal_candle::io::tok {
namespace {

bool has(std::string_view s, std::size_t at, std::uint32_t flag) {
  return (CharTable::get()[utf8_at(s.data() + at)] & flag) != 0;
}
std::uint32_t white_before(std::string_view s, std::size_t at, std::size_t limit) {
  while (at > limit && has(s, utf8_before(s, at), kWhite)) at = utf8_before(s, at);
  return static_cast<std::uint32_t>(at);
}
std::uint32_t white_after(std::string_view s, std::size_t at) {
  while (at < s.size() && has(s, at, kWhite)) at += utf8_length(s[at]);
  return static_cast<std::uint32_t>(at);
}

}  // namespace

void AddedTokens::add(AddedToken token, const Vocabulary& vocabulary, const Normalizer* normalizer) {
  std::int32_t id = ids_.find(token.content);
  if (id == kNoToken) id = vocabulary.find(token.content);
  if (id == kNoToken) {
    const auto count = static_cast<std::int32_t>(vocabulary.count());
    id = end_ > count ? end_ : count;
  }
  add(std::move(token), id, normalizer);
}

void AddedTokens::add(AddedToken token, std::int32_t id, const Normalizer* normalizer) {
  if (token.content.empty()) return;
  std::string shown = token.normalized && normalizer ? (*normalizer)(token.content) : token.content;
  ids_.set(token.content, id);
  if (token.special) special_.insert(token.content);
  if (id >= end_) end_ = id + 1;
  by_id_[id] = {std::move(token), std::move(shown)};
}

void AddedTokens::finish() {
  for (const auto& [id, entry] : by_id_) {
    const int set = entry.token.normalized;
    if (entry.shown.empty()) continue;
    tries_[set].add(entry.shown, id);
    starts_[set][static_cast<unsigned char>(entry.shown[0])] = true;
  }
}

void AddedTokens::find(std::string_view text, bool normalized, bool special, std::vector<Found>& out) const {
  const Trie& trie = tries_[normalized];
  const bool* const starts = starts_[normalized];
  if (trie.empty()) return;
  std::uint32_t done = 0;
  for (std::size_t at = 0; at < text.size();) {
    if (!starts[static_cast<unsigned char>(text[at])]) {
      ++at;
      continue;
    }
    std::int32_t id = kNoToken;
    std::size_t end = at;
    std::uint32_t node = Trie::kRoot;
    for (std::size_t i = at; i < text.size();) {
      node = trie.step(node, text[i++]);
      if (node == Trie::kNone) break;
      if (trie.value(node) != kNoToken) {
        id = trie.value(node);
        end = i;
      }
    }
    if (id == kNoToken) {
      ++at;
      continue;
    }
    const AddedToken& token = by_id_.at(id).token;
    const std::size_t begin = at;
    at = end;  // found or discarded, the search goes on behind it
    if (!special && token.special) continue;
    if (token.single_word &&
        ((begin > 0 && has(text, utf8_before(text, begin), kWord)) || (end < text.size() && has(text, end, kWord))))
      continue;
    Range found{static_cast<std::uint32_t>(begin), static_cast<std::uint32_t>(end)};
    if (token.lstrip) found.begin = std::max(white_before(text, begin, 0), done);
    if (token.rstrip) found.end = white_after(text, end);
    if (found.begin >= found.end) continue;  // the one before has swallowed it
    out.push_back({id, found});
    done = found.end;
  }
}

std::int32_t AddedTokens::id(std::string_view content) const { return ids_.find(content); }

const std::string* AddedTokens::text(std::int32_t id) const {
  const auto it = by_id_.find(id);
  return it == by_id_.end() ? nullptr : &it->second.shown;
}

const AddedToken* AddedTokens::token(std::int32_t id) const {
  const auto it = by_id_.find(id);
  return it == by_id_.end() ? nullptr : &it->second.token;
}

}  // namespace metal_candle::io::tok
