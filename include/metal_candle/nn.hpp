// The parts that models are made of: functions over tensors, and the named weights that they read.
//
//   nn::Weights w = model.weights();                          // the base; copies share it
//   w.adapt("model.layers.0.self_attn.q_proj", {a, b, 2.0});  // an adapter's term: one more operand, no new weight
//   mc::LazyTensor y = w.linear("model.layers.0.self_attn.q_proj", x);
//
// Nothing here computes: every function records, like the operations of ops.hpp. A module's weight is at path +
// ".weight" [out, in], its bias, where it has one, at path + ".bias". Tokens of several sequences lie packed one after
// the other, [t, ..]; there is no padding, and no function mixes tokens but attention, which is told where sequences
// begin. `Weights` is a plain value: reading one from several threads is safe, changing one that others read is not.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "metal_candle/ops.hpp"
#include "metal_candle/param_tree.hpp"
#include "metal_candle/random.hpp"
#include "metal_candle/tensor.hpp"

namespace metal_candle::nn {

/// What an adapter adds to a linear layer: scale · (x·aᵀ)·bᵀ, a [r, in] and b [out, r] as PEFT stores them. For an
/// embedding a is [r, vocabulary] and b [width, r]. The term is computed in the layer's own type, whatever a's and b's.
struct LoraTerm {
  LazyTensor a, b;
  double scale = 1;
};

/// The weights that a forward pass reads: a base tree, and what an adapter adds to it or puts in its place.
class Weights {
 public:
  Weights() = default;
  explicit Weights(const ParamTree& base);

  /// Adds a term to the module's layer (a module may have several). Throws UserError where the module has no weight or
  /// the term's shapes do not fit. A model's weights have an "lm_head" also where the embedding is its weight.
  Weights& adapt(std::string_view module, LoraTerm term);
  /// Puts another tensor of the same shape in the place of a base weight; `path` is a whole one ("lm_head.weight").
  Weights& replace(std::string_view path, LazyTensor tensor);
  /// Drops inputs of the terms (not of the base) with probability p. Each module folds its own path into the key.
  Weights& lora_dropout(double p, Key key);
  /// No terms and no replacements: the base again.
  Weights& clear();

  /// Throws UserError naming the path where there is no such weight.
  const LazyTensor& operator[](std::string_view path) const;
  bool contains(std::string_view path) const;
  /// The module's terms, or null.
  const std::vector<LoraTerm>* terms(std::string_view module) const;

  /// x·Wᵀ + terms + bias, x [.., in].
  LazyTensor linear(std::string_view module, const LazyTensor& x) const;
  /// Rows of the module's weight [vocabulary, width] for ids [..], plus terms.
  LazyTensor embedding(std::string_view module, const LazyTensor& ids) const;
  /// What linear multiplies, as one product: linear(module, x) is x·weightᵀ of these (and the bias). Terms stand beside x
  /// and the weight as further columns, so that dropout and the weight's own digits stay as they are.
  struct Product {
    LazyTensor x, weight;  // [.., in + r], [out, in + r]
  };
  Product product(std::string_view module, const LazyTensor& x) const;

 private:
  struct Hash {
    using is_transparent = void;
    std::size_t operator()(std::string_view s) const { return std::hash<std::string_view>{}(s); }
  };
  template <class T>
  using Map = std::unordered_map<std::string, T, Hash, std::equal_to<>>;
  const LazyTensor* find(std::string_view path) const;
  LazyTensor dropped(std::string_view module, const LazyTensor& x) const;

  std::shared_ptr<const Map<LazyTensor>> base_;
  Map<LazyTensor> replaced_;
  Map<std::vector<LoraTerm>> terms_;
  double dropout_ = 0;
  Key key_{0};
};

// ---- activations, norms ---------------------------------------------------------------------------------------------

enum class Activation { silu, gelu, gelu_tanh, relu };
/// By the names of config.json ("silu", "gelu_pytorch_tanh", ..); empty for one that is not known.
std::optional<Activation> activation_named(std::string_view name);
std::string_view name(Activation activation);
LazyTensor activate(Activation activation, const LazyTensor& x);

/// rms_norm by the weight at module + ".weight", in the weight's type. With `plus_one` the weight is what one is added
/// to, and the product is made before rounding (Gemma's).
LazyTensor rms_norm(const Weights& w, std::string_view module, const LazyTensor& x, double eps, bool plus_one = false);

/// down(activation(gate(x)) · up(x)), of module + ".gate_proj", ".up_proj", ".down_proj".
LazyTensor gated_mlp(const Weights& w, std::string_view module, const LazyTensor& x, Activation activation);

// ---- rotary embedding -----------------------------------------------------------------------------------------------

/// How positions beyond those trained on are reached; the names are config.json's.
struct RopeScaling {
  enum class Kind { none, linear, dynamic, llama3, yarn } kind = Kind::none;
  double factor = 1;
  std::int64_t original_positions = 0;     // dynamic, llama3, yarn: the context trained on
  double low_factor = 1, high_factor = 4;  // llama3
  double beta_fast = 32, beta_slow = 1;    // yarn
  std::optional<double> attention_factor = {}, mscale = {}, mscale_all_dim = {};  // yarn
  bool truncate = true;  // yarn: whole numbers for the ends of its ramp
  friend bool operator==(const RopeScaling&, const RopeScaling&) = default;
};

/// Frequencies and what goes with them, for heads of `width` components. Made once a model.
struct RopeTable {
  Tensor frequencies;       // [width/2] f32
  double score_factor = 1;  // attention scores are multiplied by it (yarn)
  RopeScaling scaling;
  double base = 10000;
  std::int64_t width = 0;
};
RopeTable rope_table(std::int64_t width, double base, const RopeScaling& scaling = {});

/// A table bound to the positions [t] of a pass. With dynamic scaling the frequencies depend on how long a token's
/// sequence is: `lengths` [t], or undefined for the largest position of all + 1.
class Rope {
 public:
  Rope(const RopeTable& table, const LazyTensor& positions, const LazyTensor& lengths = {});
  /// x [t, heads, width], turned.
  LazyTensor operator()(const LazyTensor& x) const;
  double score_factor() const { return table_->score_factor; }

 private:
  const RopeTable* table_;
  LazyTensor positions_, cosine_, sine_;  // the last two for dynamic scaling
};

// ---- attention ------------------------------------------------------------------------------------------------------

/// Where a pass finds the keys and values of earlier tokens and leaves its own. Sequence i owns the rows key_offsets[i]
/// up to key_offsets[i+1] of every layer's tensors, in order of position; the first key_lengths[i] of them count, those
/// that this pass writes included. Places and lengths are data: one plan serves every position.
struct KeyValues {
  std::vector<LazyTensor> keys, values;  // a layer each, [rows, key heads, width]; a pass puts the new tensors here
  LazyTensor rows;                       // [t] i32: the row that a token's key and value go to; -1: they are dropped
  LazyTensor key_offsets, key_lengths;   // [s+1], [s] i32
};

struct AttentionShape {
  std::int64_t heads = 0, key_heads = 0, width = 0;
  double scale = 0;         // 0: 1/sqrt(width)
  double softcap = 0;       // 0: none
  std::int64_t window = 0;  // 0: none
  bool rotated = true;      // queries and keys are turned by their positions
  double qk_norm_eps = -1;  // not negative: queries and keys are normalised by module + ".q_norm" and ".k_norm"
};

/// Causal self-attention with q_proj, k_proj, v_proj and o_proj below `module`. x [t, hidden]; `offsets` [s+1] i32 says
/// where sequences begin (undefined: there is one). With `cache`, in which `layer` is this one's number, the tokens are
/// the last of their sequences, and `offsets` must be there.
LazyTensor attention(const Weights& w, std::string_view module, const LazyTensor& x, const AttentionShape& shape,
                     const Rope& rope, const LazyTensor& offsets = {}, KeyValues* cache = nullptr, int layer = 0);

}  // namespace metal_candle::nn
