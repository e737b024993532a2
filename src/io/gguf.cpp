#include "metal_candle/gguf.hpp"

#include <fmt/format.h>

#include <algorithm>

#include "base/pool.h"
#include "io/gguf_file.h"
#include "io/json_lexer.h"
#include "metal_candle/error.hpp"

namespace metal_candle {
namespace {

/// The position of `key` in a list by its sorted positions, or -1.
template <class List, class Key>
std::ptrdiff_t position(const List& list, const std::vector<std::uint32_t>& order, std::string_view wanted, Key&& key) {
  const auto key_at = [&](std::uint32_t i) -> std::string_view { return key(list[i]); };
  const auto at = std::ranges::lower_bound(order, wanted, {}, key_at);
  return at == order.end() || key_at(*at) != wanted ? -1 : static_cast<std::ptrdiff_t>(*at);
}

/// The type that an encoding is as it stands, if it is one of ours.
bool is_plain(std::string_view encoding, DType as) {
  return (encoding == "F32" && as == DType::f32) || (encoding == "F16" && as == DType::f16) ||
         (encoding == "BF16" && as == DType::bf16);
}

}  // namespace

Gguf Gguf::open(const std::filesystem::path& path) {
  auto file = GgufReader::make();
  file->path = path;
  file->name = path.string();
  file->mapped = io::MappedFile::open(path);
  GgufReader::read(file->mapped->bytes(), *file);
  Gguf out(std::move(file));
  if (const GgufValue* pieces = out.find("split.count"); pieces && pieces->as_int64() > 1)
    pieces->fail("a file in one piece");
  return out;
}

std::span<const GgufValue> Gguf::values() const { return file_->values; }

const GgufValue* Gguf::find(std::string_view key) const {
  const std::ptrdiff_t found = position(file_->values, file_->by_key, key, [](const GgufValue& v) { return v.key(); });
  return found < 0 ? nullptr : &file_->values[static_cast<std::size_t>(found)];
}

const GgufValue& Gguf::at(std::string_view key) const {
  if (const GgufValue* found = find(key)) return *found;
  throw FileError(FileFault::bad, file_->name, std::string(key), "a value", "no such key");
}

Json Gguf::metadata(std::size_t most_elements) const {
  Json out = Json::object();
  for (const GgufValue& v : file_->values) out.set(v.key(), v.size() > most_elements ? Json(v.shown()) : v.json());
  return out;
}

std::span<const GgufTensor> Gguf::tensors() const { return file_->tensors; }

const GgufTensor* Gguf::find_tensor(std::string_view name) const {
  const std::ptrdiff_t found =
      position(file_->tensors, file_->by_name, name, [](const GgufTensor& t) { return t.name; });
  return found < 0 ? nullptr : &file_->tensors[static_cast<std::size_t>(found)];
}

std::size_t Gguf::must_find(std::string_view name) const {
  const GgufTensor* found = find_tensor(name);
  if (!found) throw FileError(FileFault::bad, file_->name, "tensor " + io::in_quotes(name), "it in the file", "none");
  return static_cast<std::size_t>(found - file_->tensors.data());
}

std::span<const std::byte> Gguf::bytes(std::string_view name) const {
  const std::size_t i = must_find(name);
  return file_->mapped->bytes().subspan(file_->places[i].offset, file_->tensors[i].bytes);
}

bool Gguf::can_load(std::string_view encoding) {
  const io::Encoding* found = io::find_encoding(encoding);
  return found && found->can_load;
}

Tensor Gguf::load(std::string_view name, DType as) const {
  if (as != DType::f32 && as != DType::bf16 && as != DType::f16)
    throw UserError(ErrorKind::dtype, fmt::format("Gguf::load: to f32, bf16 or f16, not {}", metal_candle::name(as)));
  const std::size_t i = must_find(name);
  const GgufTensor& info = file_->tensors[i];
  const io::Encoding& encoding = *file_->places[i].encoding;
  if (!encoding.can_load)
    throw FileError(FileFault::bad, file_->name, "tensor " + io::in_quotes(name),
                    "F32, F16, BF16, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q4_K, Q5_K or Q6_K", std::string(encoding.name));
  if (info.shape.numel() == 0) return Tensor::zeros(info.shape, as);
  const std::byte* const from = file_->mapped->bytes().data() + file_->places[i].offset;
  if (is_plain(encoding.name, as) && reinterpret_cast<std::uintptr_t>(from) % size_of(as) == 0)
    return Tensor::from_external(from, info.shape, as, std::const_pointer_cast<io::MappedFile>(file_->mapped));
  const auto elements = static_cast<std::size_t>(info.shape.numel());
  const std::size_t size = elements * size_of(as);
  std::shared_ptr<void> out(base::pool_allocate(size), [size](void* p) { base::pool_free(p, size); });
  io::dequantize(encoding, from, elements / encoding.values, as, out.get());
  return Tensor::from_external(out.get(), info.shape, as, out);
}

const std::filesystem::path& Gguf::path() const { return file_->path; }

}  // namespace metal_candle
