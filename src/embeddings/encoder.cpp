// The forward pass of encoders. Each layer is
//
//   x = norm(x + attention(x));   x = norm(x + down(activation(up(x))))
//
// with attention that sees the whole of a text and nothing of its neighbours.
#include "embeddings/encoder.h"

#include <cmath>
#include <mutex>

#include "base/fork.h"
#include "embeddings/backbone.h"
#include "metal_candle/scope.hpp"

namespace metal_candle::embeddings {
namespace {

/// Which of 32 buckets the distance from a query to a key falls into: 16 for each direction, of which half are single
/// distances and half grow by a constant factor up to 128. In f32 where the model was trained with f32.
std::int64_t distance_bucket(std::int64_t distance) {
  constexpr std::int64_t kSide = 16, kSingle = 8;
  const std::int64_t side = distance > 0 ? kSide : 0, n = std::abs(distance);
  if (n < kSingle) return side + n;
  const float octaves = std::log(static_cast<float>(n) / static_cast<float>(kSingle)) /
                        static_cast<float>(std::log(128.0 / static_cast<double>(kSingle)));
  return side + std::min(kSide - 1, kSingle + static_cast<std::int64_t>(octaves * static_cast<float>(kSide - kSingle)));
}

class Encoder : public Backbone {
 public:
  Encoder(const EncoderConfig& config, const ParamTree& parameters, DType dtype)
      : config_(config), weights_(parameters), dtype_(dtype) {}

  std::int64_t width() const override { return config_.width; }
  std::int64_t vocabulary() const override { return config_.vocabulary; }
  std::int64_t max_tokens() const override {
    return config_.family->skips_padding ? config_.positions - config_.padding - 1 : config_.positions;
  }
  DType dtype() const override { return dtype_; }
  bool is_decoder() const override { return false; }
  // The biases of a pass are the square of its tokens.
  std::int64_t most_tokens() const override { return config_.family->relative_positions ? 512 : INT32_MAX; }

  void add_positions(std::span<const std::int32_t> ids, std::vector<std::int32_t>& positions) const override {
    if (!config_.family->skips_padding) return Backbone::add_positions(ids, positions);
    std::int32_t last = config_.padding;
    for (const std::int32_t id : ids) positions.push_back(id == config_.padding ? config_.padding : ++last);
  }

  LazyTensor hidden(const PackedTokens& t) const override {
    const AttentionOptions options{.causal = false,
                                   .query_offsets = t.offsets,
                                   .key_offsets = t.offsets,
                                   .bias = config_.family->relative_positions ? distances(t.ids.dim(0)) : LazyTensor{}};
    LazyTensor x = norm("norm", weights_.embedding("word", t.ids) + weights_.embedding("position", t.positions));
    for (std::int64_t i = 0; i < config_.layers; ++i) x = layer(std::to_string(i), x, options);
    return x;
  }

 private:
  LazyTensor norm(const std::string& module, const LazyTensor& x) const {
    return layer_norm(x, weights_[module + ".weight"], weights_[module + ".bias"], config_.eps);
  }

  LazyTensor layer(const std::string& path, const LazyTensor& input, const AttentionOptions& options) const {
    const Scope scope(path);
    const std::int64_t tokens = input.dim(0), heads = config_.heads, width = config_.width / heads;
    const LazyTensor qkv = weights_.linear(path + ".qkv", input);
    const auto part = [&](int which) {
      return reshape(slice(qkv, 1, which * config_.width, (which + 1) * config_.width), {tokens, heads, width});
    };
    const LazyTensor seen = reshape(attention(part(0), part(1), part(2), options), {tokens, config_.width});
    const LazyTensor x = norm(path + ".norm1", input + weights_.linear(path + ".out", seen));
    const LazyTensor inner = nn::activate(config_.activation, weights_.linear(path + ".up", x));
    return norm(path + ".norm2", x + weights_.linear(path + ".down", inner));
  }

  /// [heads, t, t]: what the distance of two tokens adds to their score. It depends on nothing else, so that one tensor
  /// serves every pass, wherever its texts begin: a smaller pass reads its corner.
  LazyTensor distances(std::int64_t tokens) const {
    const std::lock_guard lock(lock_);
    if (!distances_.defined() || distances_.dim(1) < tokens) {
      const auto n = static_cast<std::size_t>(tokens);
      std::vector<std::int32_t> buckets(n * n);
      for (std::size_t i = 0; i < n; ++i)
        for (std::size_t j = 0; j < n; ++j)
          buckets[i * n + j] =
              static_cast<std::int32_t>(distance_bucket(static_cast<std::int64_t>(j) - static_cast<std::int64_t>(i)));
      const LazyTensor rows = transpose(weights_["distance.weight"]).eval();
      const Tensor index = Tensor::from(buckets, {1, tokens * tokens});
      distances_ = reshape(take_along_axis(rows, expand(index, {config_.heads, tokens * tokens}), 1),
                           {config_.heads, tokens, tokens})
                       .eval();
    }
    return slice(slice(distances_, 1, 0, tokens), 2, 0, tokens);
  }

  EncoderConfig config_;
  nn::Weights weights_;
  DType dtype_;
  mutable base::CallLock lock_;  // of what follows; held while it is computed
  mutable Tensor distances_;
};

}  // namespace

void Backbone::add_positions(std::span<const std::int32_t> ids, std::vector<std::int32_t>& positions) const {
  for (std::size_t i = 0; i < ids.size(); ++i) positions.push_back(static_cast<std::int32_t>(i));
}

std::unique_ptr<Backbone> load_encoder(const std::filesystem::path& folder, const Json& config, DType dtype) {
  const EncoderFamily* family = encoder_family(config.at("model_type").as_string());
  if (!family) return nullptr;
  const EncoderConfig c = EncoderConfig::read(*family, config);
  return std::make_unique<Encoder>(c, read_encoder(folder, c, dtype), dtype);
}

}  // namespace metal_candle::embeddings
