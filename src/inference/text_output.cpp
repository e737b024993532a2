#include "inference/text_output.h"

#include <algorithm>

namespace metal_candle::inference {
namespace {

constexpr std::string_view kReplacement = "\xEF\xBF\xBD";  // of what is no character, or none yet

}  // namespace

TextOutput::TextOutput(const Tokenizer& tokenizer, std::vector<std::string> stops)
    : stream_(tokenizer), stops_(std::move(stops)) {
  std::erase(stops_, std::string());
  for (const std::string& stop : stops_)
    if (const auto id = tokenizer.token_to_id(stop); id && tokenizer.is_special(*id)) stop_tokens_.push_back(*id);
}

std::string TextOutput::push(std::int32_t token) {
  if (stopped_) return {};
  if (std::find(stop_tokens_.begin(), stop_tokens_.end(), token) != stop_tokens_.end()) {
    std::string piece = finish();
    stopped_ = true;
    return piece;
  }
  held_ += stream_.push(token);
  return stop_waits() ? finish() : release(false);
}

/// Whether a stop string is complete in what the decoder still keeps, up to a character that is not complete.
bool TextOutput::stop_waits() const {
  if (stops_.empty()) return false;
  std::string text = held_ + stream_.waiting();
  while (text.ends_with(kReplacement)) text.resize(text.size() - kReplacement.size());
  return std::any_of(stops_.begin(), stops_.end(),
                     [&](const std::string& stop) { return text.find(stop) != text.npos; });
}

std::string TextOutput::finish() {
  if (stopped_) return {};
  held_ += stream_.rest();
  return release(true);
}

/// Shows what is held up to the first stop string, or up to where one may have begun.
std::string TextOutput::release(bool all) {
  std::size_t shown = held_.size();
  for (const std::string& stop : stops_)
    if (const std::size_t at = held_.find(stop); at < shown) shown = at, stopped_ = true;
  if (!stopped_ && !all)
    for (const std::string& stop : stops_) {
      std::size_t begun = std::min(stop.size() - 1, held_.size());
      while (begun > 0 && held_.compare(held_.size() - begun, begun, stop, 0, begun) != 0) --begun;
      shown = std::min(shown, held_.size() - begun);
    }
  std::string piece = held_.substr(0, shown);
  held_.erase(0, shown);
  text_ += piece;
  return piece;
}

}  // namespace metal_candle::inference
