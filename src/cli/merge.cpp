// metal-candle merge and metal-candle convert: both write a model folder.
#include <fmt/format.h>

#include <filesystem>

#include "cli/commands.h"
#include "cli/loading.h"
#include "cli/report.h"
#include "metal_candle/error.hpp"
#include "metal_candle/lora.hpp"

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

Model load_as_stored(const Invocation& run) {
  const std::string& source = run.text("--model");
  const bool named = run.dtype() || !std::filesystem::exists(source);  // what is not there, loading says
  return Model::load(source, {.dtype = named ? run.dtype() : stored_dtype(source)});
}

}  // namespace

int merge(const Invocation& run) {
  const std::string &output = run.text("--output"), &adapter = run.text("--adapter"), &source = run.text("--model");
  refuse_existing(output);
  const Model model = load_as_stored(run);
  const Model merged = LoRAAdapter::load(adapter, model).merge(model);
  save_model(output, merged, source);
  return written(run, output, merged);
}

int convert(const Invocation& run) {
  const std::string &output = run.text("--output"), &source = run.text("--model");
  refuse_existing(output);
  const Model model = load_as_stored(run);
  save_model(output, model, source);
  return written(run, output, model);
}

}  // namespace metal_candle::cli
