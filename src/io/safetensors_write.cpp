#include <fmt/format.h>

#include <algorithm>

#include "io/files.h"
#include "io/json_lexer.h"
#include "io/safetensors_header.h"
#include "metal_candle/json.hpp"
#include "metal_candle/runtime.hpp"
#include "metal_candle/safetensors.hpp"

namespace metal_candle {
namespace {

[[noreturn]] void refuse(std::string what) {
  throw UserError(ErrorKind::argument, "save_safetensors: " + std::move(what));
}

void check_text(std::string_view text, const char* what) {
  const char *p = text.data(), *const end = p + text.size();
  while (p < end) {
    const int length = io::utf8_length(p, end);
    if (length == 0) refuse(fmt::format("{} {} is not UTF-8", what, io::in_quotes(text)));
    p += length;
  }
}

void sort_and_check(std::vector<TensorSource>& tensors) {
  const auto before = [](const TensorSource& a, const TensorSource& b) {
    const std::size_t ra = io::rank_of(io::format_of(a.dtype)), rb = io::rank_of(io::format_of(b.dtype));
    return ra != rb ? ra > rb : a.name < b.name;
  };
  std::ranges::stable_sort(tensors, before);
  std::vector<std::string_view> names;
  for (const TensorSource& t : tensors) {
    check_text(t.name, "the name");
    if (t.name == "__metadata__") refuse("a tensor cannot be named __metadata__");
    names.push_back(t.name);
  }
  std::ranges::sort(names);
  if (const auto twice = std::ranges::adjacent_find(names); twice != names.end())
    refuse(fmt::format("two tensors are named {}", io::in_quotes(*twice)));
}

std::size_t bytes_of(const TensorSource& t) { return static_cast<std::size_t>(t.shape.numel()) * size_of(t.dtype); }

/// Length and JSON, padded with spaces so that data begins at a multiple of 8.
std::string header_of(const std::vector<TensorSource>& tensors, const FileMetadata& metadata) {
  std::string json = "{";
  const auto text = [](std::string_view s) { return Json(s).dump(); };
  if (!metadata.empty()) {
    json += "\"__metadata__\":{";
    for (const auto& [key, value] : metadata) {
      check_text(key, "the metadata's key"), check_text(value, "the metadata's value");
      json += text(key) + ":" + text(value) + ",";
    }
    json.back() = '}';
    json += ',';
  }
  std::uint64_t offset = 0;
  for (const TensorSource& t : tensors) {
    const std::uint64_t end = offset + bytes_of(t);
    json += fmt::format("{}:{{\"dtype\":\"{}\",\"shape\":[{}],\"data_offsets\":[{},{}]}},", text(t.name),
                        io::format_of(t.dtype).name, fmt::join(t.shape.dims(), ","), offset, end);
    offset = end;
  }
  if (json.back() == ',') json.back() = '}';
  else json += '}';
  json.resize((json.size() + 7) / 8 * 8, ' ');
  if (json.size() > io::kMostHeaderBytes) refuse("more tensors than a header of 100,000,000 bytes can name");
  std::string length(8, '\0');
  for (std::size_t i = 0; i < 8; ++i) length[i] = static_cast<char>(json.size() >> (8 * i) & 0xff);
  return length + json;
}

void write_tensor(io::AtomicFile& file, const TensorSource& t) {
  Tensor tensor = t.make();
  if (tensor.dtype() != t.dtype || !(tensor.shape() == t.shape))
    refuse(fmt::format("{} was announced as {} {} and is {} {}", io::in_quotes(t.name), name(t.dtype), t.shape.str(),
                       name(tensor.dtype()), tensor.shape().str()));
  if (!tensor.is_contiguous()) tensor = tensor.copy();
  if (bytes_of(t) > 0) file.write(std::span(static_cast<const std::byte*>(tensor.raw_data()), bytes_of(t)));
}

}  // namespace

void save_safetensors(const std::filesystem::path& path, std::vector<TensorSource> tensors,
                      const FileMetadata& metadata) {
  sort_and_check(tensors);
  const std::string header = header_of(tensors, metadata);
  io::AtomicFile file(path);
  file.write(header);
  for (TensorSource& t : tensors) {
    write_tensor(file, t);
    t.make = nullptr;  // what it held on to is no longer needed
  }
  file.commit();
}

void save_safetensors(const std::filesystem::path& path, const std::vector<NamedTensor>& tensors,
                      const FileMetadata& metadata) {
  std::vector<TensorSource> sources;
  for (const auto& [name, tensor] : tensors)
    sources.push_back({name, tensor.dtype(), tensor.shape(), [t = tensor] { return t; }});
  save_safetensors(path, std::move(sources), metadata);
}

void save_safetensors(const std::filesystem::path& path, const ParamTree& tensors, const FileMetadata& metadata) {
  eval(tensors.tensors());
  std::vector<NamedTensor> evaluated;
  for (const auto& [name, tensor] : tensors) evaluated.emplace_back(name, Tensor(tensor));
  save_safetensors(path, evaluated, metadata);
}

}  // namespace metal_candle
