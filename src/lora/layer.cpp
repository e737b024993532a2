// LoRALayer: one term by itself.
#include <cmath>

#include "lora/initial.h"
#include "metal_candle/error.hpp"
#include "metal_candle/lora.hpp"
#include "metal_candle/ops.hpp"

namespace metal_candle {

LoRALayer::LoRALayer(LazyTensor a, LazyTensor b, double scale, double dropout)
    : a_(std::move(a)), b_(std::move(b)), scale_(scale), dropout_(dropout) {
  if (a_.rank() != 2 || b_.rank() != 2 || a_.dim(0) != b_.dim(1))
    throw UserError(ErrorKind::shape, "LoRALayer: a " + a_.shape().str() + " and b " + b_.shape().str() +
                                          " are not [rank, in] and [out, rank]");
  if (!(dropout >= 0 && dropout < 1)) throw UserError(ErrorKind::argument, "LoRALayer: a dropout must lie in [0, 1)");
}

LoRALayer LoRALayer::create(std::int64_t in, std::int64_t out, const LoRAConfig& config, Key key) {
  config.check();
  const LazyTensor a = lora::initial_a(config.rank, in, key), b = Tensor::zeros({out, config.rank});
  const auto r = static_cast<double>(config.rank);
  return {a.eval(), b, config.alpha / (config.rslora ? std::sqrt(r) : r), config.dropout};
}

LazyTensor LoRALayer::forward_lazy(const LazyTensor& x, Key key) const {
  const LazyTensor seen = training_ && dropout_ > 0 ? dropout(x, dropout_, key) : x;
  return lora_fused(seen, transpose(a_), transpose(b_), scale_);
}

ParamTree LoRALayer::parameters() const { return {{"lora_A.weight", a_}, {"lora_B.weight", b_}}; }

}  // namespace metal_candle
