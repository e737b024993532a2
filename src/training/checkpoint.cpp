#include "training/checkpoint.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <limits>

#include "base/thread_pool.h"
#include "io/files.h"
#include "metal_candle/error.hpp"
#include "metal_candle/runtime.hpp"
#include "metal_candle/safetensors.hpp"
#include "metal_candle/version.hpp"
#include "training/hash.h"

namespace metal_candle::training {
namespace {

namespace fs = std::filesystem;

constexpr const char *kState = "state.json", *kManifest = "manifest.json", *kOptimizer = "optimizer.safetensors";
constexpr const char *kLog = "training_log.jsonl", *kBest = "best.safetensors", *kFirst = "first.",
                     *kSecond = "second.";

std::string hash_of(std::string_view bytes) { return hex(Hash().add(bytes).value()); }

void write_manifest(const fs::path& folder) {
  Json files = Json::object();
  std::vector<std::string> names;
  for (const auto& entry : fs::directory_iterator(folder)) names.push_back(entry.path().filename().string());
  std::sort(names.begin(), names.end());
  for (const std::string& name : names) {
    const auto file = io::MappedFile::open(folder / name);
    const std::string hash = hex(Hash().add(file->bytes()).value());
    files.set(name, Json::object({{"bytes", file->bytes().size()}, {"hash", hash}}));
  }
  io::write_file(folder / kManifest, Json::object({{"files", files}}).dump(2) + "\n");
}

/// Throws FileError where a file is not what was written.
void verify(const fs::path& folder) {
  const Json manifest = Json::load(folder / kManifest);
  for (const JsonMember& m : manifest.at("files").items()) {
    const fs::path file = folder / fs::path(m.key).filename();
    const std::string bytes = io::read_file(file);
    const std::uint64_t wanted = m.value.at("bytes").as_uint64();
    if (bytes.size() != wanted)
      throw FileError(FileFault::bad, file.string(), "", fmt::format("{} bytes", wanted),
                      fmt::format("{}", bytes.size()));
    const std::string_view hash = m.value.at("hash").as_string();
    if (hash_of(bytes) != hash)
      throw FileError(FileFault::bad, file.string(), "", fmt::format("content with hash {}", hash), hash_of(bytes));
  }
}

/// What bits depend on beside a run's identity.
Json made_by() { return Json::object({{"version", version()}, {"instruction_set", instruction_set()}}); }

void tell_of_maker(const Json& state, const std::function<void(const std::string&)>& message) {
  const Json *then = state.find("made_by"), now = made_by();
  if (!then || *then == now || !message) return;
  message(fmt::format("the checkpoint was made by {}, and goes on with {}: what follows may differ in its last bits",
                      then->dump(), now.dump()));
}

/// A loss that is not finite is written as its name.
double loss_of(const Json& value) {
  if (value.is_number()) return value.as_double();
  constexpr double kInfinity = std::numeric_limits<double>::infinity();
  for (const double loss : {std::numeric_limits<double>::quiet_NaN(), kInfinity, -kInfinity})
    if (value.dump() == Json(loss).dump()) return loss;
  value.fail("a loss");
}

std::string shown(const Json* value) { return value ? value->dump() : "nothing"; }

/// Names the first thing that differs.
void require_same(const Json& now, const Json& then, const std::string& path, const std::string& file) {
  if (now.is_object() && then.is_object()) {
    for (const JsonMember& m : now.items()) {
      const std::string inner = path.empty() ? std::string(m.key) : path + "." + std::string(m.key);
      const Json* other = then.find(m.key);
      if (!other) throw FileError(FileFault::bad, file, inner, shown(&m.value), shown(other));
      require_same(m.value, *other, inner, file);
    }
    return;
  }
  if (now != then)
    throw FileError(FileFault::bad, file, path, shown(&now) + ", as this run has it",
                    shown(&then) + ", as the checkpoint has it");
}

}  // namespace

std::string hex(std::uint64_t value) { return fmt::format("{:016x}", value); }

Json Progress::to_json() const {
  return Json::object({{"step", step},
                       {"position", position},
                       {"updates", updates},
                       {"bad_in_row", bad_in_row},
                       {"skipped", skipped},
                       {"best", best ? Json(*best) : Json()},
                       {"last_eval", last_eval ? Json(*last_eval) : Json()},
                       {"evaluations_since_best", evaluations_since_best},
                       {"best_step", best_step},
                       {"loss", loss}});
}

Progress Progress::from_json(const Json& state) {
  constexpr std::int64_t kMost = std::int64_t{1} << 62;
  const auto count = [&](const char* key) { return state.at(key).as_int(0, kMost); };
  Progress p;
  p.step = count("step");
  p.position = count("position");
  p.updates = count("updates");
  p.bad_in_row = count("bad_in_row");
  p.skipped = count("skipped");
  p.evaluations_since_best = count("evaluations_since_best");
  if (const Json* step = state.find_value("best_step")) p.best_step = step->as_int(0, kMost);
  if (const Json* best = state.find_value("best")) p.best = best->as_double();
  if (const Json* last = state.find_value("last_eval")) p.last_eval = loss_of(*last);
  p.loss = loss_of(state.at("loss"));
  return p;
}

fs::path Checkpoints::at(std::int64_t step) const { return folder_ / fmt::format("step-{}", step); }

std::vector<std::int64_t> Checkpoints::steps() const {
  std::vector<std::int64_t> found;
  std::error_code error;
  for (const auto& entry : fs::directory_iterator(folder_, error)) {
    const std::string name = entry.path().filename().string();
    std::int64_t step = 0;
    if (!name.starts_with("step-")) continue;
    const char *begin = name.data() + 5, *end = name.data() + name.size();
    if (const auto [rest, bad] = std::from_chars(begin, end, step); bad == std::errc() && rest == end && step >= 0)
      found.push_back(step);
  }
  std::sort(found.rbegin(), found.rend());
  return found;
}

void Checkpoints::clean() const {
  std::error_code error;
  std::vector<fs::path> stale;
  for (const auto& entry : fs::directory_iterator(folder_, error)) {
    const std::string name = entry.path().filename().string();
    if (name.starts_with("step-") && name.find(".tmp-") != std::string::npos) stale.push_back(entry.path());
  }
  for (const fs::path& path : stale) fs::remove_all(path, error);
}

fs::path Checkpoints::save(const Progress& progress, const LoRAAdapter& adapter, const AdamWState& moments,
                           const std::optional<ParamTree>& best, const std::string& config, std::int64_t keep) const {
  std::error_code error;
  fs::create_directories(folder_, error);
  if (error) throw FileError(FileFault::create, folder_.string(), "", "cannot be created: " + error.message());
  fs::path target = at(progress.step);
  if (fs::symlink_status(target, error).type() != fs::file_type::directory) fs::remove(target, error);
  io::AtomicFolder folder(target, io::AtomicFolder::Existing::replace);
  adapter.save(folder.path());
  ParamTree both;
  for (const auto& [path, tensor] : moments.first) both.insert(kFirst + path, tensor);
  for (const auto& [path, tensor] : moments.second) both.insert(kSecond + path, tensor);
  save_safetensors(folder.path() / kOptimizer, both);
  if (best) save_safetensors(folder.path() / kBest, *best);
  const Json state = Json::object({{"identity", identity_}, {"made_by", made_by()}, {"progress", progress.to_json()}});
  io::write_file(folder.path() / kState, state.dump(2) + "\n");
  io::write_file(folder.path() / kLog, progress.log);
  if (!config.empty()) io::write_file(folder.path() / "config.toml", config);
  write_manifest(folder.path());
  folder.commit();
  const std::vector<std::int64_t> all = steps();
  for (std::size_t i = static_cast<std::size_t>(std::max<std::int64_t>(1, keep)); i < all.size(); ++i)
    io::remove_folder(at(all[i]));
  return target;
}

std::optional<Checkpoint> Checkpoints::load_newest(const Model& model,
                                                   const std::function<void(const std::string&)>& message) const {
  for (const std::int64_t step : steps()) {
    const fs::path folder = at(step);
    Json state;
    try {
      verify(folder);
      state = Json::load(folder / kState);
    } catch (const FileError& e) {
      if (message) message(fmt::format("the checkpoint of step {} is damaged and passed over: {}", step, e.what()));
      continue;
    }
    // Whole, but of another run: that is for the user to sort out.
    require_same(identity_, state.at("identity"), "identity", (folder / kState).string());
    tell_of_maker(state, message);
    return load(folder, model, state);
  }
  return std::nullopt;
}

Checkpoint Checkpoints::load(const fs::path& folder, const Model& model, const Json& state) const {
  Checkpoint c{Progress::from_json(state.at("progress")), LoRAAdapter::load(folder, model), {}, {}};
  c.progress.log = io::read_file(folder / kLog);
  const auto read = [&](const char* name, const std::string& prefix) {
    const fs::path file = folder / name;
    const SafeTensors values = SafeTensors::open(file);
    std::vector<LazyTensor> tensors;
    for (const auto& [path, p] : c.adapter.trainable()) {
      const Tensor t = values.load(prefix + path);
      if (t.shape() != p.shape() || t.dtype() != DType::f32)
        throw FileError(FileFault::bad, file.string(), prefix + path, "f32 of shape " + p.shape().str(),
                        t.shape().str());
      tensors.push_back(t.copy());
    }
    return c.adapter.trainable().with(std::move(tensors));
  };
  c.moments = {read(kOptimizer, kFirst), read(kOptimizer, kSecond), c.progress.updates};
  if (fs::exists(folder / kBest)) c.best = read(kBest, "");
  return c;
}

std::uint64_t fingerprint(const ParamTree& tree) {
  constexpr std::size_t kPiece = 1 << 20;
  Hash hash;
  std::vector<Tensor> tensors;
  std::vector<std::span<const std::byte>> pieces;
  for (const auto& [path, tensor] : tree) {
    Tensor t(tensor);
    hash.add(path).add(t.shape().str()).add(static_cast<std::uint64_t>(t.dtype()));
    if (t.numel() == 0) continue;
    const Tensor& whole = tensors.emplace_back(t.is_contiguous() ? t : t.copy());
    const auto* bytes = static_cast<const std::byte*>(whole.raw_data());
    const std::size_t size = static_cast<std::size_t>(whole.numel()) * size_of(whole.dtype());
    for (std::size_t at = 0; at < size; at += kPiece) pieces.emplace_back(bytes + at, std::min(kPiece, size - at));
  }
  std::vector<std::uint64_t> values(pieces.size());
  base::parallel_for(static_cast<std::uint32_t>(pieces.size()), base::threads(),
                     [&](std::uint32_t i, int) { values[i] = Hash().add(pieces[i]).value(); });
  for (const std::uint64_t value : values) hash.add(value);
  return hash.value();
}

}  // namespace metal_candle::training
