// The decoders of tokenizer.json, as stages of a stream: tokens go in one by one, text comes out as soon as it is
// certain. Decoding a whole list is the same stream, so both give the same text.
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "io/tokenizer/pattern.h"

namespace metal_candle::io::tok {

/// Takes what a stage makes. Before a stage that joins tokens each call is a token; after it, a fragment of the one
/// token that is left.
class TokenSink {
 public:
  virtual ~TokenSink() = default;
  virtual void token(std::string_view text) = 0;
  virtual void finish() = 0;
};

/// A stage at work: writes to `next`.
class DecodeStage : public TokenSink {
 public:
  void to(TokenSink* next) { next_ = next; }
  virtual std::unique_ptr<DecodeStage> copy() const = 0;
  void finish() override { next_->finish(); }

 protected:
  TokenSink* next_ = nullptr;
};

class Decoder {
 public:
  virtual ~Decoder() = default;
  /// `joined`: fragments come in.
  virtual std::unique_ptr<DecodeStage> start(bool joined) const = 0;
  /// Whether fragments come out, if they do not come in.
  virtual bool joins() const { return false; }
};
using DecoderPtr = std::unique_ptr<const Decoder>;

DecoderPtr make_byte_level_decoder();
DecoderPtr make_word_piece_decoder(std::string prefix, bool cleanup);
DecoderPtr make_metaspace_decoder(std::string replacement, bool drops_first);
DecoderPtr make_byte_fallback_decoder();
DecoderPtr make_bpe_decoder(std::string suffix);
DecoderPtr make_fuse_decoder();
DecoderPtr make_strip_decoder(char32_t content, std::size_t start, std::size_t stop);
DecoderPtr make_replace_decoder(std::shared_ptr<const Pattern> pattern, std::string content);
DecoderPtr make_ctc_decoder(std::string pad, std::string delimiter, bool cleanup);
/// What happens with no decoder: tokens with spaces between.
DecoderPtr make_space_decoder();

/// A chain of stages; what is certain lies in `out`.
class DecodeChain final : public TokenSink {
 public:
  explicit DecodeChain(const std::vector<DecoderPtr>& decoders);
  DecodeChain(const DecodeChain& other);
  DecodeChain& operator=(const DecodeChain&) = delete;
  void push(std::string_view token) { first_->token(token); }
  void end() { first_->finish(); }
  std::string out;

  void token(std::string_view text) override { out += text; }
  void finish() override {}

 private:
  void link();

  std::vector<std::unique_ptr<DecodeStage>> stages_;
  TokenSink* first_ = this;
};

}  // namespace metal_candle::io::tok
