// Tokens and their ids: strings in one arena, found through a flat hash table.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace metal_candle::io::tok {

std::uint64_t hash_bytes(const char* p, std::size_t n);
inline std::uint64_t hash_bytes(std::string_view s) { return hash_bytes(s.data(), s.size()); }

constexpr std::int32_t kNoToken = -1;

/// Strings to numbers; the last value given to a string counts.
class StringMap {
 public:
  void reserve(std::size_t count, std::size_t bytes);
  void set(std::string_view key, std::int32_t value);
  std::int32_t find(std::string_view key) const;
  std::size_t size() const { return entries_.size(); }

 private:
  struct Entry {
    std::uint64_t start;
    std::uint32_t length;
    std::int32_t value;
  };
  struct Slot {
    std::uint32_t tag, entry;  // entry + 1, 0 if free
  };
  std::string_view key(const Entry& e) const { return std::string_view(arena_).substr(e.start, e.length); }
  void grow(std::size_t slots);
  std::string arena_;
  std::vector<Entry> entries_;
  std::vector<Slot> slots_;
  std::uint64_t mask_ = 0;
};

/// A model's vocabulary: both ways. Ids may have holes.
class Vocabulary {
 public:
  void reserve(std::size_t count, std::size_t bytes);
  /// `id` must have been checked against the limit.
  void add(std::string_view token, std::int32_t id);
  std::int32_t find(std::string_view token) const { return ids_.find(token); }
  /// Null if no token has the id.
  const std::string* token(std::int32_t id) const {
    return id >= 0 && static_cast<std::size_t>(id) < known_.size() && known_[id] ? &tokens_[id] : nullptr;
  }
  /// Number of distinct tokens, and the largest id + 1.
  std::size_t count() const { return ids_.size(); }
  std::int32_t end() const { return static_cast<std::int32_t>(tokens_.size()); }

 private:
  StringMap ids_;
  std::vector<std::string> tokens_;
  std::vector<bool> known_;
};

}  // namespace metal_candle::io::tok
