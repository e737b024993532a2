// Tensors in files: the safetensors format, single or in shards.
//
//   const auto file = mc::SafeTensors::open("model/");        // model.safetensors, or the index and its shards
//   mc::Tensor w = file.load("model.norm.weight");            // a view of the mapped file: pages are read when used
//   mc::save_safetensors("out.safetensors", {{"w", w}}, {{"format", "pt"}});
//
// Opening reads the headers alone and checks them as the reference implementation does: names that differ, data that
// lies end to end without holes from the first byte to the last, sizes that are the shape's. More strictly than it, a
// tensor named twice is refused, and so are entries that are no objects. Errors are FileErrors that name file and
// tensor.
#pragma once

#include <cstddef>
#include <filesystem>
#include <functional>
#include <initializer_list>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "metal_candle/param_tree.hpp"
#include "metal_candle/tensor.hpp"

namespace metal_candle {

/// A tensor in a file.
struct TensorInfo {
  std::string name;
  std::string_view format;     // as the file calls it: "BF16", "F8_E4M3"
  std::optional<DType> dtype;  // empty for a format that is no DType; such a tensor is listed, but cannot be loaded
  Shape shape;
  bool fits = true;  // false, and the shape empty: more axes or elements than a Shape holds. Not loaded either
  std::size_t bytes = 0;
};

/// Strings that travel with the tensors.
using FileMetadata = std::map<std::string, std::string>;

/// A cheap handle; copies share the mapping. Thread-safe.
class SafeTensors {
 public:
  /// A file; a `*.safetensors.index.json` with its shards beside it; or a folder, in which it is, in this order,
  /// model.safetensors, model.safetensors.index.json, or the only *.safetensors.
  static SafeTensors open(const std::filesystem::path& path);

  /// In the order of their data; of shards, one after the other.
  const std::vector<TensorInfo>& tensors() const;
  bool contains(std::string_view name) const { return find(name) != nullptr; }
  /// Null if there is none.
  const TensorInfo* find(std::string_view name) const;
  /// A view of the mapped file, which lives as long as the tensor, or a copy where the file does not align it. Throws
  /// FileError when there is no such tensor, and when there is no DType for it.
  Tensor load(std::string_view name) const;
  /// The bytes as they are in the file, for formats that are no DType. They live as long as this handle or a copy.
  std::span<const std::byte> bytes(std::string_view name) const;
  /// Asks the system to read a tensor ahead; for those who know their order.
  void will_need(std::string_view name) const;
  /// Of all shards together; where they differ, the first says.
  const FileMetadata& metadata() const;
  /// What was opened: the file, or the index.
  const std::filesystem::path& path() const;

 private:
  struct Set;
  explicit SafeTensors(std::shared_ptr<const Set> set) : set_(std::move(set)) {}
  std::size_t must_find(std::string_view name) const;

  std::shared_ptr<const Set> set_;
};

using NamedTensor = std::pair<std::string, Tensor>;

/// Writes one file, whole or not at all: what stood there before stays until the new file is complete and synced. The
/// bytes depend on names, values and metadata only, not on the order given: wider types first, then by name, as the
/// reference writes them. Names must differ and be UTF-8 (UserError).
void save_safetensors(const std::filesystem::path& path, const std::vector<NamedTensor>& tensors,
                      const FileMetadata& metadata = {});
inline void save_safetensors(const std::filesystem::path& path, std::initializer_list<NamedTensor> tensors,
                             const FileMetadata& metadata = {}) {
  save_safetensors(path, std::vector<NamedTensor>(tensors), metadata);
}
/// Evaluates, then writes.
void save_safetensors(const std::filesystem::path& path, const ParamTree& tensors, const FileMetadata& metadata = {});

/// A tensor that is made when its turn to be written comes, so that a file may be larger than the memory.
struct TensorSource {
  std::string name;
  DType dtype;
  Shape shape;
  std::function<Tensor()> make;  // called once; what it gives must have this dtype and shape
};
void save_safetensors(const std::filesystem::path& path, std::vector<TensorSource> tensors,
                      const FileMetadata& metadata = {});

}  // namespace metal_candle
