#include "metal_candle/tokenizer.hpp"

#include "metal_candle/error.hpp"
#include "tests/fuzz/targets.h"

namespace metal_candle::fuzz {
namespace {

void use(const Tokenizer& t, std::string_view text) {
  Tokenizer::Encoding e;
  try {
    e = t.encode_with_offsets(text);
    must(t.encode(text) == e.ids, "offsets change no ids");
  } catch (const UserError&) {
    return;  // no unknown token, or a pattern that takes too long
  }
  must(e.ids.size() == e.offsets.size(), "each token has its place");
  for (const auto& [begin, end] : e.offsets) must(begin <= end && end <= text.size(), "which is in the text");
  for (const std::int32_t id : e.ids) {
    // A post-processor's ids are believed, and may be none of the vocabulary's.
    if (id >= t.vocab_size()) return;
  }
  DecodeStream stream(t, false);
  std::string all;
  for (const std::int32_t id : e.ids) all += stream.push(id);
  must(all + stream.rest() == t.decode(e.ids), "a stream decodes to the same text");
}

}  // namespace

void tokenizer(std::string_view bytes) {
  try {
    const Tokenizer t = Tokenizer::from_json(bytes, "fuzz.json");
    for (const char* text :
         {"", "Hello, world! It's 12 345\n\n  ok", "e\u0301 \u00df\uFB01 \u4E16\u754C \U0001F642", "a\xFF \xE2\x82"})
      use(t, text);
    use(t, std::string(300, 'a'));
  } catch (const FileError&) {
  }
}

}  // namespace metal_candle::fuzz
