// Adapters in files: PEFT's, both ways, and mlx-lm's to be read.
#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <set>

#include "io/files.h"
#include "lora/layout.h"
#include "metal_candle/error.hpp"
#include "metal_candle/ops.hpp"
#include "metal_candle/runtime.hpp"
#include "metal_candle/safetensors.hpp"

namespace metal_candle {
namespace {

namespace fs = std::filesystem;

constexpr std::string_view kConfig = "adapter_config.json", kPrefix = "base_model.model.";
constexpr std::string_view kPeftTensors = "adapter_model.safetensors", kMlxTensors = "adapters.safetensors";

std::string joined(std::string_view a, std::string_view b) { return std::string(a).append(b); }

/// Which model the adapter was made for and which one this is: said where they do not fit.
std::string bases(const Json& config, std::string_view key, const Model& model) {
  const ModelConfig& c = model.config();
  const Json* base = config.find_value(key);
  return fmt::format(" (made for {}; this model: {}, {} layers, {} wide, {} tokens)",
                     base && base->is_string() ? base->dump() : "an unnamed model", c.family, c.layers, c.hidden,
                     c.vocabulary);
}

/// The file's tensors, and which of them have been asked for.
class Reader {
 public:
  Reader(const fs::path& file, std::string bases)
      : path_(file.string()), bases_(std::move(bases)), file_(SafeTensors::open(file)) {
    for (const TensorInfo& t : file_.tensors()) left_.emplace(t.name, t.shape);
  }

  bool contains(const std::string& name) const { return left_.contains(name); }
  /// In f32, in memory of its own.
  LazyTensor take(const std::string& tensor, const Shape& shape, bool transposed = false) {
    const auto found = left_.find(tensor);
    if (found == left_.end())
      throw FileError(FileFault::bad, path_, tensor, "a tensor of shape " + shape.str(), "none" + bases_);
    const Shape in_file = transposed ? Shape{shape[1], shape[0]} : shape;
    if (found->second != in_file)
      throw FileError(FileFault::bad, path_, tensor, "shape " + in_file.str(), found->second.str() + bases_);
    left_.erase(found);
    const Tensor t = file_.load(tensor);
    if (!is_float(t.dtype()))
      throw FileError(FileFault::bad, path_, tensor, "a float type", std::string(name(t.dtype())));
    const Tensor wide = t.dtype() == DType::f32 ? t : cast(t, DType::f32).eval();
    return Tensor(transposed ? transpose(wide).eval() : wide).copy();
  }
  std::vector<std::string> left() const {
    std::vector<std::string> names;
    for (const auto& [name, shape] : left_) names.push_back(name);
    return names;
  }
  [[noreturn]] void refuse(const std::string& name, const std::string& why) const {
    throw FileError(FileFault::bad, path_, name, "only tensors of adapted modules", why + bases_);
  }

 private:
  std::string path_, bases_;
  SafeTensors file_;
  std::map<std::string, Shape> left_;
};

/// Which setting is to blame where no module fits: without the choice of layers some would.
const char* misfit(const Model& model, LoRAConfig config) {
  if (config.layers_to_transform.empty()) return "target_modules";
  config.layers_to_transform.clear();
  try {
    lora::layout_of(model, config);
    return "layers_to_transform";
  } catch (const UserError&) {
    return "target_modules";
  }
}

/// The settings fit a module, or it is the file that is wrong.
lora::Layout layout_for_file(const Model& model, const LoRAConfig& config, const fs::path& file,
                             const std::string& bases) {
  try {
    return lora::layout_of(model, config);
  } catch (const UserError& e) {
    const std::string field = misfit(model, config);
    const bool layers = field == "layers_to_transform";
    throw FileError(FileFault::bad, file.string(), field, layers ? "layers of this model" : "modules of this model",
                    (layers ? fmt::format("{}", fmt::join(config.layers_to_transform, ", ")) : e.what()) + bases);
  }
}

bool same_values(const LazyTensor& a, const LazyTensor& b) {
  const LazyTensor differing = max(cast(not_equal(cast(a, DType::f32), cast(b, DType::f32)), DType::f32));
  return differing.eval().item<float>() == 0;
}

/// Beside adapters of embeddings and heads PEFT stores the layers themselves; what equals the base needs no keeping.
void take_base_layers(const Model& model, Reader& reader, ParamTree& replaced) {
  for (const char* module : {"model.embed_tokens", "lm_head"})
    for (const char* form : {".base_layer.weight", ".weight"}) {
      const std::string name = joined(joined(kPrefix, module), form), path = joined(module, ".weight");
      if (!reader.contains(name)) continue;
      const LazyTensor& base = model.weights()[path];
      const LazyTensor stored = reader.take(name, base.shape());
      if (!same_values(base, stored)) replaced.insert(path, stored);
    }
}

Json mlx_setting(const Json& config, std::string_view key) {
  const Json* parameters = config.find_value("lora_parameters");
  const Json* value = parameters ? parameters->find_value(key) : nullptr;
  return value ? *value : Json();
}

/// The settings say what the tensors are; where they say something else, one of the two belongs to another adapter.
void check_mlx(const Json& config, const LoRAConfig& c, const Model& model, const std::string& tensors) {
  const auto refuse = [&](const char* field, const std::string& has, std::int64_t stated) {
    throw FileError(FileFault::bad, config.file(), field, fmt::format("{}, as in {}", has, tensors),
                    std::to_string(stated));
  };
  if (const Json rank = mlx_setting(config, "rank"); !rank.is_null()) {
    if (rank.as_int64() != c.rank) refuse("rank", fmt::format("a rank of {}", c.rank), rank.as_int64());
    if (!c.rank_pattern.empty())
      refuse("rank", fmt::format("a rank of {} for {}", c.rank_pattern[0].second, c.rank_pattern[0].first),
             rank.as_int64());
  }
  const Json* layers = config.find_value("num_layers");
  if (!layers || layers->as_int64() < 0) return;  // of all
  std::set<std::string_view> adapted;
  constexpr std::string_view kLayers = "model.layers.";
  for (const std::string& module : c.target_modules)
    if (module.starts_with(kLayers))
      adapted.insert(std::string_view(module).substr(0, module.find('.', kLayers.size())));
  const auto count = static_cast<std::int64_t>(adapted.size());
  if (count > 0 && count != std::min(layers->as_int64(), model.config().layers))
    refuse("num_layers", fmt::format("{} layers", count), layers->as_int64());
}

/// Modules and ranks are what the file has; the scale is in the settings.
LoRAConfig mlx_config(const Json& config, const SafeTensors& file, const std::string& path) {
  if (const Json* type = config.find_value("fine_tune_type"); type && type->as_string() != "lora")
    type->fail("\"lora\"");
  const Json stated = mlx_setting(config, "scale");
  const double scale = stated.is_null() ? 20 : stated.as_double();
  LoRAConfig c;
  c.target_modules.clear();
  if (const Json d = mlx_setting(config, "dropout"); !d.is_null()) c.dropout = d.as_double();
  std::map<std::int64_t, std::size_t> ranks;
  for (const TensorInfo& t : file.tensors())
    if (t.name.ends_with(".lora_a")) {
      if (t.shape.rank() != 2 || t.shape[1] < 1)
        throw FileError(FileFault::bad, path, t.name, "shape [in, rank]", t.shape.str());
      const std::string module = t.name.substr(0, t.name.size() - 7);
      c.target_modules.push_back(module);
      c.rank_pattern.emplace_back(module, t.shape[1]);
      c.alpha_pattern.emplace_back(module, scale * static_cast<double>(t.shape[1]));
      ++ranks[t.shape[1]];
    }
  if (ranks.empty())
    throw FileError(FileFault::bad, path, "", "tensors named <module>.lora_a and <module>.lora_b", "none");
  c.rank = std::max_element(ranks.begin(), ranks.end(), [](auto& x, auto& y) { return x.second < y.second; })->first;
  c.alpha = scale * static_cast<double>(c.rank);
  // What all have in common is said once.
  std::erase_if(c.alpha_pattern, [&](const auto& p) { return p.second == c.alpha; });
  std::erase_if(c.rank_pattern, [&](const auto& p) { return p.second == c.rank; });
  return c;
}

/// Expressions as what they chose here: Python's, which PEFT reads, differ from these, and its model has modules that
/// this one does not count (mlp.act_fn). A whole name means that module alone.
LoRAConfig without_expressions(LoRAConfig config, const lora::Layout& layout) {
  if (!config.target_regex && !config.exclude_regex) return config;
  config.target_modules.clear();
  for (const lora::Module& m : layout.modules) config.target_modules.push_back(m.path);
  config.exclude_modules.clear();
  config.layers_to_transform.clear();
  config.layers_pattern.clear();
  config.target_regex = config.exclude_regex = false;
  return config;
}

}  // namespace

LoRAAdapter LoRAAdapter::load(const fs::path& folder, const Model& model) {
  const Json config = Json::load(folder / kConfig);
  if (config.contains("peft_type")) return load_peft(folder, model, config);
  if (config.contains("fine_tune_type") || config.contains("lora_parameters")) return load_mlx(folder, model, config);
  throw FileError(FileFault::bad, (folder / kConfig).string(), "peft_type", "\"LORA\", or the settings of mlx-lm",
                  "neither");
}

LoRAAdapter LoRAAdapter::load_peft(const fs::path& folder, const Model& model, const Json& config) {
  const LoRAConfig settings = LoRAConfig::from_json(config);
  if (!fs::exists(folder / kPeftTensors) && fs::exists(folder / "adapter_model.bin"))
    throw FileError(FileFault::bad, (folder / "adapter_model.bin").string(), "",
                    joined("the adapter as ", kPeftTensors), "a pickle, which could run any code");
  const std::string models = bases(config, "base_model_name_or_path", model);
  lora::Layout layout = layout_for_file(model, settings, folder / kConfig, models);
  Reader reader(folder / kPeftTensors, models);
  ParamTree trainable, replaced;
  for (const lora::TensorPlace& t : layout.tensors)
    trainable.insert(t.path, reader.take(joined(kPrefix, t.path), t.shape));
  take_base_layers(model, reader, replaced);
  for (const std::string& name : reader.left()) reader.refuse(name, "one that adapter_config.json does not ask for");
  return {settings, std::move(layout), std::move(trainable), std::move(replaced), model.dtype()};
}

LoRAAdapter LoRAAdapter::load_mlx(const fs::path& folder, const Model& model, const Json& config) {
  const fs::path file = folder / kMlxTensors;
  LoRAConfig settings = mlx_config(config, SafeTensors::open(file), file.string());
  check_mlx(config, settings, model, std::string(kMlxTensors));
  const std::string models = bases(config, "model", model);
  lora::Layout layout = layout_for_file(model, settings, file, models);
  Reader reader(file, models);
  ParamTree trainable;
  std::size_t next = 0;
  for (const lora::Module& m : layout.modules) {
    const lora::TensorPlace &a = layout.tensors[next++], &b = layout.tensors[next++];
    if (m.embedding) reader.refuse(m.path + ".lora_a", "an adapter of an embedding");
    trainable.insert(a.path, reader.take(m.path + ".lora_a", a.shape, true));
    trainable.insert(b.path, reader.take(m.path + ".lora_b", b.shape, true));
  }
  for (const std::string& name : reader.left()) reader.refuse(name, "no module of this model");
  return {std::move(settings), std::move(layout), std::move(trainable), {}, model.dtype()};
}

void LoRAAdapter::save(const fs::path& folder) const {
  std::error_code error;
  fs::create_directories(folder, error);
  if (error) throw FileError(FileFault::create, folder.string(), "", "cannot be created: " + error.message());
  std::vector<std::pair<std::string, Tensor>> tensors;
  eval(trainable_.tensors());
  for (const auto& [path, tensor] : trainable_) tensors.emplace_back(joined(kPrefix, path), Tensor(tensor));
  for (const auto& [path, tensor] : replaced_) {
    const std::string module = path.substr(0, path.size() - std::string_view(".weight").size());
    const bool adapted =
        std::any_of(layout_->modules.begin(), layout_->modules.end(), [&](auto& m) { return m.path == module; });
    tensors.emplace_back(joined(kPrefix, module) + (adapted ? ".base_layer.weight" : ".weight"), Tensor(tensor));
  }
  save_safetensors(folder / kPeftTensors, tensors, {{"format", "pt"}});
  io::write_file(folder / kConfig, without_expressions(config_, *layout_).to_json().dump(2) + "\n");
}

}  // namespace metal_candle
