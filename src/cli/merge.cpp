// metal-candle merge and metal-candle convert: both write a model folder.
#include <fmt/format.h>

#include <algorithm>
#include <filesystem>
#include <map>

#include "cli/commands.h"
#include "cli/loading.h"
#include "cli/report.h"
#include "metal_candle/error.hpp"
#include "metal_candle/gguf.hpp"
#include "metal_candle/lora.hpp"
#include "metal_candle/safetensors.hpp"

namespace metal_candle::cli {

namespace {

int written(const Invocation& run, const std::string& output, const Model& model) {
  if (run.json()) write_event(Json::object({{"event", "result"}, {"output", output}, {"dtype", name(model.dtype())}}));
  else say(run, fmt::format("{}: a {} model in {}", output, model.config().family, name(model.dtype())));
  return kDone;
}

void refuse_existing(const std::string& output) {
  if (std::filesystem::exists(output))
    throw FileError(FileFault::create, output, "", "a folder that is not there yet", "one that is");
}

DType most_of(const std::map<std::string_view, std::size_t>& bytes) {
  const auto most = std::max_element(bytes.begin(), bytes.end(), [](auto& a, auto& b) { return a.second < b.second; });
  if (most != bytes.end() && most->first == "BF16") return DType::bf16;
  if (most != bytes.end() && most->first == "F16") return DType::f16;
  return DType::f32;
}

/// The type that most bytes of a model's files have, so that every machine writes the same folder and nothing is lost;
/// f32 where that is no type to compute in, as with quantised weights.
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

Model load_as_stored(const Invocation& run) {
  const std::string source = run.text("--model");
  const bool named = run.dtype() || !std::filesystem::exists(source);  // what is not there, loading says
  return Model::load(source, {.dtype = named ? run.dtype() : stored_dtype(source)});
}

}  // namespace

int merge(const Invocation& run) {
  const std::string output = run.text("--output"), adapter = run.text("--adapter"), source = run.text("--model");
  refuse_existing(output);
  const Model model = load_as_stored(run);
  const Model merged = LoRAAdapter::load(adapter, model).merge(model);
  save_model(output, merged, source);
  return written(run, output, merged);
}

int convert(const Invocation& run) {
  const std::string output = run.text("--output"), source = run.text("--model");
  refuse_existing(output);
  const Model model = load_as_stored(run);
  save_model(output, model, source);
  return written(run, output, model);
}

}  // namespace metal_candle::cli
