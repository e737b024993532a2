// Tokens to text as they come, up to where one of the stop strings begins. Special tokens are no text; a stop string
// that is one's name stops at it all the same.
#pragma once

#include <string>
#include <vector>

#include "metal_candle/tokenizer.hpp"

namespace metal_candle::inference {

class TextOutput {
 public:
  TextOutput(const Tokenizer& tokenizer, std::vector<std::string> stops);

  /// The text that can be shown now: whole characters, and nothing that may turn out to begin a stop string.
  std::string push(std::int32_t token);
  /// What was held back, when nothing follows.
  std::string finish();
  /// Whether a stop string was met; its text and what follows are not shown.
  bool stopped() const { return stopped_; }
  /// All that was shown.
  const std::string& text() const { return text_; }

 private:
  bool stop_waits() const;
  std::string release(bool all);

  DecodeStream stream_;
  std::vector<std::string> stops_;
  std::vector<std::int32_t> stop_tokens_;
  std::string held_, text_;
  bool stopped_ = false;
};

}  // namespace metal_candle::inference
