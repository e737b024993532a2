// What makes token vectors of token ids: an encoder, or a decoder of model.hpp.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>
#include <vector>

#include "metal_candle/json.hpp"
#include "metal_candle/lazy_tensor.hpp"

namespace metal_candle::embeddings {

/// Texts one after the other; `lengths` says of each token how long its text is.
struct PackedTokens {
  LazyTensor ids, positions, lengths;  // [t] i32
  LazyTensor offsets;                  // [s+1] i32
};

class Backbone {
 public:
  virtual ~Backbone() = default;
  virtual std::int64_t width() const = 0;
  virtual std::int64_t vocabulary() const = 0;
  /// Tokens that a text may have.
  virtual std::int64_t max_tokens() const = 0;
  /// The type that it computes in.
  virtual DType dtype() const = 0;
  /// Whether a token sees those behind it; its last token then says no more than the others.
  virtual bool is_decoder() const = 0;
  /// Tokens that are better not exceeded in a pass of several texts.
  virtual std::int64_t most_tokens() const { return INT32_MAX; }
  /// Appends the positions of a text's tokens.
  virtual void add_positions(std::span<const std::int32_t> ids, std::vector<std::int32_t>& positions) const;
  /// [t, width].
  virtual LazyTensor hidden(const PackedTokens& tokens) const = 0;
};

/// Reads what config.json says; FileError with the field or tensor that is wrong.
std::unique_ptr<Backbone> load_backbone(const std::filesystem::path& folder, DType dtype);
/// Null where the model_type is no encoder's.
std::unique_ptr<Backbone> load_encoder(const std::filesystem::path& folder, const Json& config, DType dtype);
/// The encoders there are, for messages.
std::vector<std::string> encoder_families();

}  // namespace metal_candle::embeddings
