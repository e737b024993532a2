// modules.json and the configurations of its modules, as sentence-transformers 2 to 6 write them.
#include "embeddings/pipeline.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>

#include "metal_candle/error.hpp"
#include "metal_candle/json.hpp"
#include "metal_candle/ops.hpp"
#include "metal_candle/safetensors.hpp"

namespace metal_candle::embeddings {
namespace {

namespace fs = std::filesystem;

struct ModeName {
  std::string_view name, flag;
  PoolingMode mode;
};
// In the order in which flags are put together.
constexpr ModeName kModes[] = {
    {"cls", "pooling_mode_cls_token", PoolingMode::cls},
    {"max", "pooling_mode_max_tokens", PoolingMode::max},
    {"mean", "pooling_mode_mean_tokens", PoolingMode::mean},
    {"mean_sqrt_len_tokens", "pooling_mode_mean_sqrt_len_tokens", PoolingMode::mean_sqrt},
    {"weightedmean", "pooling_mode_weightedmean_tokens", PoolingMode::weighted_mean},
    {"lasttoken", "pooling_mode_lasttoken", PoolingMode::last},
};

struct ActivationName {
  std::string_view name;
  DenseActivation activation;
};
constexpr ActivationName kActivations[] = {
    {"Identity", DenseActivation::identity}, {"Tanh", DenseActivation::tanh},       {"ReLU", DenseActivation::relu},
    {"GELU", DenseActivation::gelu},         {"Sigmoid", DenseActivation::sigmoid}, {"SiLU", DenseActivation::silu},
};

/// What stands behind the last dot of a Python class's name.
std::string_view class_of(std::string_view path) {
  const std::size_t dot = path.rfind('.');
  return dot == std::string_view::npos ? path : path.substr(dot + 1);
}

template <class Row>
std::string names_of(std::span<const Row> rows) {
  std::string out;
  for (const Row& row : rows) out.append(out.empty() ? "" : ", ").append(row.name);
  return out;
}

bool flag(const Json& json, std::string_view key, bool otherwise) {
  const Json* value = json.find_value(key);
  return value ? value->as_bool() : otherwise;
}

/// A module's folder, inside the model's.
fs::path folder_of(const fs::path& root, const Json& module) {
  const Json& path = module.at("path");
  const fs::path below(path.as_string());
  if (below.is_absolute() || std::find(below.begin(), below.end(), "..") != below.end())
    path.fail("a folder inside the model's");
  return root / below;
}

// ---- pooling -------------------------------------------------------------------------------------------------------

PoolingMode mode_named(const Json& name) {
  for (const ModeName& row : kModes)
    if (row.name == name.as_string()) return row.mode;
  name.fail("one of " + names_of<ModeName>(kModes));
}

Pooling read_pooling(const fs::path& folder) {
  const fs::path file = folder / "config.json";
  const Json json = Json::load(file);
  Pooling p{.modes = {}, .include_prompt = flag(json, "include_prompt", true), .file = file.string(), .field = {}};
  for (const char* key : {"embedding_dimension", "word_embedding_dimension"})
    if (const Json* width = json.find_value(key)) p.width = width->positive(), p.field = key;
  if (const Json* mode = json.find_value("pooling_mode")) {
    if (mode->is_array())
      for (const Json& each : mode->elements()) p.modes.push_back(mode_named(each));
    else p.modes.push_back(mode_named(*mode));
    if (p.modes.empty()) mode->fail("at least one mode");
    return p;
  }
  for (const ModeName& row : kModes)
    if (flag(json, row.flag, false)) p.modes.push_back(row.mode);
  if (p.modes.empty()) p.modes.push_back(PoolingMode::mean);
  return p;
}

// ---- dense ---------------------------------------------------------------------------------------------------------

Tensor load_f32(const SafeTensors& file, const std::string& name, const Shape& shape) {
  const TensorInfo* info = file.find(name);
  const auto fail = [&](const std::string& expected, const std::string& got) {
    throw FileError(FileFault::bad, file.path().string(), name, expected, got);
  };
  if (!info) fail("a tensor " + shape.str(), "none of that name");
  if (!(info->shape == shape)) fail(shape.str(), info->shape.str());
  if (!info->dtype || !is_float(*info->dtype)) fail("F32, BF16, F16 or F64", std::string(info->format));
  Tensor t = cast(file.load(name), DType::f32).eval();
  return t.freeze();
}

DenseActivation activation_of(const Json& json) {
  const Json* name = json.find_value("activation_function");
  if (!name) return DenseActivation::tanh;
  for (const ActivationName& row : kActivations)
    if (row.name == class_of(name->as_string())) return row.activation;
  name->fail("one of torch's " + names_of<ActivationName>(kActivations));
}

Dense read_dense(const fs::path& folder) {
  const Json json = Json::load(folder / "config.json");
  const std::int64_t in = json.at("in_features").positive(), out = json.at("out_features").positive();
  for (const char* key : {"module_input_name", "module_output_name"})
    if (const Json* name = json.find_value(key); name && name->as_string() != "sentence_embedding")
      name->fail("\"sentence_embedding\"");
  Dense d;
  d.file = (folder / "config.json").string();
  d.activation = activation_of(json);
  d.add_input = flag(json, "use_residual", false);
  const SafeTensors file = SafeTensors::open(folder);
  d.weight = load_f32(file, "linear.weight", {out, in});
  if (flag(json, "bias", true)) d.bias = load_f32(file, "linear.bias", {out});
  if (d.add_input && in != out) d.residual = load_f32(file, "residual.weight", {out, in});
  return d;
}

// ---- the whole -----------------------------------------------------------------------------------------------------

/// The transformer's own settings; the file is named for the class that it was first written for.
void read_transformer(const fs::path& folder, Pipeline& p) {
  p.backbone = folder;
  for (const char* kind : {"bert", "roberta", "distilbert", "camembert", "xlm-roberta"}) {
    const fs::path path = folder / fmt::format("sentence_{}_config.json", kind);
    std::error_code error;
    if (!fs::exists(path, error)) continue;
    const Json json = Json::load(path);
    if (json.size() == 0) continue;
    if (const Json* most = json.find_value("max_seq_length")) p.max_tokens = most->positive();
    p.lower_case = flag(json, "do_lower_case", false);
    return;
  }
}

void read_prompts(const fs::path& folder, Pipeline& p) {
  const fs::path path = folder / "config_sentence_transformers.json";
  std::error_code error;
  if (!fs::exists(path, error)) return;
  const Json json = Json::load(path);
  // Every model has these two, empty unless it says otherwise.
  p.prompts = {{"query", ""}, {"document", ""}};
  if (const Json* prompts = json.find_value("prompts"))
    for (const JsonMember& m : prompts->items())
      p.prompts[std::string(m.key)] = m.value.is_null() ? std::string() : std::string(m.value.as_string());
  if (const Json* name = json.find_value("default_prompt_name")) {
    p.default_prompt = std::string(name->as_string());
    if (!p.prompts.contains(p.default_prompt)) name->fail("the name of one of the prompts");
  }
}

void add_module(const fs::path& root, const Json& module, Pipeline& p) {
  const Json& type = module.at("type");
  const std::string_view name = class_of(type.as_string());
  const bool first = p.backbone.empty();
  if (first != (name == "Transformer")) type.fail(first ? "a Transformer first" : "one Transformer");
  const fs::path folder = folder_of(root, module);
  if (first) return read_transformer(folder, p);
  if (!p.pooling) {
    if (name != "Pooling") type.fail("Pooling behind the Transformer");
    p.pooling = read_pooling(folder);
  } else if (name == "Dense") {
    p.steps.emplace_back(read_dense(folder));
  } else if (name == "Normalize") {
    p.steps.emplace_back(Normalize{});
  } else if (name != "Dropout") {  // which does nothing outside of training
    type.fail("Dense, Normalize or Dropout behind the Pooling");
  }
}

}  // namespace

Pipeline read_pipeline(const fs::path& folder) {
  Pipeline p;
  const fs::path list = folder / "modules.json";
  std::error_code error;
  if (!fs::is_directory(folder, error))
    throw FileError(FileFault::missing, folder.string(), "", "a model's folder",
                    fs::exists(folder, error) ? "a file" : "nothing");
  read_prompts(folder, p);
  if (!fs::exists(list, error)) {
    if (!fs::exists(folder / "config.json", error))
      throw FileError(FileFault::missing, folder.string(), "", "a folder with modules.json or config.json", "neither");
    read_transformer(folder, p);
    return p;
  }
  const Json modules = Json::load(list);
  for (const Json& module : modules.elements()) add_module(folder, module, p);
  if (!p.pooling) modules.fail("a Transformer and a Pooling");
  return p;
}

}  // namespace metal_candle::embeddings
