#include "io/tokenizer/encode.h"

#include <algorithm>

#include "io/tokenizer/unicode.h"
#include "metal_candle/error.hpp"

namespace metal_candle::io::tok {
namespace {

bool white(char32_t c) { return (CharTable::get()[c] & kWhite) != 0; }
/// A space spelled as a byte character counts too.
bool trimmed(char32_t c) { return c == 0x120 || white(c); }

template <class Is>
std::int32_t count_front(std::string_view s, Is is) {
  std::int32_t n = 0;
  for (std::size_t i = 0; i < s.size() && is(utf8_at(s.data() + i)); i += utf8_length(s[i])) ++n;
  return n;
}
template <class Is>
std::int32_t count_back(std::string_view s, Is is) {
  std::int32_t n = 0;
  for (std::size_t i = s.size(); i > 0; ++n) {
    i = utf8_before(s, i);
    if (!is(utf8_at(s.data() + i))) break;
  }
  return n;
}

}  // namespace

Encoder::Encoder(const State& state, Workspace& workspace, const EncodeOptions& options, std::vector<std::int32_t>& ids,
                 std::vector<std::pair<std::uint32_t, std::uint32_t>>* offsets)
    : state_(state), work_(workspace), options_(options), ids_(ids), offsets_(offsets), cut_(state.model->safe_cut()) {}

void Encoder::run(std::string_view text) {
  std::vector<AddedTokens::Found> found;
  state_.added.find(text, false, options_.parse_special, found);
  std::uint32_t done = 0;
  const Text whole(text, 0, false);
  for (const AddedTokens::Found& f : found) {
    if (done < f.at.begin) part(text, {done, f.at.begin});
    added(f.id, whole, f.at);
    done = f.at.end;
  }
  if (done < text.size()) part(text, {done, static_cast<std::uint32_t>(text.size())});
  if (offsets_) trim(text);
  post_process();
}

void Encoder::part(std::string_view original, Range part) {
  Text text(original.substr(part.begin, part.size()), part.begin, offsets_ || state_.needs_sources);
  if (state_.normalizer) state_.normalizer->apply(text);
  const auto size = static_cast<std::uint32_t>(text.view().size());
  if (!state_.added.any(true)) {
    if (size > 0) pieces(text, {0, size});
    return;
  }
  std::vector<AddedTokens::Found> found;
  state_.added.find(text.view(), true, options_.parse_special, found);
  std::uint32_t done = 0;
  for (const AddedTokens::Found& f : found) {
    if (done < f.at.begin) pieces(text, {done, f.at.begin});
    added(f.id, text, f.at);
    done = f.at.end;
  }
  if (done < size) pieces(text, {done, size});
}

void Encoder::pieces(const Text& text, Range part) {
  if (state_.scanner) {
    scan(text, part);
    return;
  }
  if (state_.pre_tokenizers.empty()) {
    words(text, part);
    return;
  }
  Pieces pieces{text.part(part), {{0, part.size()}}};
  for (const PreTokenizerPtr& step : state_.pre_tokenizers) step->apply(pieces);
  for (const Range piece : pieces.ranges) words(pieces.text, piece);
}

void Encoder::scan(const Text& text, Range part) {
  const char* const s = text.view().data();
  const auto run = [&](std::size_t at, std::size_t end) {
    while (at < end) {
      const std::size_t next = state_.scanner(s, at, end);
      word(text, {static_cast<std::uint32_t>(at), static_cast<std::uint32_t>(next)});
      at = next;
    }
  };
  if (!state_.numbers_first) {
    run(part.begin, part.end);
    return;
  }
  const CharTable& table = CharTable::get();
  const std::uint32_t* const latin = table.latin();
  std::size_t done = part.begin;
  for (std::size_t at = part.begin; at < part.end;) {
    const auto b = static_cast<unsigned char>(s[at]);
    const std::size_t next = at + utf8_length(s[at]);
    if ((b < 0x80 ? latin[b] : table[utf8_at(s + at)]) & kNumeric) {
      run(done, at);
      run(at, next);
      done = next;
    }
    at = next;
  }
  run(done, part.end);
}

void Encoder::words(const Text& text, Range piece) {
  if (cut_.empty()) {
    word(text, piece);
    return;
  }
  const std::string_view s = text.view().substr(0, piece.end);
  while (piece.begin < piece.end) {
    std::size_t at = piece.begin;
    while (s.substr(at).starts_with(cut_)) at += cut_.size();
    at = std::min(s.find(cut_, at), s.size());
    word(text, {piece.begin, static_cast<std::uint32_t>(at)});
    piece.begin = static_cast<std::uint32_t>(at);
  }
}

void Encoder::word(const Text& text, Range at) {
  const std::string_view s = text.view().substr(at.begin, at.size());
  const auto write = [&](const Token* tokens, std::size_t count) {
    for (std::size_t i = 0; i < count; ++i) ids_.push_back(tokens[i].id);
    if (!offsets_) return;
    for (std::size_t i = 0; i < count; ++i) {
      // Odd models say more bytes than the word has (fallback of a prefix), or none.
      const std::uint32_t begin = std::min(tokens[i].at.begin, at.size() - 1);
      const std::uint32_t end = std::clamp(tokens[i].at.end, begin + 1, at.size());
      const Range source = text.source({at.begin + begin, at.begin + end});
      offsets_->push_back({source.begin, std::max(source.begin, source.end)});
    }
    spaces_.resize(ids_.size());
  };
  if (work_.cache.find(s, write)) return;
  work_.tokens.clear();
  state_.model->tokenize(s, work_.scratch, work_.tokens);
  work_.cache.put(s, work_.tokens.data(), work_.tokens.size());
  write(work_.tokens.data(), work_.tokens.size());
}

void Encoder::added(std::int32_t id, const Text& text, Range at) {
  ids_.push_back(id);
  if (!offsets_) return;
  const Range source = at.size() > 0 ? text.source(at) : Range{0, 0};
  offsets_->push_back({source.begin, std::max(source.begin, source.end)});
  const std::string_view s = text.view().substr(at.begin, at.size());
  spaces_.resize(ids_.size());
  spaces_.back() = {count_front(s, trimmed), count_back(s, trimmed)};
}

void Encoder::trim(std::string_view original) {
  for (const PostProcessor::Trim& how : state_.post_processor.trims) {
    for (std::size_t i = 0; i < ids_.size(); ++i) {
      auto& [begin, end] = (*offsets_)[i];
      Spaces n = spaces_[i];
      if (n.before < 0) {
        const std::string* token = state_.model->vocabulary().token(ids_[i]);
        n = token ? Spaces{count_front(*token, trimmed), count_back(*token, trimmed)} : Spaces{0, 0};
      }
      // A single space at the very beginning is the one that was put there.
      if ((i == 0 || begin == 0) && how.add_prefix_space && n.before == 1) n.before = 0;
      for (; n.before > 0 && begin < end; --n.before) begin += static_cast<std::uint32_t>(utf8_length(original[begin]));
      for (; n.after > 0 && end > begin; --n.after) end = static_cast<std::uint32_t>(utf8_before(original, end));
    }
  }
}

void Encoder::post_process() {
  const auto& pieces = state_.post_processor.pieces;
  if (pieces.empty()) return;
  const std::vector<std::int32_t> ids = std::move(ids_);
  std::vector<std::pair<std::uint32_t, std::uint32_t>> offsets;
  if (offsets_) offsets.swap(*offsets_);
  ids_.clear();
  ids_.reserve(ids.size() + 8);
  for (const PostProcessor::Piece& piece : pieces) {
    if (piece.text) {
      ids_.insert(ids_.end(), ids.begin(), ids.end());
      if (offsets_) offsets_->insert(offsets_->end(), offsets.begin(), offsets.end());
    } else if (options_.add_special_tokens) {
      ids_.insert(ids_.end(), piece.ids.begin(), piece.ids.end());
      if (offsets_) offsets_->resize(ids_.size(), {0, 0});
    }
  }
}

}  // namespace metal_candle::io::tok
