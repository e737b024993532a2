#include "metal_candle/safetensors.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>

#include "base/pool.h"
#include "io/files.h"
#include "io/json_lexer.h"
#include "io/safetensors_header.h"
#include "metal_candle/json.hpp"

namespace metal_candle {

namespace fs = std::filesystem;
using io::MappedFile;

struct SafeTensors::Set {
  struct Place {
    std::uint32_t file;
    std::size_t offset;
  };

  void add(const fs::path& file);
  void finish();
  std::ptrdiff_t find(std::string_view name) const;
  std::string file_of(std::size_t i) const { return files[places[i].file]->path().string(); }
  std::span<const std::byte> bytes(std::size_t i) const {
    return files[places[i].file]->bytes().subspan(places[i].offset, tensors[i].bytes);
  }

  fs::path path;
  std::vector<std::shared_ptr<const MappedFile>> files;
  std::vector<TensorInfo> tensors;
  std::vector<Place> places;
  std::vector<std::uint32_t> by_name;
  FileMetadata metadata;
};

void SafeTensors::Set::add(const fs::path& file) {
  files.push_back(MappedFile::open(file));
  io::SafeTensorsHeader header = io::read_safetensors_header(files.back()->bytes(), file.string());
  const auto number = static_cast<std::uint32_t>(files.size() - 1);
  for (const std::size_t offset : header.offsets) places.push_back({number, offset});
  std::ranges::move(header.tensors, std::back_inserter(tensors));
  metadata.merge(header.metadata);
}

void SafeTensors::Set::finish() {
  by_name = io::sort_by_name(tensors);
  const auto same = [&](std::uint32_t a, std::uint32_t b) { return tensors[a].name == tensors[b].name; };
  const auto twice = std::ranges::adjacent_find(by_name, same);
  if (twice == by_name.end()) return;
  const std::string first = file_of(*twice), second = file_of(*std::next(twice));
  throw FileError(FileFault::bad, path.string(), "tensor " + io::in_quotes(tensors[*twice].name), "it once",
                  first == second ? "it twice" : fmt::format("it in {} and {}", first, second));
}

std::ptrdiff_t SafeTensors::Set::find(std::string_view name) const {
  const auto name_of = [&](std::uint32_t i) -> std::string_view { return tensors[i].name; };
  const auto at = std::ranges::lower_bound(by_name, name, {}, name_of);
  return at == by_name.end() || tensors[*at].name != name ? -1 : static_cast<std::ptrdiff_t>(*at);
}

namespace {

/// The shards of an index, which must lie beside it: a name with a folder in it is refused.
std::vector<std::string> shards_of(const Json& map) {
  std::vector<std::string> out;
  for (const JsonMember& m : map.items()) {
    const std::string_view file = m.value.as_string();
    const bool plain = !file.empty() && file != "." && file != ".." &&
                       file.find_first_of(std::string_view("/\\\0", 3)) == std::string_view::npos;
    if (!plain) m.value.fail("the name of a file beside the index");
    out.emplace_back(file);
  }
  std::ranges::sort(out);
  out.erase(std::unique(out.begin(), out.end()), out.end());
  return out;
}

fs::path find_in_folder(const fs::path& folder) {
  std::error_code error;
  for (const char* name : {"model.safetensors", "model.safetensors.index.json"})
    if (fs::exists(folder / name, error)) return folder / name;
  std::vector<fs::path> found;
  for (fs::directory_iterator it(folder, error), end; !error && it != end; it.increment(error))
    if (it->path().extension() == ".safetensors") found.push_back(it->path());
  if (found.size() == 1) return found[0];
  throw FileError(FileFault::missing, folder.string(), "",
                  "model.safetensors, its index, or a single *.safetensors in the folder",
                  found.empty() ? "none" : fmt::format("{} files", found.size()));
}

/// A dense copy for bytes that are not aligned as their type must be.
Tensor copied(std::span<const std::byte> bytes, DType dtype, const Shape& shape) {
  const std::size_t size = bytes.size();
  std::shared_ptr<void> block(base::pool_allocate(size), [size](void* p) { base::pool_free(p, size); });
  std::memcpy(block.get(), bytes.data(), size);
  return Tensor::from_external(block.get(), shape, dtype, block);
}

}  // namespace

SafeTensors SafeTensors::open(const fs::path& path) {
  std::error_code error;
  auto set = std::make_shared<Set>();
  set->path = fs::is_directory(path, error) ? find_in_folder(path) : path;
  if (set->path.extension() != ".json") {
    set->add(set->path);
    set->finish();
    return SafeTensors(std::move(set));
  }
  const Json index = Json::load(set->path);
  const Json& map = index.at("weight_map");
  for (const std::string& shard : shards_of(map)) set->add(set->path.parent_path() / shard);
  set->finish();
  for (const JsonMember& m : map.items()) {
    const std::ptrdiff_t found = set->find(m.key);
    const fs::path shard = set->path.parent_path() / m.value.as_string();
    if (found < 0 || set->file_of(static_cast<std::size_t>(found)) != shard.string())
      throw FileError(FileFault::bad, shard.string(), "tensor " + io::in_quotes(m.key),
                      "it in this file, as the index says", "none");
  }
  return SafeTensors(std::move(set));
}

const std::vector<TensorInfo>& SafeTensors::tensors() const { return set_->tensors; }

const TensorInfo* SafeTensors::find(std::string_view name) const {
  const std::ptrdiff_t found = set_->find(name);
  return found < 0 ? nullptr : &set_->tensors[static_cast<std::size_t>(found)];
}

std::size_t SafeTensors::must_find(std::string_view name) const {
  const std::ptrdiff_t found = set_->find(name);
  if (found < 0)
    throw FileError(FileFault::bad, path().string(), "tensor " + io::in_quotes(name), "it in the file", "none");
  return static_cast<std::size_t>(found);
}

Tensor SafeTensors::load(std::string_view name) const {
  const std::size_t i = must_find(name);
  const TensorInfo& info = set_->tensors[i];
  const auto refuse = [&](std::string expected, std::string got) {
    throw FileError(FileFault::bad, set_->file_of(i), "tensor " + io::in_quotes(name), std::move(expected),
                    std::move(got));
  };
  if (!info.dtype) refuse("a dtype that can be computed with", std::string(info.format));
  if (!info.fits) refuse(fmt::format("at most {} axes and 2^62 elements", Shape::kMaxRank), "more");
  const auto bytes = set_->bytes(i);
  const auto odd = [](std::byte b) { return b > std::byte{1}; };
  if (info.dtype == DType::boolean && std::ranges::any_of(bytes, odd)) refuse("bytes of 0 and 1 for BOOL", "others");
  if (bytes.empty()) return Tensor::zeros(info.shape, *info.dtype);
  if (reinterpret_cast<std::uintptr_t>(bytes.data()) % size_of(*info.dtype) != 0)
    return copied(bytes, *info.dtype, info.shape);
  const auto owner = std::const_pointer_cast<MappedFile>(set_->files[set_->places[i].file]);
  return Tensor::from_external(bytes.data(), info.shape, *info.dtype, owner);
}

std::span<const std::byte> SafeTensors::bytes(std::string_view name) const { return set_->bytes(must_find(name)); }

void SafeTensors::will_need(std::string_view name) const {
  const std::size_t i = must_find(name);
  set_->files[set_->places[i].file]->will_need(set_->places[i].offset, set_->tensors[i].bytes);
}

const FileMetadata& SafeTensors::metadata() const { return set_->metadata; }

const fs::path& SafeTensors::path() const { return set_->path; }

}  // namespace metal_candle
