// metal-candle merge and metal-candle convert: both write a model folder.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <filesystem>

#include "cli/commands.h"
#include "cli/loading.h"
#include "cli/report.h"
#include "cli/signals.h"
#include "metal_candle/error.hpp"
#include "metal_candle/lora.hpp"
#include "metal_candle/ops.hpp"

namespace metal_candle::cli {

namespace {

/// f16 ends at 65504, where every other type goes on.
void require_finite(const Model& model, const std::string& source) {
  for (const auto& [path, tensor] : model.parameters())
    if (!std::isfinite(max(abs(cast(tensor, DType::f32))).eval().item<float>()))
      throw FileError(FileFault::bad, source, path, "weights that f16 holds", "one beyond 65504 or not a number");
}

int write(const Invocation& run, const std::string& output, const Model& model) {
  if (run.dtype() == DType::f16) require_finite(model, run.text("--model"));
  make_parents(output);
  {
    const EndsCleanly signals;
    save_model(output, model, run.text("--model"), EndsCleanly::seen);
  }
  if (run.json()) write_event(Json::object({{"event", "result"}, {"output", output}, {"dtype", name(model.dtype())}}));
  else say(run, fmt::format("{}: a {} model in {}", output, model.config().family, name(model.dtype())));
  return kDone;
}

/// Told before a model is loaded, which takes a while. Who writes the folder asks again, and knows what a killed writer
/// left there.
void refuse_existing(const std::string& output) {
  if (output.empty()) throw UsageError("--output: expected a folder, got none");
  const auto is_ours = [](const std::filesystem::directory_entry& entry) {
    return entry.path().filename().string().find(".tmp-") != std::string::npos;
  };
  std::error_code error;
  std::filesystem::directory_iterator all(output, error);
  if (std::filesystem::exists(output) && (error || !std::all_of(begin(all), end(all), is_ours)))
    throw FileError(FileFault::create, output, "", "a folder that is new or empty", "one that is neither");
}

Model load_as_stored(const std::string& source) {
  const bool there = std::filesystem::exists(source);  // what is not, loading says
  return Model::load(source, {.dtype = there ? std::optional(stored_dtype(source)) : std::nullopt});
}

/// Weights that are not finite are a fault of what the files hold.
Model merged_of(const LoRAAdapter& adapter, const Model& model, const Invocation& run) {
  try {
    return adapter.merge(model, run.dtype());
  } catch (const OutOfMemory&) {
    throw;
  } catch (const FileError&) {
    throw;
  } catch (const UserError& e) {
    throw FileError(FileFault::bad, run.text("--model"), "with " + run.text("--adapter"), e.what());
  }
}

}  // namespace

int merge(const Invocation& run) {
  const std::string &output = run.text("--output"), &adapter = run.text("--adapter");
  refuse_existing(output);
  // What a folder has is mapped and need not fit into memory; a GGUF file is decoded, and f32 would take twice the room.
  const std::string& source = run.text("--model");
  const bool decoded = run.dtype() && !std::filesystem::is_directory(source);
  const Model model = decoded ? load_model(run) : load_as_stored(source);
  return write(run, output, merged_of(LoRAAdapter::load(adapter, model), model, run));
}

int convert(const Invocation& run) {
  const std::string& output = run.text("--output");
  refuse_existing(output);
  return write(run, output, run.dtype() ? load_model(run) : load_as_stored(run.text("--model")));
}

}  // namespace metal_candle::cli
