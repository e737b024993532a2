// What a Gguf holds, and the bytes it was read from.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "io/dequantize.h"
#include "io/files.h"
#include "metal_candle/gguf.hpp"

namespace metal_candle {

struct Gguf::File {
  struct Place {
    const io::Encoding* encoding;
    std::size_t offset;  // in the file
  };

  std::filesystem::path path;
  std::string name;                              // the path as errors write it
  std::shared_ptr<const io::MappedFile> mapped;  // null where only bytes were given
  std::vector<GgufValue> values;
  std::vector<GgufTensor> tensors;
  std::vector<Place> places;                   // of each tensor
  std::vector<std::uint32_t> by_key, by_name;  // positions, sorted
  std::size_t alignment = 32;
};

/// Reads what stands before the data, and checks all of it.
struct GgufReader {
  /// Throws FileError. `bytes` must outlive the file.
  static void read(std::span<const std::byte> bytes, Gguf::File& file);
  static std::shared_ptr<Gguf::File> make() { return std::make_shared<Gguf::File>(); }

 private:
  GgufReader(std::span<const std::byte> bytes, Gguf::File& file) : bytes_(bytes), file_(file) {}

  void header();
  GgufValue value();
  void array(GgufValue& out);
  void check_booleans(const GgufValue& value);
  void tensor();
  void places();
  std::uint64_t alignment() const;

  std::size_t left() const { return bytes_.size() - next_; }
  /// So many bytes, or an error that says what was being read.
  const std::byte* take(std::uint64_t count, const char* what);
  template <class T>
  T number(const char* what);
  std::string_view string(const char* what);
  [[noreturn]] void refuse(std::string expected, std::string got) const;

  std::span<const std::byte> bytes_;
  Gguf::File& file_;
  std::size_t next_ = 0;
  std::string place_ = "header";  // what is being read, for errors
  std::uint64_t tensor_count_ = 0, value_count_ = 0;
  std::vector<std::uint64_t> offsets_;  // of the tensors, as the file says
};

/// How many bytes a number of this type takes; 0 for strings and arrays.
std::size_t size_of(GgufValue::Type type);
std::string_view name(GgufValue::Type type);

}  // namespace metal_candle
