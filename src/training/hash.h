// A 64-bit fingerprint of bytes: to notice what was changed or cut short, not to withstand an adversary.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <string_view>

namespace metal_candle::training {

class Hash {
 public:
  Hash& add(std::uint64_t value) {
    // Multiply and fold: every bit of both reaches every bit of the state.
    __extension__ using Wide = unsigned __int128;
    const Wide product = static_cast<Wide>(state_ ^ value) * 0x9e3779b97f4a7c15u;
    state_ = static_cast<std::uint64_t>(product) ^ static_cast<std::uint64_t>(product >> 64) ^ std::rotl(value, 23);
    return *this;
  }
  Hash& add(std::span<const std::byte> bytes) {
    const std::size_t whole = bytes.size() / 8 * 8;
    std::uint64_t word = 0;
    for (std::size_t i = 0; i < whole; i += 8) {
      std::memcpy(&word, bytes.data() + i, 8);
      add(word);
    }
    word = 0;
    if (whole < bytes.size()) std::memcpy(&word, bytes.data() + whole, bytes.size() - whole);
    return add(word).add(bytes.size());
  }
  Hash& add(std::string_view text) { return add(std::as_bytes(std::span(text))); }
  std::uint64_t value() const { return state_; }

 private:
  std::uint64_t state_ = 0x2545f4914f6cdd1du;
};

}  // namespace metal_candle::training
