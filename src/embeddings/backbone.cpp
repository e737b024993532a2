// Which backbone a folder holds; decoders as backbones.
#include "embeddings/backbone.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>

#include "metal_candle/error.hpp"
#include "metal_candle/model.hpp"

namespace metal_candle::embeddings {
namespace {

class Decoder : public Backbone {
 public:
  explicit Decoder(Model model) : model_(std::move(model)) {}

  std::int64_t width() const override { return model_.config().hidden; }
  std::int64_t vocabulary() const override { return model_.config().vocabulary; }
  std::int64_t max_tokens() const override { return model_.config().context(); }
  DType dtype() const override { return model_.dtype(); }
  bool is_decoder() const override { return true; }
  LazyTensor hidden(const PackedTokens& t) const override {
    return model_.hidden(model_.weights(),
                         Batch{.ids = t.ids, .positions = t.positions, .offsets = t.offsets, .lengths = t.lengths});
  }

 private:
  Model model_;
};

}  // namespace

std::unique_ptr<Backbone> load_backbone(const std::filesystem::path& folder, DType dtype) {
  const Json config = Json::load(folder / "config.json");
  if (auto encoder = load_encoder(folder, config, dtype)) return encoder;
  const Json& type = config.at("model_type");
  const auto& decoders = model_families();
  if (std::find(decoders.begin(), decoders.end(), type.as_string()) == decoders.end())
    type.fail(fmt::format("one of {}, {}", fmt::join(encoder_families(), ", "), fmt::join(decoders, ", ")));
  return std::make_unique<Decoder>(Model::load(folder, {.dtype = dtype, .head = false}));
}

}  // namespace metal_candle::embeddings
