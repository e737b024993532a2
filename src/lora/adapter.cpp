// LoRAAdapter: the terms of a model. Files are in adapter_files.cpp, merging is in merge.cpp.
#include <fmt/format.h>

#include <algorithm>

#include "lora/initial.h"
#include "lora/layout.h"
#include "metal_candle/error.hpp"
#include "metal_candle/lora.hpp"
#include "metal_candle/ops.hpp"
#include "metal_candle/runtime.hpp"

namespace metal_candle {
namespace lora {
namespace {

constexpr std::string_view kHead = "lm_head", kEmbedding = "model.embed_tokens", kWeight = ".weight", kBias = ".bias";

std::string joined(std::string_view a, std::string_view b) { return std::string(a).append(b); }

/// Every module that an adapter may touch, in the model's order.
std::vector<std::string> candidates(const Model& model) {
  std::vector<std::string> all{std::string(kEmbedding)};
  for (std::string& module : model.linear_modules()) all.push_back(std::move(module));
  if (std::find(all.begin(), all.end(), kHead) == all.end()) all.emplace_back(kHead);
  return all;
}

void add_module(const Model& model, const LoRAConfig& config, const std::string& path, Layout& layout) {
  const Shape& weight = model.weights()[joined(path, kWeight)].shape();
  const std::int64_t rank = config.rank_of(path);
  const bool embedding = path == kEmbedding;
  layout.modules.push_back({path, embedding, config.scale_of(path)});
  if (embedding) {
    layout.tensors.push_back({joined(path, ".lora_embedding_A"), {rank, weight[0]}});
    layout.tensors.push_back({joined(path, ".lora_embedding_B"), {weight[1], rank}});
  } else {
    layout.tensors.push_back({joined(path, ".lora_A.weight"), {rank, weight[1]}});
    layout.tensors.push_back({joined(path, ".lora_B.weight"), {weight[0], rank}});
  }
}

void add_saved(const Model& model, const LoRAConfig& config, Layout& layout) {
  std::vector<std::string> paths;
  for (const auto& [path, tensor] : model.parameters()) paths.push_back(path);
  if (const std::string head = joined(kHead, kWeight); std::find(paths.begin(), paths.end(), head) == paths.end())
    paths.push_back(head);
  for (const std::string& path : paths) {
    const std::size_t end = path.ends_with(kWeight) ? kWeight.size() : path.ends_with(kBias) ? kBias.size() : 0;
    if (end == 0 || !config.saves(std::string_view(path).substr(0, path.size() - end))) continue;
    layout.saved.push_back(path);
    layout.tensors.push_back({path, model.weights()[path].shape()});
  }
}

bool is_name_of(std::string_view module, std::string_view name) {
  return module.ends_with(name) && (module.size() == name.size() || module[module.size() - name.size() - 1] == '.') &&
         !name.empty();
}

/// The last words of the modules' names, each once: "embed_tokens, q_proj, ..., lm_head".
std::string kinds_of(const std::vector<std::string>& modules) {
  std::vector<std::string_view> kinds;
  for (const std::string_view module : modules) {
    const std::string_view kind = module.substr(module.rfind('.') + 1);
    if (std::find(kinds.begin(), kinds.end(), kind) == kinds.end()) kinds.push_back(kind);
  }
  return fmt::format("{}", fmt::join(kinds, ", "));
}

/// The name that the model has for a word people use; any other word as it is.
std::string_view real_name(std::string_view word) {
  constexpr std::pair<std::string_view, std::string_view> kWords[] = {{"embeddings", "embed_tokens"},
                                                                      {"embedding", "embed_tokens"},
                                                                      {"q", "q_proj"},
                                                                      {"k", "k_proj"},
                                                                      {"v", "v_proj"},
                                                                      {"o", "o_proj"},
                                                                      {"gate", "gate_proj"},
                                                                      {"up", "up_proj"},
                                                                      {"down", "down_proj"},
                                                                      {"head", "lm_head"}};
  for (const auto& [usual, real] : kWords)
    if (word == usual) return real;
  return word;
}

/// Every target by the model's own name. A name that nothing has is a mistake: what it meant would not be trained, and
/// the adapter would say that it was.
LoRAConfig with_real_names(const Model& model, LoRAConfig config) {
  const bool all = config.target_modules.size() == 1 && config.target_modules[0] == "all-linear";
  if (config.target_regex || all) return config;
  const std::vector<std::string> modules = candidates(model);
  std::vector<std::string> unknown;
  const auto is_there = [&](std::string_view name) {
    return std::any_of(modules.begin(), modules.end(), [&](const std::string& m) { return is_name_of(m, name); });
  };
  for (std::string& name : config.target_modules)
    if (is_there(real_name(name)) && !is_there(name)) name = real_name(name);
    else if (!is_there(name)) unknown.push_back(fmt::format("\"{}\"", name));
  if (!unknown.empty())
    throw UserError(ErrorKind::argument,
                    fmt::format("LoRA: target modules: the model has no {}; its modules are {}{}",
                                fmt::join(unknown, ", "), kinds_of(modules),
                                unknown[0] == "\"all-linear\"" ? ", and all-linear is a word that stands alone" : ""));
  return config;
}

}  // namespace

Layout layout_of(const Model& model, const LoRAConfig& config) {
  config.check();
  Layout layout;
  for (const std::string& path : candidates(model))
    if (config.targets(path, path != kHead && path != kEmbedding)) add_module(model, config, path, layout);
  if (layout.modules.empty() && !config.target_modules.empty()) {
    throw UserError(ErrorKind::argument,
                    fmt::format("LoRA: no module of the model matches \"{}\"; its modules are {}",
                                fmt::join(config.target_modules, ", "), kinds_of(candidates(model))));
  }
  add_saved(model, config, layout);
  return layout;
}

}  // namespace lora

LoRAAdapter::LoRAAdapter(LoRAConfig config, lora::Layout layout, ParamTree trainable, ParamTree replaced, DType dtype)
    : config_(std::move(config)),
      layout_(std::make_shared<const lora::Layout>(std::move(layout))),
      trainable_(std::move(trainable)),
      replaced_(std::move(replaced)),
      dtype_(dtype) {}

LoRAAdapter LoRAAdapter::create(const Model& model, const LoRAConfig& config, Key key) {
  const LoRAConfig named = lora::with_real_names(model, config);
  lora::Layout layout = lora::layout_of(model, named);
  ParamTree trainable;
  std::size_t next = 0;
  for (const lora::Module& m : layout.modules) {
    const auto &a = layout.tensors[next++], &b = layout.tensors[next++];
    const Key own = lora::key_of(key, m.path);
    // Of an embedding it is the other factor that begins with zeros, as PEFT has it.
    trainable.insert(a.path, m.embedding ? zeros(a.shape) : lora::initial_a(a.shape[0], a.shape[1], own));
    trainable.insert(b.path, m.embedding ? randn(b.shape, {.key = own}) : zeros(b.shape));
  }
  for (const std::string& path : layout.saved) trainable.insert(path, cast(model.weights()[path], DType::f32) * 1.0);
  eval(trainable.tensors());
  return {named, std::move(layout), std::move(trainable), {}, model.dtype()};
}

LoRAAdapter LoRAAdapter::with(ParamTree trainable) const {
  bool fits = trainable.size() == trainable_.size();
  auto other = trainable.begin();
  for (auto mine = trainable_.begin(); fits && mine != trainable_.end(); ++mine, ++other)
    fits = mine->first == other->first && mine->second.shape() == other->second.shape();
  if (!fits) throw UserError(ErrorKind::argument, "LoRAAdapter::with: the tensors are not those of this adapter");
  LoRAAdapter result = *this;
  result.trainable_ = std::move(trainable);
  return result;
}

LoRAAdapter LoRAAdapter::with_dropout(double dropout) const {
  LoRAAdapter result = *this;
  result.config_.dropout = dropout;
  result.config_.check();
  return result;
}

void LoRAAdapter::apply(nn::Weights& weights) const {
  const auto typed = [&](const LazyTensor& t) { return t.dtype() == dtype_ ? t : cast(t, dtype_); };
  for (const auto& [path, tensor] : replaced_) weights.replace(path, typed(tensor));
  auto tensor = trainable_.begin();
  std::vector<std::pair<std::string_view, nn::LoraTerm>> terms;
  for (const lora::Module& m : layout_->modules) {
    const LazyTensor &a = (tensor++)->second, &b = (tensor++)->second;
    terms.emplace_back(m.path, nn::LoraTerm{a, b, m.scale});
  }
  for (const std::string& path : layout_->saved) weights.replace(path, typed((tensor++)->second));
  for (auto& [module, term] : terms) weights.adapt(module, std::move(term));
}

std::vector<std::string> LoRAAdapter::modules() const {
  std::vector<std::string> paths;
  for (const lora::Module& m : layout_->modules) paths.push_back(m.path);
  return paths;
}

}  // namespace metal_candle
