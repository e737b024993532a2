// Which script a character is of, as the reference's UnicodeScripts has it.
#include <algorithm>
#include <iterator>

#include "io/tokenizer/unicode.h"

namespace metal_candle::io::tok {
namespace {

struct ScriptRange {
  std::uint32_t first;
  std::uint8_t script;
};
constexpr ScriptRange kScripts[] = {
#include "io/tokenizer/script_data.inc"
};

}  // namespace

int script_of(char32_t c) {
  const auto after = std::upper_bound(std::begin(kScripts), std::end(kScripts), static_cast<std::uint32_t>(c),
                                      [](std::uint32_t code, const ScriptRange& r) { return code < r.first; });
  return std::prev(after)->script;
}

}  // namespace metal_candle::io::tok
