// How the tree of a Json lies in memory, for the sources that build, read and write it.
#pragma once

#include <atomic>
#include <deque>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "io/json_lexer.h"
#include "metal_candle/json.hpp"

namespace metal_candle {
namespace io {

/// A parsed text. Strings of its values lie in it; it lives as long as one of them. It also tells where a value came
/// from: the path is found again from the value's offset, when an error wants it, and costs nothing before.
struct JsonSource {
  JsonSource(std::string origin_of, std::string text_of)
      : origin(std::move(origin_of)), text(std::move(text_of)), arena(text.size()) {}
  std::string path_at(std::size_t offset) const;

  const std::string origin, text;
  JsonArena arena;
  std::atomic<std::size_t> uses{0};
};

/// Positions of keys by hash, with a seed of the process's own so that no file can be made to collide.
class KeyIndex {
 public:
  /// Keys below this number are searched one by one.
  static constexpr std::size_t kFew = 12;
  /// The position of a member called `key`, or -1.
  std::ptrdiff_t find(const std::vector<JsonMember>& list, std::string_view key) const;
  /// Takes the last of the list in. False: its key is there already.
  bool add_last(const std::vector<JsonMember>& list);
  /// Makes room for so many, of which those in the list, but for the last, are taken in.
  void make_room(std::size_t count, const std::vector<JsonMember>& list);

 private:
  std::vector<std::uint32_t> slots_;  // 0, or position + 1
};

}  // namespace io

struct Json::Elements {
  std::vector<Json> list;
};

struct Json::Members {
  std::vector<JsonMember> list;
  io::KeyIndex index;
  std::deque<std::string> keys;  // those that do not lie in the object's source
};

}  // namespace metal_candle
