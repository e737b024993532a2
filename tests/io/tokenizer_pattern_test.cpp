// Which characters the classes of regular expressions take in. Expected: how many scalar values Hugging Face's tokenizers
// 0.23.3 finds for the expression, and their sum.
#include <gtest/gtest.h>

#include "io/tokenizer/pattern.h"

namespace metal_candle::io::tok {
namespace {

std::string utf8(char32_t c) {
  std::string out;
  const auto put = [&](unsigned lead, int more) {
    out += static_cast<char>(lead | c >> (6 * more));
    while (more-- > 0) out += static_cast<char>(0x80 | (c >> (6 * more) & 0x3F));
  };
  if (c < 0x80) put(0, 0);
  else if (c < 0x800) put(0xC0, 1);
  else if (c < 0x10000) put(0xE0, 2);
  else put(0xF0, 3);
  return out;
}

struct Class {
  const char* expression;
  std::uint64_t count, sum;
};

TEST(TokenizerPattern, ClassesHoldWhatTheReferenceHolds) {
  for (const Class& c : std::initializer_list<Class>{{R"(\p{Alphabetic})", 142759, 15314421907},
                                                     {R"(\p{Alpha})", 142759, 15314421907},
                                                     {R"([\w])", 144665, 15621628979},
                                                     {R"(\w)", 144671, 15621630088},
                                                     {R"(\p{Han})", 99030, 12573883150},
                                                     {R"([\p{Han}])", 99030, 12573883150},
                                                     {R"(\p{Hiragana})", 381, 33455756},
                                                     {R"(\p{Katakana})", 321, 9165001},
                                                     {R"(\p{Latin})", 1487, 27421744},
                                                     {R"(\p{Cyrillic})", 508, 12793574},
                                                     {R"(\p{Greek})", 518, 15787342},
                                                     {R"(\p{Arabic})", 1373, 71326622},
                                                     {R"(\p{Devanagari})", 164, 2397130},
                                                     {R"(\p{Thai})", 86, 312105},
                                                     {R"(\p{Hangul})", 11739, 566124223},
                                                     {R"(\p{Hebrew})", 134, 3087732},
                                                     {R"(\p{Emoji})", 1431, 162209198}}) {
    const auto pattern = make_regex(c.expression);
    std::uint64_t count = 0, sum = 0;
    for (char32_t x = 1; x < 0x110000; ++x) {
      if (x >= 0xD800 && x < 0xE000) continue;
      Range match;
      if (pattern->find(utf8(x), 0, match)) ++count, sum += x;
    }
    EXPECT_EQ(count, c.count) << c.expression;
    EXPECT_EQ(sum, c.sum) << c.expression;
  }
}

}  // namespace
}  // namespace metal_candle::io::tok
