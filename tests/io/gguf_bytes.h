// Builds GGUF files byte by byte, right or wrong.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace metal_candle {

class GgufBytes {
 public:
  template <class T>
  GgufBytes& put(T value) {
    out_.append(reinterpret_cast<const char*>(&value), sizeof value);
    return *this;
  }
  GgufBytes& text(std::string_view s) {
    put<std::uint64_t>(s.size());
    out_ += s;
    return *this;
  }
  GgufBytes& raw(std::string_view s) {
    out_ += s;
    return *this;
  }
  GgufBytes& header(std::uint64_t tensors, std::uint64_t values, std::uint32_t version = 3) {
    return raw("GGUF").put(version).put(tensors).put(values);
  }
  /// A key and its type; the value follows.
  GgufBytes& key(std::string_view name, std::uint32_t type) { return text(name).put(type); }
  GgufBytes& tensor(std::string_view name, const std::vector<std::uint64_t>& extents, std::uint32_t encoding,
                    std::uint64_t offset) {
    text(name).put<std::uint32_t>(static_cast<std::uint32_t>(extents.size()));
    for (const std::uint64_t n : extents) put(n);
    return put(encoding).put(offset);
  }
  GgufBytes& pad(std::size_t alignment = 32) {
    out_.resize((out_.size() + alignment - 1) / alignment * alignment, '\0');
    return *this;
  }
  GgufBytes& zeros(std::size_t count) {
    out_.append(count, '\0');
    return *this;
  }
  operator const std::string&() const { return out_; }

 private:
  std::string out_;
};

}  // namespace metal_candle
