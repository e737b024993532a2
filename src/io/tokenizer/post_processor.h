// What post-processors of tokenizer.json come to for one text: special tokens before and after it (and, oddly, the text
// more than once), and offsets without the spaces around them.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

namespace metal_candle::io::tok {

struct PostProcessor {
  struct Piece {
    bool text;  // else special tokens
    std::vector<std::int32_t> ids;
  };
  /// Empty: the text alone.
  std::vector<Piece> pieces;
  struct Trim {
    bool add_prefix_space;
  };
  /// Offsets are trimmed so many times, one after the other.
  std::vector<Trim> trims;
};

}  // namespace metal_candle::io::tok
