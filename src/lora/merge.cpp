// An adapter added to the weights of its model.
#include <cmath>

#include "lora/layout.h"
#include "metal_candle/error.hpp"
#include "metal_candle/few_sizes.hpp"
#include "metal_candle/ops.hpp"
#include "metal_candle/runtime.hpp"

namespace metal_candle {
namespace {

LazyTensor in_f32(const LazyTensor& x) { return x.dtype() == DType::f32 ? x : cast(x, DType::f32); }

/// Computes one weight; one at a time, so that no more than one exists in f32.
LazyTensor checked(const std::string& path, const LazyTensor& value, DType dtype) {
  LazyTensor result = value.dtype() == dtype ? value : cast(value, dtype);
  const LazyTensor largest = max(abs(in_f32(result)));
  eval({result, largest});
  if (!std::isfinite(Tensor(largest).item<float>()))
    throw UserError(ErrorKind::argument, "merge: \"" + path + "\" would not be finite; nothing was merged");
  return result;
}

void put(ParamTree& tree, const std::string& path, const LazyTensor& tensor) {
  if (tree.contains(path)) tree[path] = tensor;
  else tree.insert(path, tensor);
}

}  // namespace

Model LoRAAdapter::merge(const Model& base, std::optional<DType> dtype) const {
  const FewSizes few;  // a plan for each shape of a weight
  ParamTree merged = base.parameters();
  const auto now = [&](const std::string& path) { return merged.contains(path) ? merged[path] : base.weights()[path]; };
  constexpr const char *kHead = "lm_head.weight", *kEmbedding = "model.embed_tokens.weight";
  ModelConfig config = base.config();
  const auto replace = [&](const std::string& path, const LazyTensor& value) {
    if (config.tied_embeddings && (path == kHead || path == kEmbedding)) {
      // From here on they differ; the other one keeps what both were.
      put(merged, kHead, base.weights()[kHead]);
      config.tied_embeddings = false;
    }
    put(merged, path, value);
  };
  const auto type_of = [&](const std::string& path) { return dtype.value_or(base.weights()[path].dtype()); };
  for (const auto& [path, tensor] : replaced_) replace(path, checked(path, tensor, type_of(path)));
  auto tensor = trainable_.begin();
  for (const lora::Module& m : layout_->modules) {
    const LazyTensor &a = (tensor++)->second, &b = (tensor++)->second;
    const std::string path = m.path + ".weight";
    const LazyTensor weight = now(path);
    const LazyTensor delta =
        m.embedding ? matmul(transpose(in_f32(a)), transpose(in_f32(b))) : matmul(in_f32(b), in_f32(a));
    replace(path, checked(path, in_f32(weight) + delta * m.scale, type_of(path)));
  }
  for (const std::string& path : layout_->saved) replace(path, checked(path, (tensor++)->second, type_of(path)));
  if (dtype)
    for (auto& [path, value] : merged)
      if (value.dtype() != *dtype) value = cast(value, *dtype).eval();
  return Model(config, merged);
}

}  // namespace metal_candle
