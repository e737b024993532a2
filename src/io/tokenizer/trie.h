// Strings to numbers, byte by byte: one flat hash table of (node, byte) -> node.
#pragma once

#include <algorithm>
#include <bit>
#include <cstdint>
#include <string_view>
#include <vector>

namespace metal_candle::io::tok {

class Trie {
 public:
  static constexpr std::uint32_t kRoot = 0, kNone = 0xFFFFFFFF;

  Trie() : values_(1, -1), slots_(64, {kFree, 0}) {}
  bool empty() const { return values_.size() == 1; }

  /// The last value given to a key counts.
  void add(std::string_view key, std::int32_t value) {
    std::uint32_t node = kRoot;
    for (const char c : key) {
      std::uint32_t next = step(node, c);
      if (next == kNone) {
        next = static_cast<std::uint32_t>(values_.size());
        values_.push_back(-1);
        if (values_.size() * 2 > slots_.size()) grow();
        insert(key_of(node, c), next);
      }
      node = next;
    }
    values_[node] = value;
  }

  std::uint32_t step(std::uint32_t node, char c) const {
    const std::uint64_t key = key_of(node, c);
    std::uint64_t at = start(key);
    while (slots_[at].key != key) {
      if (slots_[at].key == kFree) return kNone;
      at = (at + 1) & (slots_.size() - 1);
    }
    return slots_[at].node;
  }

  /// -1 if no key ends here.
  std::int32_t value(std::uint32_t node) const { return values_[node]; }

  std::uint32_t walk(std::uint32_t node, std::string_view key) const {
    for (std::size_t i = 0; i < key.size() && node != kNone; ++i) node = step(node, key[i]);
    return node;
  }

 private:
  struct Slot {
    std::uint64_t key;
    std::uint32_t node;
  };
  static constexpr std::uint64_t kFree = ~std::uint64_t{0};
  static std::uint64_t key_of(std::uint32_t node, char c) {
    return static_cast<std::uint64_t>(node) << 8 | static_cast<unsigned char>(c);
  }
  std::uint64_t start(std::uint64_t key) const {
    key *= 0x9E3779B97F4A7C15u;
    return (key ^ key >> 32) & (slots_.size() - 1);
  }
  void insert(std::uint64_t key, std::uint32_t node) {
    std::uint64_t at = start(key);
    while (slots_[at].key != kFree) at = (at + 1) & (slots_.size() - 1);
    slots_[at] = {key, node};
  }
  void grow() {
    std::vector<Slot> old(slots_.size() * 2, {kFree, 0});
    old.swap(slots_);
    for (const Slot& s : old) {
      if (s.key != kFree) insert(s.key, s.node);
    }
  }
  std::vector<std::int32_t> values_;
  std::vector<Slot> slots_;
};

}  // namespace metal_candle::io::tok
