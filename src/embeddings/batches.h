// Which texts are computed together, and how they lie in one input.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "embeddings/backbone.h"
#include "embeddings/texts.h"

namespace metal_candle::embeddings {

/// Groups of texts (by number) with at most `most` tokens each, or of one text that is longer: always the longest that
/// still fits, so that but for the last few, groups are full.
std::vector<std::vector<std::size_t>> group(std::span<const Ids> texts, std::int64_t most);

/// The texts of a group one after the other, up to a length for which there is a plan already; what is missing to it
/// is a text of its own that nobody reads. Numbers of texts are rounded up likewise, by empty ones.
struct Packed {
  std::vector<std::int32_t> ids, positions, lengths;  // [t]
  std::vector<std::int32_t> offsets;                  // [slots + 2]
  /// Of each token: the text that it is pooled into, or `slots`; and its place in that text, from 1.
  std::vector<std::int32_t> text;  // [t]
  std::vector<float> place;        // [t]
  /// Of each slot: how many tokens are pooled, the first and last of them (where there are any), and the sum of their
  /// places.
  std::vector<std::int32_t> first, last;  // [slots]
  std::vector<float> count, places;       // [slots]
  std::int64_t slots = 0, longest = 0;

  /// The first `skipped` tokens of a text are not pooled.
  Packed(const Backbone& backbone, std::span<const Ids> texts, std::span<const std::size_t> group,
         std::int64_t skipped);

 private:
  void add(const Backbone& backbone, const Ids& ids, std::int32_t slot, std::int64_t skipped);
};

}  // namespace metal_candle::embeddings
