#include "io/tokenizer/vocabulary.h"

#include <algorithm>
#include <bit>
#include <cstring>

namespace metal_candle::io::tok {

std::uint64_t hash_bytes(const char* p, std::size_t n) {
  constexpr std::uint64_t kMul = 0x9E3779B97F4A7C15u;
  std::uint64_t h = n * kMul;
  const auto mix = [&h](std::uint64_t word) {
    h = (h ^ word) * kMul;
    h ^= h >> 32;
  };
  for (; n >= 8; p += 8, n -= 8) {
    std::uint64_t word;
    std::memcpy(&word, p, 8);
    mix(word);
  }
  if (n > 0) {
    std::uint64_t word = 0;
    std::memcpy(&word, p, n);
    mix(word);
  }
  h *= kMul;
  return h ^ h >> 29;
}

void StringMap::reserve(std::size_t count, std::size_t bytes) {
  arena_.reserve(bytes);
  entries_.reserve(count);
  const std::size_t slots = std::bit_ceil(std::max<std::size_t>(16, count * 2));
  if (slots > slots_.size()) grow(slots);
}

void StringMap::grow(std::size_t slots) {
  slots_.assign(slots, {0, 0});
  mask_ = slots - 1;
  for (std::size_t i = 0; i < entries_.size(); ++i) {
    const std::uint64_t h = hash_bytes(key(entries_[i]));
    std::uint64_t at = h & mask_;
    while (slots_[at].entry) at = (at + 1) & mask_;
    slots_[at] = {static_cast<std::uint32_t>(h >> 32), static_cast<std::uint32_t>(i + 1)};
  }
}

void StringMap::set(std::string_view k, std::int32_t value) {
  if ((entries_.size() + 1) * 2 > slots_.size()) grow(std::max<std::size_t>(16, slots_.size() * 2));
  const std::uint64_t h = hash_bytes(k);
  const auto tag = static_cast<std::uint32_t>(h >> 32);
  std::uint64_t at = h & mask_;
  for (; slots_[at].entry; at = (at + 1) & mask_) {
    Entry& e = entries_[slots_[at].entry - 1];
    if (slots_[at].tag == tag && key(e) == k) {
      e.value = value;
      return;
    }
  }
  slots_[at] = {tag, static_cast<std::uint32_t>(entries_.size() + 1)};
  entries_.push_back({arena_.size(), static_cast<std::uint32_t>(k.size()), value});
  arena_.append(k);
}

std::int32_t StringMap::find(std::string_view k) const {
  if (slots_.empty()) return kNoToken;
  const std::uint64_t h = hash_bytes(k);
  const auto tag = static_cast<std::uint32_t>(h >> 32);
  for (std::uint64_t at = h & mask_; slots_[at].entry; at = (at + 1) & mask_) {
    if (slots_[at].tag != tag) continue;
    const Entry& e = entries_[slots_[at].entry - 1];
    if (key(e) == k) return e.value;
  }
  return kNoToken;
}

void Vocabulary::reserve(std::size_t count, std::size_t bytes) {
  ids_.reserve(count, bytes);
  tokens_.reserve(count);
  known_.reserve(count);
}

void Vocabulary::add(std::string_view token, std::int32_t id) {
  ids_.set(token, id);
  if (static_cast<std::size_t>(id) >= tokens_.size()) {
    tokens_.resize(static_cast<std::size_t>(id) + 1);
    known_.resize(static_cast<std::size_t>(id) + 1);
  }
  tokens_[id] = token;
  known_[id] = true;
}

}  // namespace metal_candle::io::tok
