// GGUF files: metadata and (quantised) tensors in one file.
//
//   const auto file = mc::Gguf::open("model.gguf");
//   auto layers = file.at("llama.block_count").positive();      // throws FileError: file, key, expected, got
//   for (std::string_view token : file.at("tokenizer.ggml.tokens").strings()) add(token);
//   mc::Tensor w = file.load("blk.0.attn_q.weight", mc::DType::bf16);
//
// Versions 2 and 3, little-endian, in one piece. Opening maps the file and reads all that stands before the data: sizes
// are compared with what is there before they are believed, keys and names must differ, the data must lie in order
// without holes and within the file. Errors are FileErrors that name file and key or tensor.
//
// Everything is immutable and thread-safe. What a `Gguf` gives (values, strings, infos) lives as long as it or a copy
// of it does; tensors live on their own.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "metal_candle/json.hpp"
#include "metal_candle/tensor.hpp"

namespace metal_candle {

/// A value of the metadata: a view of the file. Getters refuse what does not fit, as Json's do.
class GgufValue {
 public:
  /// The format's own numbers.
  enum class Type : std::uint32_t { u8, i8, u16, i16, u32, i32, f32, boolean, string, array, u64, i64, f64 };

  std::string_view key() const { return key_; }
  Type type() const { return type_; }
  bool is_string() const { return type_ == Type::string; }
  bool is_array() const { return type_ == Type::array; }

  bool as_bool() const;
  /// Any integer type whose value fits.
  std::int64_t as_int64() const;
  std::uint64_t as_uint64() const;
  std::int64_t as_int(std::int64_t least, std::int64_t most) const;
  /// From 1 up to 2^31 - 1.
  std::int64_t positive() const { return as_int(1, 0x7fffffff); }
  /// Any number.
  double as_double() const;
  std::string_view as_string() const;

  /// Elements of an array, 0 for anything else.
  std::size_t size() const { return type_ == Type::array ? count_ : 0; }
  /// What an array holds (never arrays).
  Type element_type() const;
  /// The elements of an array of strings; they are views of the file.
  std::vector<std::string_view> strings() const;
  std::vector<std::int64_t> integers() const;
  std::vector<double> reals() const;
  std::vector<bool> booleans() const;

  /// The same as a Json of its own.
  Json json() const;
  /// What an error shows of it.
  std::string shown() const;
  /// Throws the FileError of a value that is not what its reader needs.
  [[noreturn]] void fail(std::string_view expected) const;

 private:
  friend struct GgufReader;
  std::int64_t integer_at(std::size_t index) const;
  double real_at(std::size_t index) const;

  std::string_view key_;
  const std::byte* data_ = nullptr;  // of the value, or of the first element
  std::size_t count_ = 1;
  const std::string* file_ = nullptr;
  Type type_ = Type::u8, element_ = Type::u8;  // element_: of an array, else type_ again
};

/// A tensor in a GGUF file.
struct GgufTensor {
  std::string_view name;
  std::string_view encoding;  // "Q4_1", "F32"
  Shape shape;                // rows first, as everywhere here; the file writes the extents in reverse
  std::size_t bytes = 0;
};

/// A cheap handle; copies share the mapping.
class Gguf {
 public:
  static Gguf open(const std::filesystem::path& path);

  /// The metadata in the file's order.
  std::span<const GgufValue> values() const;
  /// Null if there is no such key.
  const GgufValue* find(std::string_view key) const;
  /// Throws FileError if there is no such key.
  const GgufValue& at(std::string_view key) const;
  /// All of it as one object; an array of more than `most_elements` becomes a string that says so.
  Json metadata(std::size_t most_elements = ~std::size_t{0}) const;

  /// In the file's order.
  std::span<const GgufTensor> tensors() const;
  const GgufTensor* find_tensor(std::string_view name) const;
  bool contains(std::string_view name) const { return find_tensor(name) != nullptr; }
  /// The tensor decoded to f32, bf16 or f16 on all threads: exact in f32, else that rounded to nearest even. F32, F16
  /// and BF16 asked for as they are come as views of the mapped file. Reads F32, F16, BF16, Q4_0, Q4_1, Q5_0, Q5_1,
  /// Q8_0, Q4_K, Q5_K and Q6_K; throws FileError for other encodings, and when there is no such tensor.
  Tensor load(std::string_view name, DType as) const;
  /// The bytes as they are in the file.
  std::span<const std::byte> bytes(std::string_view name) const;
  /// Whether `load` reads an encoding.
  static bool can_load(std::string_view encoding);

  const std::filesystem::path& path() const;

 private:
  struct File;
  friend struct GgufReader;
  explicit Gguf(std::shared_ptr<const File> file) : file_(std::move(file)) {}
  std::size_t must_find(std::string_view name) const;

  std::shared_ptr<const File> file_;
};

}  // namespace metal_candle
