#include "io/tokenizer/unicode.h"

#include <algorithm>
#include <cstring>

namespace metal_candle::io::tok {
namespace {

struct Run {
  char32_t first;
  std::uint32_t value;
};
struct Mapped {
  char32_t from;
  std::uint32_t where;  // length << 24 | start in the pool
};
struct Pair {
  char32_t a, b, to;
};

#include "io/tokenizer/unicode_data.inc"

template <std::size_t N>
std::u32string_view find(const Mapped (&table)[N], const char32_t* pool, char32_t c) {
  const Mapped* at = std::lower_bound(table, table + N, c, [](const Mapped& m, char32_t x) { return m.from < x; });
  if (at == table + N || at->from != c) return {};
  return {pool + (at->where & 0xFFFFFF), at->where >> 24};
}

// Conjoining Jamo, section 3.12 of the standard.
constexpr char32_t kL = 0x1100, kV = 0x1161, kT = 0x11A7, kLs = 19, kVs = 21, kTs = 28;

}  // namespace

const CharTable& CharTable::get() {
  static const CharTable table;
  return table;
}

CharTable::CharTable() {
  const Run* run = kFlagRuns;
  const Run* const last = std::end(kFlagRuns) - 1;
  blocks_.reserve(256);
  Block block;
  for (char32_t high = 0; high < 0x1100; ++high) {
    for (char32_t low = 0; low < 256; ++low) {
      while (run < last && run[1].first <= (high << 8 | low)) ++run;
      block.value[low] = run->value;
    }
    // Long stretches of one script have equal neighbours; a search among all is not worth its time.
    const bool known = !blocks_.empty() && blocks_.back() == block;
    if (!known) blocks_.push_back(block);
    index_[high] = static_cast<std::uint16_t>(blocks_.size() - 1);
  }
}

std::uint8_t combining_class(char32_t c) {
  const Run* at = std::upper_bound(std::begin(kClassRuns), std::end(kClassRuns), c,
                                   [](char32_t x, const Run& r) { return x < r.first; });
  return static_cast<std::uint8_t>(at[-1].value);
}

std::u32string_view canonical_decomposition(char32_t c) { return find(kCanonical, kCanonicalPool, c); }

std::u32string_view compatible_decomposition(char32_t c) {
  const std::u32string_view d = find(kCompatible, kCompatiblePool, c);
  return d.empty() ? canonical_decomposition(c) : d;
}

char32_t composition(char32_t a, char32_t b) {
  if (a - kL < kLs && b - kV < kVs) return kHangulBase + ((a - kL) * kVs + (b - kV)) * kTs;
  if (is_hangul(a) && (a - kHangulBase) % kTs == 0 && b > kT && b < kT + kTs) return a + (b - kT);
  const Pair* at = std::lower_bound(std::begin(kPairs), std::end(kPairs), Pair{a, b, 0},
                                    [](const Pair& x, const Pair& y) { return x.a != y.a ? x.a < y.a : x.b < y.b; });
  return at != std::end(kPairs) && at->a == a && at->b == b ? at->to : 0;
}

std::u32string_view lowercase(char32_t c) { return find(kLower, kLowerPool, c); }

std::span<const LateRange> late_ranges() { return kLateRanges; }

}  // namespace metal_candle::io::tok
