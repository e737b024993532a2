// metal-candle merge and metal-candle convert: both write a model folder.
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cmath>
#include <csignal>
#include <filesystem>

#include "cli/commands.h"
#include "cli/loading.h"
#include "cli/report.h"
#include "metal_candle/error.hpp"
#include "metal_candle/lora.hpp"
#include "metal_candle/ops.hpp"

namespace metal_candle::cli {

namespace {

std::atomic<int> ended_by{0};

extern "C" void note_end(int signal) { ended_by = signal; }

/// While it lives, a signal that ends the command does so when what was written is gone, or whole.
class EndsCleanly {
 public:
  EndsCleanly() {
    struct sigaction action = {};
    action.sa_handler = note_end;
    action.sa_flags = SA_RESTART;
    for (std::size_t i = 0; i < kSignals.size(); ++i) {
      sigaction(kSignals[i], nullptr, &before_[i]);
      if (before_[i].sa_handler != SIG_IGN) sigaction(kSignals[i], &action, nullptr);  // nohup
    }
  }
  ~EndsCleanly() {
    for (std::size_t i = 0; i < kSignals.size(); ++i) sigaction(kSignals[i], &before_[i], nullptr);
    if (ended_by != 0) std::raise(ended_by);
  }
  EndsCleanly(const EndsCleanly&) = delete;
  EndsCleanly& operator=(const EndsCleanly&) = delete;

 private:
  static constexpr std::array kSignals{SIGINT, SIGTERM, SIGHUP};
  std::array<struct sigaction, kSignals.size()> before_ = {};
};

int write(const Invocation& run, const std::string& output, const Model& model) {
  make_parents(output);
  {
    const EndsCleanly signals;
    save_model(output, model, run.text("--model"), [] { return ended_by != 0; });
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

/// f16 ends at 65504, where every other type goes on.
void require_finite(const Model& model, const std::string& source) {
  for (const auto& [path, tensor] : model.parameters())
    if (!std::isfinite(max(abs(cast(tensor, DType::f32))).eval().item<float>()))
      throw FileError(FileFault::bad, source, path, "weights that f16 holds", "one beyond 65504 or not a number");
}

Model load_as_stored(const Invocation& run) {
  const std::string& source = run.text("--model");
  const bool named = run.dtype() || !std::filesystem::exists(source);  // what is not there, loading says
  Model model = Model::load(source, {.dtype = named ? run.dtype() : stored_dtype(source)});
  if (run.dtype() == DType::f16) require_finite(model, source);
  return model;
}

/// Weights that are not finite are a fault of what the files hold.
Model merged_of(const LoRAAdapter& adapter, const Model& model, const Invocation& run) {
  try {
    return adapter.merge(model);
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
  const Model model = load_as_stored(run);
  return write(run, output, merged_of(LoRAAdapter::load(adapter, model), model, run));
}

int convert(const Invocation& run) {
  const std::string& output = run.text("--output");
  refuse_existing(output);
  return write(run, output, load_as_stored(run));
}

}  // namespace metal_candle::cli
