#include "io/tokenizer/text.h"

#include <algorithm>

#include "metal_candle/error.hpp"

namespace metal_candle::io::tok {

Text& Text::operator=(Text&& other) noexcept {
  if (this == &other) return *this;
  origin_ = other.origin_;
  tracked_ = other.tracked_;
  owned_ = other.owned_;
  own_ = std::move(other.own_);
  own_sources_ = std::move(other.own_sources_);
  // A short string moves its bytes.
  view_ = owned_ ? std::string_view(own_) : other.view_;
  sources_ = own_sources_.empty() ? other.sources_ : own_sources_.data();
  other.view_ = {};
  other.sources_ = nullptr;
  other.own_sources_.clear();
  other.owned_ = false;
  return *this;
}

Range Text::source(Range range) const {
  if (sources_) return {sources_[range.begin].begin, sources_[range.end - 1].end};
  // A token may begin or end within a character.
  std::uint32_t begin = range.begin, end = range.end;
  while (begin > 0 && utf8_continues(view_[begin])) --begin;
  while (end < view_.size() && utf8_continues(view_[end])) ++end;
  return {origin_ + begin, origin_ + end};
}

Text Text::part(Range range) const {
  Text out(view_.substr(range.begin, range.size()), origin_ + range.begin, tracked_);
  if (sources_) out.sources_ = sources_ + range.begin;
  return out;
}

Rewrite::Rewrite(const Text& from) : from_(from) {
  const std::size_t room = from.view().size() + from.view().size() / 8 + 16;
  out_.reserve(room);
  if (from.tracked_) sources_.reserve(room);
}

Range Rewrite::source_at(std::size_t at) const {
  if (at == kBeginning) return {from_.origin_, from_.origin_};
  if (at >= from_.view().size()) {
    if (from_.view().empty()) return {from_.origin_, from_.origin_};
    at = from_.view().size() - 1;
  }
  return from_.source({static_cast<std::uint32_t>(at), static_cast<std::uint32_t>(at + 1)});
}

void Rewrite::keep(std::size_t end) {
  out_.append(from_.view().substr(at_, end - at_));
  if (from_.tracked_) {
    for (; at_ < end; ++at_) sources_.push_back(source_at(at_));
  }
  at_ = end;
}

void Rewrite::put(char32_t c, int change) {
  utf8_append(out_, c);
  if (from_.tracked_) {
    const Range source = change <= 0 ? source_at(at_) : source_at(at_ > 0 ? at_ - 1 : kBeginning);
    sources_.resize(out_.size(), source);
  }
  const std::string_view all = from_.view();
  for (int n = change; n <= 0 && at_ < all.size(); ++n) at_ += utf8_length(all[at_]);
}

void Rewrite::check() const {
  if (out_.size() > 0xFFFFFFFFu)
    throw UserError(ErrorKind::argument, "normalizing makes the text longer than 4 GiB, which cannot be encoded");
}

void Rewrite::insert(std::string_view text, std::size_t source) {
  out_.append(text);
  check();
  if (from_.tracked_) sources_.resize(out_.size(), source_at(source));
}

Text Rewrite::done() && {
  check();
  Text out;
  out.own_ = std::move(out_);
  out.owned_ = true;
  out.view_ = out.own_;
  out.tracked_ = from_.tracked_;
  out.origin_ = from_.origin_;
  out.own_sources_ = std::move(sources_);
  // An empty text needs no sources, and must not be taken for the original.
  out.sources_ = out.own_sources_.empty() ? nullptr : out.own_sources_.data();
  return out;
}

}  // namespace metal_candle::io::tok
