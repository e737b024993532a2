#include "io/safetensors_header.h"
#include "metal_candle/error.hpp"
#include "tests/fuzz/targets.h"

namespace metal_candle::fuzz {

void safetensors(std::string_view bytes) {
  io::SafeTensorsHeader header;
  try {
    header = io::read_safetensors_header(std::as_bytes(std::span(bytes)), "fuzz.safetensors");
  } catch (const FileError&) {
    return;
  }
  must(header.tensors.size() == header.offsets.size(), "a place for every tensor");
  must(io::sort_by_name(header.tensors).size() == header.tensors.size(), "all are sorted");
  std::size_t sum = 0;
  for (std::size_t i = 0; i < header.tensors.size(); ++i) {
    const TensorInfo& t = header.tensors[i];
    must(header.offsets[i] <= bytes.size() && t.bytes <= bytes.size() - header.offsets[i], "data lies in the file");
    must(i == 0 || header.offsets[i] == header.offsets[i - 1] + header.tensors[i - 1].bytes, "data lies end to end");
    if (t.fits && t.dtype)
      must(static_cast<std::size_t>(t.shape.numel()) * size_of(*t.dtype) == t.bytes, "the shape's size");
    sum += t.bytes;
  }
  must(sum <= bytes.size(), "all of the data lies in the file");
}

}  // namespace metal_candle::fuzz
