// Datasets: what they are told apart by, and their files.
#include "metal_candle/dataset.hpp"

#include "metal_candle/error.hpp"
#include "training/hash.h"

namespace metal_candle {

namespace fs = std::filesystem;

TrainOn train_on(std::string_view name) {
  if (name == "answers") return TrainOn::answers;
  if (name == "all") return TrainOn::all;
  throw UserError(ErrorKind::argument, "training on \"" + std::string(name) + "\"; there are answers and all");
}

std::uint64_t Dataset::fingerprint() const {
  training::Hash hash;
  for (const Sample& s : samples_) {
    hash.add(std::as_bytes(std::span(s.tokens)));
    for (const bool b : s.supervised) hash.add(b ? 1 : 2);
  }
  return hash.value();
}

DatasetFiles DatasetFiles::find(const fs::path& path) {
  DatasetFiles files{path, {}, {}};
  std::error_code error;
  if (!fs::is_directory(path, error)) return files;
  files.train = path / "train.jsonl";
  if (fs::exists(path / "valid.jsonl", error)) files.valid = path / "valid.jsonl";
  if (fs::exists(path / "test.jsonl", error)) files.test = path / "test.jsonl";
  return files;
}

}  // namespace metal_candle
