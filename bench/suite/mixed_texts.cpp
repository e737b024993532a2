#include "suite/mixed_texts.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <random>
#include <sstream>

namespace bench {
namespace {

/// Fills the state of a Mersenne Twister as its authors do from a key of one word, which is how Python seeds it.
struct OneWordKey {
  using result_type = std::uint32_t;
  std::uint32_t key;

  template <class Out>
  void generate(Out begin, Out end) const {
    constexpr std::size_t kSize = 624;
    std::array<std::uint32_t, kSize> state;
    state[0] = 19650218u;
    const auto mixed = [&](std::size_t i, std::uint32_t factor) {
      const std::uint32_t before = state[i - 1];
      return (before ^ (before >> 30)) * factor;
    };
    for (std::size_t i = 1; i < kSize; ++i) state[i] = mixed(i, 1812433253u) + static_cast<std::uint32_t>(i);
    std::size_t i = 1;
    const auto next = [&] {
      if (++i < kSize) return;
      state[0] = state[kSize - 1];
      i = 1;
    };
    for (std::size_t n = 0; n < kSize; ++n, next()) state[i] = (state[i] ^ mixed(i, 1664525u)) + key;
    for (std::size_t n = 1; n < kSize; ++n, next())
      state[i] = (state[i] ^ mixed(i, 1566083941u)) - static_cast<std::uint32_t>(i);
    state[0] = 0x80000000u;
    std::copy_n(state.begin(), end - begin, begin);
  }
};

class PythonRandom {
 public:
  explicit PythonRandom(std::uint32_t seed) {
    OneWordKey key{seed};
    words_.seed(key);
  }

  /// In [0, 1), of 53 bits.
  double uniform() {
    const std::uint64_t high = words_() >> 5, low = words_() >> 6;
    return static_cast<double>((high << 26) + low) / 9007199254740992.0;
  }
  std::size_t below(std::size_t n) {
    int bits = 0;
    while ((n >> bits) != 0) ++bits;
    for (;;)
      if (const std::size_t drawn = words_() >> (32 - bits); drawn < n) return drawn;
  }
  /// By the ratio of two uniform numbers.
  double normal(double mean, double deviation) {
    const double magic = 4 * std::exp(-0.5) / std::sqrt(2.0);
    for (;;) {
      const double a = uniform(), b = 1.0 - uniform(), z = magic * (a - 0.5) / b;
      if (z * z / 4 <= -std::log(b)) return mean + z * deviation;
    }
  }

 private:
  std::mt19937 words_;
};

std::vector<std::string> common_words() {
  std::istringstream list(
      "the of and to in is was for on that by this with from at his her are be or an it as were which had not but have "
      "one their been has its who when will more no if out so said what up about into than them can only other new "
      "some "
      "time could these two may then do first any my now such like our over man me even most made after also");
  std::vector<std::string> words;
  for (std::string word; list >> word;) words.push_back(word);
  return words;
}

}  // namespace

std::vector<std::string> mixed_texts(int count) {
  const std::vector<std::string> words = common_words();
  PythonRandom random(7);
  std::vector<std::string> texts;
  for (int i = 0; i < count; ++i) {
    std::string& text = texts.emplace_back();
    const int length = std::clamp(static_cast<int>(std::exp(random.normal(3.2, 0.9))), 3, 240);
    for (int w = 0; w < length; ++w) text += (w ? " " : "") + words[random.below(words.size())];
  }
  return texts;
}

}  // namespace bench
