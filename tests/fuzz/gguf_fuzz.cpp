#include <algorithm>

#include "io/gguf_file.h"
#include "metal_candle/error.hpp"
#include "tests/fuzz/targets.h"

namespace metal_candle::fuzz {
namespace {

void read(const GgufValue& v) {
  must(!v.json().dump().empty() && !v.shown().empty(), "a value can be shown");
  try {
    v.positive();
  } catch (const FileError&) {
  }
  if (v.is_array() && v.element_type() == GgufValue::Type::string) must(v.strings().size() == v.size(), "all strings");
}

}  // namespace

void gguf(std::string_view bytes) {
  const auto file = GgufReader::make();
  file->name = "fuzz.gguf";
  const std::span<const std::byte> all = std::as_bytes(std::span(bytes));
  try {
    GgufReader::read(all, *file);
  } catch (const FileError&) {
    return;
  }
  std::ranges::for_each(file->values, read);
  for (std::size_t i = 0; i < file->tensors.size(); ++i) {
    const GgufTensor& t = file->tensors[i];
    const auto& [encoding, offset] = file->places[i];
    must(offset <= bytes.size() && t.bytes <= bytes.size() - offset, "data lies in the file");
    must(offset % file->alignment == 0, "data is aligned");
    const auto elements = static_cast<std::size_t>(t.shape.numel());
    must(elements / encoding->values * encoding->bytes == t.bytes, "the shape's size");
    if (!encoding->can_load || elements == 0) continue;
    std::vector<float> out(elements);
    io::dequantize(*encoding, all.data() + offset, elements / encoding->values, DType::f32, out.data());
  }
}

}  // namespace metal_candle::fuzz
