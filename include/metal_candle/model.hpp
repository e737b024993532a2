// Language models: what they are (ModelConfig), their weights and their forward pass (Model).
//
//   mc::Model model = mc::Model::load("SmolLM2-135M-Instruct");   // a folder with config.json + safetensors, or a .gguf
//   mc::LazyTensor h = model.hidden(model.weights(), {.ids = ids, .positions = positions});   // [t, hidden]
//   mc::Tensor logits = model.logits(model.weights(), h).eval();                               // [t, vocabulary]
//
// A pass reads its weights from an `nn::Weights`: the model's own, or a copy to which an adapter has added its terms.
// So one model serves any number of adapters, and its base weights stay frozen. Weights have the names and shapes that
// transformers gives them, whatever file they came from. A model is immutable; copies share everything, and any thread
// may use one.
#pragma once

#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "metal_candle/nn.hpp"

namespace metal_candle {

class Json;
class Gguf;

/// A model's sizes and switches. The defaults are those of transformers' classes where config.json may leave things
/// out.
struct ModelConfig {
  std::string family;  // "llama", "mistral", "qwen2", "qwen3", "smollm3", "gemma2": config.json's model_type
  std::int64_t vocabulary = 0, hidden = 0, intermediate = 0, layers = 0;
  std::int64_t heads = 0, key_heads = 0, head_width = 0;
  std::int64_t max_positions = 0;  // the context
  double norm_eps = 1e-6;
  nn::Activation activation = nn::Activation::silu;
  bool tied_embeddings = false;  // the head is the embedding
  bool qkv_bias = false, output_bias = false, mlp_bias = false;
  bool qk_norm = false;
  double rope_base = 10000;
  nn::RopeScaling rope;
  std::vector<bool> rotated;                                             // per layer; empty: all
  std::int64_t window = 0;                                               // of the layers that have one
  std::vector<bool> windowed;                                            // per layer; empty: none
  double attention_softcap = 0, logit_softcap = 0, attention_scale = 0;  // 0: none, none, 1/sqrt(head_width)
  std::optional<std::int32_t> bos;
  std::vector<std::int32_t> eos;  // any of these ends a text
  std::optional<std::int32_t> pad;

  /// Tokens that a sequence may have: max_positions, or what dynamic scaling makes of it.
  std::int64_t context() const;
  /// Reads config.json as transformers 4 and 5 write it. What changes the mathematics and is not known here (a family,
  /// a rope scaling, a quantization, an activation) is refused: FileError with the field and what is known.
  static ModelConfig from_json(const Json& config);
  /// The same from the metadata of a GGUF file. Llama files say "llama" for Mistral models too.
  static ModelConfig from_gguf(const Gguf& file);
  /// A config.json that transformers 4 and 5 load.
  Json to_json(DType dtype = DType::f32) const;
  /// Throws UserError naming the field where sizes contradict each other or a family is not known.
  void check() const;
};
/// The families there are, for messages.
const std::vector<std::string>& model_families();

/// Tokens of one or several sequences, packed one after the other.
struct Batch {
  LazyTensor ids;           // [t] i32
  LazyTensor positions;     // [t] i32, each within its sequence
  LazyTensor offsets = {};  // [s+1] i32: where each sequence begins, and the end; undefined: one sequence
  LazyTensor lengths = {};  // [t] i32: how long each token's sequence is; read by dynamic rope scaling only
};

/// `layers` of activations are recomputed in the backward pass instead of being kept.
struct ForwardOptions {
  bool checkpoint_layers = false;
};

struct LoadOptions {
  /// The type of all weights. Default: bf16 where the processor multiplies it in one instruction, else f32.
  std::optional<DType> dtype = {};
  /// Whether the head is needed. Without it the embedding stands in its place, and a file may lack one.
  bool head = true;
};

class Model {
 public:
  /// A folder with config.json and safetensors, or a GGUF file. Throws FileError naming file and field or tensor.
  static Model load(const std::filesystem::path& path, const LoadOptions& options = {});
  /// Checks that every weight is there with its shape (UserError names the first that is not) and freezes what is
  /// evaluated. Tensors that the model has no use for are left out.
  Model(ModelConfig config, const ParamTree& parameters);
  /// Weights drawn as small models are initialised: for tests and benchmarks.
  static Model random(const ModelConfig& config, Key key, DType dtype = DType::f32);

  const ModelConfig& config() const;
  const ParamTree& parameters() const;
  /// The base weights, to read or to copy and adapt. Copies are cheap.
  const nn::Weights& weights() const;
  DType dtype() const;
  /// Paths of all linear layers in order, the head last where it has a weight of its own.
  std::vector<std::string> linear_modules() const;

  /// [t, hidden] after the final norm.
  LazyTensor hidden(const nn::Weights& w, const Batch& batch, const ForwardOptions& options = {}) const;
  /// The same for tokens that go on from what `cache` keeps; batch.offsets must be there. Afterwards cache.keys and
  /// cache.values are the new ones: evaluate them with the result, and donate the old ones.
  LazyTensor hidden(const nn::Weights& w, const Batch& batch, nn::KeyValues& cache) const;
  /// [.., vocabulary] in the model's type, for rows of `hidden`.
  LazyTensor logits(const nn::Weights& w, const LazyTensor& hidden) const;
  /// cross_entropy(logits(w, hidden), targets) in f32, for rows of `hidden` [t, hidden] and targets [t]. The matrix of
  /// logits is held only where they are softcapped.
  LazyTensor cross_entropy(const nn::Weights& w, const LazyTensor& hidden, const LazyTensor& targets,
                           const CrossEntropyOptions& options = {}) const;

 private:
  struct State;
  std::shared_ptr<const State> state_;
};

/// The names and shapes of all weights that a model of this kind has, in file order.
std::vector<std::pair<std::string, Shape>> weight_shapes(const ModelConfig& config);

/// The type that most bytes of a model's files have (a folder or a GGUF file), f32 where that is no type to compute in, as
/// with quantised weights. As LoadOptions::dtype it loses nothing and is the same on every machine. Throws FileError.
DType stored_dtype(const std::filesystem::path& path);

}  // namespace metal_candle
