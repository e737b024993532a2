// LoRA: what an adapter is (LoRAConfig), one layer's term by itself (LoRALayer), the adapter of a model (LoRAAdapter),
// and several of them beside one model (AdapterRegistry).
//
//   mc::LoRAConfig config{.rank = 16, .alpha = 32, .target_modules = {"q_proj", "v_proj"}};
//   mc::LoRAAdapter adapter = mc::LoRAAdapter::create(model, config, mc::Key(1));
//   mc::nn::Weights w = model.weights();
//   adapter.apply(w);                                  // terms in the graph; the model itself is untouched
//   mc::LazyTensor h = model.hidden(w, batch);
//   adapter.save("out");                               // PEFT's files
//   mc::Model merged = mc::LoRAAdapter::load("out", model).merge(model);
//
// An adapter never changes a model: to unmerge is to go back to the model that was merged, whose bits nobody touched.
// Configs, layers and adapters are plain values over shared tensors: read them from any thread, change one in one
// thread.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "metal_candle/json.hpp"
#include "metal_candle/model.hpp"
#include "metal_candle/nn.hpp"
#include "metal_candle/param_tree.hpp"
#include "metal_candle/random.hpp"
#include "metal_candle/tensor.hpp"

namespace metal_candle {

namespace lora {
struct Layout;
}

/// Rank, scale and reach of an adapter, with the meaning that PEFT's adapter_config.json gives them.
struct LoRAConfig {
  std::int64_t rank = 8;
  double alpha = 16;
  double dropout = 0;
  /// The scale is alpha / sqrt(rank) instead of alpha / rank.
  bool rslora = false;
  /// Module names, each whole ("model.layers.0.mlp.up_proj") or an end of it ("up_proj"); or {"all-linear"}: every
  /// linear layer but the output head. With `target_regex` the one entry is a regular expression for the whole name.
  std::vector<std::string> target_modules = {"all-linear"};
  bool target_regex = false;
  /// Like target_modules, and stronger.
  std::vector<std::string> exclude_modules = {};
  bool exclude_regex = false;
  /// Ranks and alphas of modules whose name, or an end of it, matches the expression; the first that does counts.
  std::vector<std::pair<std::string, std::int64_t>> rank_pattern = {};
  std::vector<std::pair<std::string, double>> alpha_pattern = {};
  /// Only these layers (empty: all), where targets are given by the ends of their names.
  std::vector<std::int64_t> layers_to_transform = {};
  std::vector<std::string> layers_pattern = {};
  /// Modules that are trained and saved whole.
  std::vector<std::string> modules_to_save = {};
  std::string base_model = {};

  /// Throws FileError for what is missing or malformed, and, by name, for settings that would change the mathematics
  /// and are not supported (use_dora, layer_replication, ...).
  static LoRAConfig from_json(const Json& adapter_config);
  Json to_json() const;
  /// As a command line says it: "q_proj,v_proj", "all-linear", or one regular expression.
  void set_targets(std::string_view list);
  /// Throws UserError for a rank, dropout, pattern ... that makes no sense.
  void check() const;

  /// Whether a module is adapted; `linear_not_head` says what "all-linear" wants to know.
  bool targets(std::string_view module, bool linear_not_head) const;
  bool saves(std::string_view module) const;
  std::int64_t rank_of(std::string_view module) const;
  double scale_of(std::string_view module) const;
};

/// One term by itself: x -> scale · (dropout(x)·aᵀ)·bᵀ, a [r, in], b [out, r].
class LoRALayer {
 public:
  LoRALayer(LazyTensor a, LazyTensor b, double scale, double dropout = 0);
  /// As PEFT begins: a uniform within ±1/sqrt(in), b zero. Rank, alpha, dropout and rslora come from the config.
  static LoRALayer create(std::int64_t in, std::int64_t out, const LoRAConfig& config, Key key);

  /// While training, and with a dropout, inputs are dropped by the key of the call.
  void train(bool on) { training_ = on; }
  bool training() const { return training_; }
  /// x [.., in] to [.., out], recorded.
  LazyTensor forward_lazy(const LazyTensor& x, Key key = Key(0)) const;
  /// The same, computed.
  Tensor forward(const LazyTensor& x, Key key = Key(0)) const { return forward_lazy(x, key).eval(); }
  /// "lora_A.weight" and "lora_B.weight".
  ParamTree parameters() const;
  double scale() const { return scale_; }

 private:
  LazyTensor a_, b_;
  double scale_, dropout_;
  bool training_ = false;
};

class LoRAAdapter {
 public:
  /// A fresh adapter: it changes nothing until it is trained. Targets may also be named embeddings, head, q, k, v, o,
  /// gate, up and down; its config has the model's names. Throws UserError for each target that no module has.
  static LoRAAdapter create(const Model& model, const LoRAConfig& config, Key key);
  /// PEFT's folder, or mlx-lm's. Everything is checked against the model; FileError names file, tensor, expected, got.
  static LoRAAdapter load(const std::filesystem::path& folder, const Model& model);
  /// adapter_config.json and adapter_model.safetensors as PEFT writes them, each file whole or not at all.
  void save(const std::filesystem::path& folder) const;

  const LoRAConfig& config() const { return config_; }
  /// What training changes, in a fixed order: "<module>.lora_A.weight", "<module>.lora_B.weight", ... in f32.
  const ParamTree& trainable() const { return trainable_; }
  /// The same adapter with other tensors. Paths and shapes must match.
  LoRAAdapter with(ParamTree trainable) const;
  /// The same adapter, to be trained with another dropout.
  LoRAAdapter with_dropout(double dropout) const;
  /// Adds the terms to weights of the model that the adapter was made for. Dropout is the trainer's affair
  /// (nn::Weights::lora_dropout).
  void apply(nn::Weights& weights) const;
  /// Names of the adapted modules.
  std::vector<std::string> modules() const;

  /// The model with the adapter's terms added to its weights, in f32, then rounded once: to `dtype`, which all weights
  /// get, or to the model's type. A tied head that is no longer the embedding gets a weight of its own. Throws UserError
  /// naming the first merged weight that is not finite.
  Model merge(const Model& base, std::optional<DType> dtype = {}) const;

 private:
  LoRAAdapter(LoRAConfig config, lora::Layout layout, ParamTree trainable, ParamTree replaced, DType dtype);
  static LoRAAdapter load_peft(const std::filesystem::path& folder, const Model& model, const Json& config);
  static LoRAAdapter load_mlx(const std::filesystem::path& folder, const Model& model, const Json& config);

  LoRAConfig config_;
  std::shared_ptr<const lora::Layout> layout_;
  ParamTree trainable_;
  ParamTree replaced_;  // base weights that the file brought along, not trained
  DType dtype_;         // the model's
};

/// Adapters beside one model, one of them or none in use. Switching takes no time that depends on their size, and
/// adapters of the same structure share their plans. All members may be called from any thread; `weights` gives a value
/// that later switches do not change.
class AdapterRegistry {
 public:
  explicit AdapterRegistry(Model model);

  /// Loads under a name; a name that is taken gets the new adapter. Files are read and checked before anything changes.
  void load(const std::string& name, const std::filesystem::path& folder);
  void add(const std::string& name, const LoRAAdapter& adapter);
  void remove(const std::string& name);
  /// Throws UserError naming the adapters there are.
  void use(std::string_view name);
  void use_base();
  /// Empty: the base.
  std::string active() const;
  std::vector<std::string> names() const;
  /// Of the adapter in use; by name, "" for the base.
  nn::Weights weights() const;
  nn::Weights weights(std::string_view name) const;
  const Model& model() const { return model_; }

 private:
  const nn::Weights& find(std::string_view name) const;

  Model model_;
  mutable std::mutex mutex_;
  std::map<std::string, nn::Weights, std::less<>> adapters_;
  std::string active_;
};

}  // namespace metal_candle
