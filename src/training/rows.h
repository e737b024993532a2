// One row of a dataset as tokens.
#pragma once

#include <string_view>

#include "metal_candle/dataset.hpp"
#include "metal_candle/json.hpp"

namespace metal_candle::training {

class RowReader {
 public:
  RowReader(const Tokenizer& tokenizer, const ChatRenderer& chat, const DatasetOptions& options)
      : tokenizer_(tokenizer), chat_(chat), options_(options) {}
  /// Throws FileError where the row is none of those known.
  Sample read(const Json& row) const;

 private:
  Sample text(const std::string& text) const;
  Sample completion(const std::string& prompt, const std::string& completion) const;
  Sample messages(const Json& row) const;
  void end_with_token(Sample& sample) const;
  std::string render(const Json& messages, const Json& row, bool prompt) const;

  const Tokenizer& tokenizer_;
  const ChatRenderer& chat_;
  const DatasetOptions& options_;
};

}  // namespace metal_candle::training
