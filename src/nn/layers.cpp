// Activations, norms, the gated MLP, and attention: what a decoder's layer is made of.
#include <cmath>

#include "metal_candle/autograd.hpp"
#include "metal_candle/error.hpp"
#include "metal_candle/nn.hpp"
#include "metal_candle/scope.hpp"

namespace metal_candle::nn {
namespace {

struct ActivationName {
  std::string_view name;
  Activation activation;
};
// The first name of an activation is the one that is written.
constexpr ActivationName kActivations[] = {
    {"silu", Activation::silu},          {"swish", Activation::silu},
    {"gelu", Activation::gelu},          {"gelu_pytorch_tanh", Activation::gelu_tanh},
    {"gelu_new", Activation::gelu_tanh}, {"gelu_fast", Activation::gelu_tanh},
    {"relu", Activation::relu},
};

std::string sub(std::string_view module, std::string_view child) {
  std::string path;
  path.reserve(module.size() + child.size());
  return path.append(module).append(child);
}

}  // namespace

std::optional<Activation> activation_named(std::string_view name) {
  for (const auto& row : kActivations)
    if (row.name == name) return row.activation;
  return std::nullopt;
}

std::string_view name(Activation activation) {
  for (const auto& row : kActivations)
    if (row.activation == activation) return row.name;
  throw InternalError("an activation without a name");
}

LazyTensor activate(Activation activation, const LazyTensor& x) {
  switch (activation) {
    case Activation::silu: return silu(x);
    case Activation::gelu: return gelu(x);
    case Activation::gelu_tanh: return gelu_tanh(x);
    case Activation::relu: return relu(x);
  }
  throw InternalError("an activation without a function");
}

LazyTensor rms_norm(const Weights& w, std::string_view module, const LazyTensor& x, double eps, bool plus_one) {
  const LazyTensor& weight = w[sub(module, ".weight")];
  const auto typed = [&](const LazyTensor& y) { return y.dtype() == weight.dtype() ? y : cast(y, weight.dtype()); };
  if (!plus_one) return typed(metal_candle::rms_norm(x, weight, eps));
  const LiteralScope literal;
  return typed(metal_candle::rms_norm(cast(x, DType::f32), cast(weight, DType::f32) + 1, eps));
}

LazyTensor gated_mlp(const Weights& w, std::string_view module, const LazyTensor& x, Activation activation) {
  const Scope scope("mlp");
  const LazyTensor gate = w.linear(sub(module, ".gate_proj"), x), up = w.linear(sub(module, ".up_proj"), x);
  // Of the widest values only these two are kept for a backward pass; their product is cheaper to make again.
  return checkpoint(
      [&](const std::vector<LazyTensor>& in) {
        return w.linear(sub(module, ".down_proj"), activate(activation, in[0]) * in[1]);
      },
      {gate, up});
}

namespace {

/// Puts the new keys (or values) where their tokens belong; what all queries then read.
LazyTensor keep(std::vector<LazyTensor>& kept, int layer, const LazyTensor& rows, const LazyTensor& fresh) {
  if (layer < 0 || static_cast<std::size_t>(layer) >= kept.size())
    throw UserError(ErrorKind::argument, "attention: the cache has no layer " + std::to_string(layer));
  LazyTensor& place = kept[static_cast<std::size_t>(layer)];
  place = set_rows(place, rows, fresh);
  return place;
}

}  // namespace

LazyTensor attention(const Weights& w, std::string_view module, const LazyTensor& x, const AttentionShape& shape,
                     const Rope& rope, const LazyTensor& offsets, KeyValues* cache, int layer) {
  const Scope scope("attn");
  const std::int64_t tokens = x.dim(0);
  const auto heads = [&](std::string_view child, std::int64_t count) {
    return reshape(w.linear(sub(module, child), x), {tokens, count, shape.width});
  };
  LazyTensor q = heads(".q_proj", shape.heads), k = heads(".k_proj", shape.key_heads);
  LazyTensor v = heads(".v_proj", shape.key_heads);
  if (shape.qk_norm_eps >= 0) {
    q = rms_norm(w, sub(module, ".q_norm"), q, shape.qk_norm_eps);
    k = rms_norm(w, sub(module, ".k_norm"), k, shape.qk_norm_eps);
  }
  if (shape.rotated) q = rope(q), k = rope(k);
  const double scale = shape.scale != 0 ? shape.scale : 1 / std::sqrt(static_cast<double>(shape.width));
  AttentionOptions options{.scale = shape.rotated ? scale * rope.score_factor() : scale,
                           .window = shape.window,
                           .softcap = shape.softcap,
                           .query_offsets = offsets,
                           .key_offsets = offsets};
  if (cache) {
    k = keep(cache->keys, layer, cache->rows, k);
    v = keep(cache->values, layer, cache->rows, v);
    options.key_offsets = cache->key_offsets;
    options.key_lengths = cache->key_lengths;
  }
  const LazyTensor y = metal_candle::attention(q, k, v, options);
  return w.linear(sub(module, ".o_proj"), reshape(y, {tokens, shape.heads * shape.width}));
}

}  // namespace metal_candle::nn
