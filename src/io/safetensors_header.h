// The header of a safetensors file: u64 length, JSON, data. Reading checks everything that can be checked without the
// data.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "metal_candle/safetensors.hpp"

namespace metal_candle::io {

/// The reference's element types, in its order (which is that of files, from the last to the first).
struct TensorFormat {
  std::string_view name;
  std::uint64_t bits;
  std::optional<DType> dtype;
};
const TensorFormat* find_format(std::string_view name);
const TensorFormat& format_of(DType dtype);
/// Its number in the reference's order.
std::size_t rank_of(const TensorFormat& format);

struct SafeTensorsHeader {
  std::vector<TensorInfo> tensors;
  std::vector<std::size_t> offsets;  // of each tensor's data in the file
  FileMetadata metadata;
};

/// Throws FileError.
SafeTensorsHeader read_safetensors_header(std::span<const std::byte> file, const std::string& path);

/// Positions, sorted by name; equal names are neighbours.
std::vector<std::uint32_t> sort_by_name(const std::vector<TensorInfo>& tensors);

/// The longest header, of this reader and of the reference.
inline constexpr std::uint64_t kMostHeaderBytes = 100'000'000;

}  // namespace metal_candle::io
