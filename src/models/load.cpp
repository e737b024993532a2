// Models from files: a folder as transformers keeps it, or one GGUF file.
#include <fmt/format.h>

#if defined(__aarch64__) && defined(__linux__)
#include <sys/auxv.h>
#endif

#include <algorithm>
#include <cstring>
#include <map>
#include <set>

#include "metal_candle/error.hpp"
#include "metal_candle/json.hpp"
#include "metal_candle/safetensors.hpp"
#include "models/gguf_model.h"

namespace metal_candle {
namespace {

namespace fs = std::filesystem;

constexpr std::string_view kHead = "lm_head.weight";

/// Whether this processor multiplies pairs of bf16 in one instruction.
bool bf16_is_fast() {
#if defined(__x86_64__)
  return __builtin_cpu_supports("avx512bf16") != 0;
#elif defined(__aarch64__) && defined(__linux__)
  constexpr unsigned long kBf16 = 1ul << 14;
  return (getauxval(AT_HWCAP2) & kBf16) != 0;
#else
  return false;
#endif
}

DType type_for(const LoadOptions& options) {
  const DType type = options.dtype.value_or(bf16_is_fast() ? DType::bf16 : DType::f32);
  if (!is_float(type)) throw UserError(ErrorKind::dtype, fmt::format("load: a model cannot be of {}", name(type)));
  return type;
}

Tensor as_type(const Tensor& t, DType type) { return t.dtype() == type ? t : cast(t, type).eval(); }

/// Checked before a byte of the tensor is read.
void check_shape(const fs::path& file, std::string_view name, const Shape& got, const Shape& wanted) {
  if (!(got == wanted)) throw FileError(FileFault::bad, file.string(), std::string(name), wanted.str(), got.str());
}
[[noreturn]] void missing(const fs::path& file, std::string_view name, const Shape& wanted) {
  throw FileError(FileFault::bad, file.string(), std::string(name), "a tensor " + wanted.str(), "none of that name");
}

// A base model's file (no head) names its weights without "model.".
std::string name_in(const SafeTensors& file, const std::string& path) {
  constexpr std::string_view kPrefix = "model.";
  if (!file.contains(path) && path.starts_with(kPrefix) && file.contains(path.substr(kPrefix.size())))
    return path.substr(kPrefix.size());
  return path;
}

/// What changes the mathematics and is not known is refused: a bias, a norm or a scale that nobody would apply.
[[noreturn]] void unknown(const fs::path& file, std::string_view name, const ModelConfig& config) {
  throw FileError(FileFault::bad, file.string(), std::string(name),
                  fmt::format("only tensors of a {} model as it is configured", config.family),
                  "one that it has no place for");
}

/// The modules that there are are looked at: beside them files keep heads that this model has no use for. The
/// frequencies of rotary embeddings, which older files store, are computed.
void check_known(const SafeTensors& file, const ModelConfig& config, const std::set<std::string>& known) {
  for (const TensorInfo& t : file.tensors()) {
    std::string_view name = t.name;
    if (name.starts_with("model.")) name.remove_prefix(6);
    const bool ours = name.starts_with("layers.") || name.starts_with("norm.") || name.starts_with("embed_tokens.") ||
                      t.name.starts_with("lm_head.");
    const bool useless = t.name == kHead || name.ends_with("rotary_emb.inv_freq");
    if (ours && !useless && !known.contains(t.name)) unknown(file.path(), t.name, config);
  }
}

/// The factors in rope_freqs became part of the configuration.
void check_known(const Gguf& file, const ModelConfig& config, const std::set<std::string>& known) {
  for (const GgufTensor& t : file.tensors()) {
    const bool unused_head = config.tied_embeddings && t.name == "output.weight";
    const bool rotary = t.name == "rope_freqs.weight" || t.name.ends_with(".attn_rot_embd.weight");
    if (!unused_head && !rotary && !known.contains(std::string(t.name))) unknown(file.path(), t.name, config);
  }
}

/// An adapter is a folder too, and easily taken for a model.
void refuse_adapter(const fs::path& folder) {
  if (!fs::exists(folder / "config.json") && fs::exists(folder / "adapter_config.json"))
    throw FileError(FileFault::bad, folder.string(), "", "a model (config.json)",
                    "an adapter, which goes beside the model that it was made for");
}

/// Whether a head in the file is another than the embeddings, whatever the configuration says: as transformers, which
/// then does not tie the two. Adapters that trained a head of their own leave such files when they are merged.
bool has_own_head(const SafeTensors& file, const ModelConfig& config) {
  const std::string table = name_in(file, "model.embed_tokens.weight");
  if (!file.contains(kHead) || !file.contains(table)) return false;
  const TensorInfo &head = *file.find(kHead), &embeddings = *file.find(table);
  check_shape(file.path(), kHead, head.shape, Shape{config.vocabulary, config.hidden});
  const auto a = file.bytes(kHead), b = file.bytes(table);
  return head.format != embeddings.format || a.size() != b.size() || std::memcmp(a.data(), b.data(), a.size()) != 0;
}

SafeTensors open_weights(const fs::path& folder) {
  try {
    return SafeTensors::open(folder);
  } catch (const FileError& e) {
    for (const char* name : {"pytorch_model.bin", "pytorch_model.bin.index.json"})
      if (e.fault() == FileFault::missing && fs::exists(folder / name))
        throw FileError(FileFault::bad, (folder / name).string(), "", "the model as model.safetensors",
                        "a pickle, which could run any code");
    throw;
  }
}

/// Files of a folder that are easily taken for the whole.
void refuse_part(const fs::path& file) {
  const fs::path kind = file.extension();
  if (kind == ".safetensors" || kind == ".json" || kind == ".bin")
    throw FileError(FileFault::bad, file.string(), "", "a folder or a .gguf file",
                    "a part of a model, which is the folder that it lies in");
}

Model load_folder(const fs::path& folder, const LoadOptions& options) {
  refuse_adapter(folder);
  ModelConfig config = ModelConfig::from_json(Json::load(folder / "config.json"));
  const SafeTensors file = open_weights(folder);
  if (config.tied_embeddings && options.head) config.tied_embeddings = !has_own_head(file, config);
  config.tied_embeddings |= !options.head;
  const DType type = type_for(options);
  ParamTree tree;
  std::set<std::string> known;
  for (const auto& [path, shape] : weight_shapes(config)) known.insert(name_in(file, path));
  check_known(file, config, known);
  for (const auto& [path, shape] : weight_shapes(config)) {
    const std::string name = name_in(file, path);
    const TensorInfo* info = file.find(name);
    if (!info) missing(file.path(), path, shape);
    check_shape(file.path(), name, info->shape, shape);
    if (!info->dtype || !is_float(*info->dtype))
      throw FileError(FileFault::bad, file.path().string(), name, "F32, BF16, F16 or F64", std::string(info->format));
    tree.insert(path, as_type(file.load(name), type));
  }
  return Model(config, tree);
}

/// Rows of each head from neighbouring pairs (0 1) (2 3) .. to halves (0 2 ..) (1 3 ..).
Tensor in_halves(const Tensor& t, std::int64_t heads) {
  const std::int64_t columns = t.rank() == 2 ? t.dim(1) : 1, half = t.dim(0) / heads / 2;
  return reshape(permute(reshape(t, {heads, half, 2, columns}), {0, 2, 1, 3}), t.shape().dims()).eval();
}

Tensor load_weight(const Gguf& file, const models::GgufSource& source, DType type) {
  Tensor t = file.load(source.name, type);
  if (source.permuted_heads > 0) t = in_halves(t, source.permuted_heads);
  if (source.add_one) t = cast(file.load(source.name, DType::f32) - 1, type).eval();
  return t;
}

Model load_gguf(const fs::path& path, const LoadOptions& options) {
  const Gguf file = Gguf::open(path);
  ModelConfig config = ModelConfig::from_gguf(file);
  config.tied_embeddings |= !options.head;
  const DType type = type_for(options);
  ParamTree tree;
  std::set<std::string> known;
  for (const auto& [name, shape] : weight_shapes(config)) known.insert(models::gguf_source(config, name).name);
  check_known(file, config, known);
  for (const auto& [name, shape] : weight_shapes(config)) {
    const models::GgufSource source = models::gguf_source(config, name);
    const GgufTensor* info = file.find_tensor(source.name);
    if (!info) missing(path, source.name, shape);
    check_shape(path, source.name, info->shape, shape);
    tree.insert(name, load_weight(file, source, type));
  }
  return Model(config, tree);
}

}  // namespace

Model Model::load(const fs::path& path, const LoadOptions& options) {
  std::error_code error;
  const fs::file_status status = fs::status(path, error);
  if (!fs::exists(status))
    throw FileError(FileFault::missing, path.string(), "", "a model: a folder or a .gguf file", "nothing");
  if (fs::is_directory(status)) return load_folder(path, options);
  refuse_part(path);
  return load_gguf(path, options);
}

namespace {

DType most_of(const std::map<std::string_view, std::size_t>& bytes) {
  const auto most = std::max_element(bytes.begin(), bytes.end(), [](auto& a, auto& b) { return a.second < b.second; });
  if (most != bytes.end() && most->first == "BF16") return DType::bf16;
  if (most != bytes.end() && most->first == "F16") return DType::f16;
  return DType::f32;
}

}  // namespace

DType stored_dtype(const std::filesystem::path& path) {
  std::map<std::string_view, std::size_t> bytes;
  if (std::filesystem::is_directory(path)) {
    const SafeTensors file = SafeTensors::open(path);
    for (const TensorInfo& t : file.tensors()) bytes[t.format] += t.bytes;
    return most_of(bytes);
  }
  const Gguf file = Gguf::open(path);
  for (const GgufTensor& t : file.tensors()) bytes[t.encoding] += t.bytes;
  return most_of(bytes);
}

}  // namespace metal_candle
