// Texts to tokens as the model reads them: lower-cased where it asks for that, cut, a prompt's tokens counted.
#pragma once

#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <vector>

#include "metal_candle/tokenizer.hpp"

namespace metal_candle::embeddings {

using Ids = std::vector<std::int32_t>;

class TextEncoder {
 public:
  /// `most` tokens the model can read, of which `asked` (none: what tokenizer_config.json says) are used.
  TextEncoder(const std::filesystem::path& folder, bool lower_case, std::optional<std::int64_t> asked,
              std::int64_t most);

  std::int64_t max_tokens() const { return max_tokens_; }
  const Tokenizer& tokenizer() const { return tokenizer_; }
  std::vector<Ids> encode(std::span<const std::string> texts) const;
  /// Tokens of a prompt, without the special token that ends a text.
  std::int64_t prompt_tokens(const std::string& prompt) const;

 private:
  void cut(Ids& ids) const;

  Tokenizer tokenizer_;
  std::int64_t max_tokens_ = 0;
  std::int64_t before_ = 0, after_ = 0;  // special tokens around every text
  bool cut_front_ = false;
};

}  // namespace metal_candle::embeddings
