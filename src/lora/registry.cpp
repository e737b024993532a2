// AdapterRegistry: weights with terms in them, ready made, by name.
#include "metal_candle/error.hpp"
#include "metal_candle/lora.hpp"
#include "metal_candle/ops.hpp"
#include "metal_candle/runtime.hpp"

namespace metal_candle {

AdapterRegistry::AdapterRegistry(Model model) : model_(std::move(model)) {}

void AdapterRegistry::load(const std::string& name, const std::filesystem::path& folder) {
  add(name, LoRAAdapter::load(folder, model_));
}

void AdapterRegistry::add(const std::string& name, const LoRAAdapter& adapter) {
  if (name.empty()) throw UserError(ErrorKind::argument, "an adapter must have a name");
  // Copies in the model's type: constants of every plan that reads them, whatever happens to the adapter.
  std::vector<LazyTensor> frozen;
  for (const auto& [path, tensor] : adapter.trainable()) {
    Tensor copy = cast(tensor, model_.dtype()).eval().copy();
    frozen.push_back(copy.freeze());
  }
  nn::Weights weights = model_.weights();
  adapter.with(adapter.trainable().with(std::move(frozen))).apply(weights);
  const std::lock_guard lock(mutex_);
  adapters_.insert_or_assign(name, std::move(weights));
}

void AdapterRegistry::remove(const std::string& name) {
  const std::lock_guard lock(mutex_);
  find(name);
  adapters_.erase(name);
  if (active_ == name) active_.clear();
}

void AdapterRegistry::use(std::string_view name) {
  const std::lock_guard lock(mutex_);
  find(name);
  active_ = name;
}

void AdapterRegistry::use_base() {
  const std::lock_guard lock(mutex_);
  active_.clear();
}

std::string AdapterRegistry::active() const {
  const std::lock_guard lock(mutex_);
  return active_;
}

std::vector<std::string> AdapterRegistry::names() const {
  const std::lock_guard lock(mutex_);
  std::vector<std::string> all;
  for (const auto& [name, weights] : adapters_) all.push_back(name);
  return all;
}

nn::Weights AdapterRegistry::weights() const {
  const std::lock_guard lock(mutex_);
  return active_.empty() ? model_.weights() : find(active_);
}

nn::Weights AdapterRegistry::weights(std::string_view name) const {
  const std::lock_guard lock(mutex_);
  return name.empty() ? model_.weights() : find(name);
}

const nn::Weights& AdapterRegistry::find(std::string_view name) const {
  const auto found = adapters_.find(name);
  if (found != adapters_.end()) return found->second;
  std::string known;
  for (const auto& [other, weights] : adapters_) known += (known.empty() ? "" : ", ") + other;
  throw UserError(ErrorKind::argument,
                  "there is no adapter \"" + std::string(name) + "\"; there are: " + (known.empty() ? "none" : known));
}

}  // namespace metal_candle
