#include "embeddings/batches.h"

#include <algorithm>
#include <bit>
#include <map>

#include "metal_candle/error.hpp"

namespace metal_candle::embeddings {

std::vector<std::vector<std::size_t>> group(std::span<const Ids> texts, std::int64_t most) {
  std::map<std::size_t, std::vector<std::size_t>> waiting;  // by length, the first text last
  for (std::size_t i = texts.size(); i-- > 0;) waiting[texts[i].size()].push_back(i);
  std::vector<std::vector<std::size_t>> groups;
  while (!waiting.empty()) {
    auto& group = groups.emplace_back();
    std::size_t room = std::max(static_cast<std::size_t>(most), waiting.rbegin()->first);
    for (auto next = waiting.upper_bound(room); next != waiting.begin(); next = waiting.upper_bound(room)) {
      --next;
      group.push_back(next->second.back());
      room -= next->first;
      next->second.pop_back();
      if (next->second.empty()) waiting.erase(next);
    }
  }
  return groups;
}

namespace {

/// Eight lengths an octave, so that plans repeat. Short ones, too: a query's tokens are rows that each weight is read
/// for, and a row more than fits one kernel reads it again.
std::int64_t length_for(std::int64_t tokens) {
  if (tokens <= 8) return std::max<std::int64_t>(1, tokens);
  const std::int64_t step = std::int64_t{1} << (std::bit_width(static_cast<std::uint64_t>(tokens - 1)) - 4);
  return (tokens + step - 1) / step * step;
}

/// Few sizes, so that plans repeat; an empty slot costs a row of the result.
std::int64_t slots_for(std::size_t texts) {
  std::int64_t slots = 1;
  while (slots < static_cast<std::int64_t>(texts)) slots *= 8;
  return slots;
}

}  // namespace

Packed::Packed(const Backbone& backbone, std::span<const Ids> texts, std::span<const std::size_t> group,
               std::int64_t skipped) {
  slots = slots_for(group.size());
  std::size_t tokens = 0;
  for (const std::size_t i : group) tokens += texts[i].size();
  const std::int64_t size = length_for(static_cast<std::int64_t>(tokens));
  if (size > INT32_MAX) throw UserError(ErrorKind::argument, "embed: a text of " + std::to_string(tokens) + " tokens");
  for (auto* list : {&ids, &positions, &lengths, &text}) list->reserve(static_cast<std::size_t>(size));
  place.reserve(static_cast<std::size_t>(size));
  for (const std::size_t i : group) add(backbone, texts[i], static_cast<std::int32_t>(first.size()), skipped);
  const Ids filling(static_cast<std::size_t>(size) - tokens, 0);
  offsets.push_back(static_cast<std::int32_t>(ids.size()));
  ids.insert(ids.end(), filling.begin(), filling.end());
  // Places in texts are places that the model has; the filling may be longer than it reads, and begins anew then.
  for (std::size_t i = 0; i < filling.size(); ++i)
    positions.push_back(static_cast<std::int32_t>(static_cast<std::int64_t>(i) % backbone.max_tokens()));
  lengths.resize(ids.size(), 1);
  text.resize(ids.size(), static_cast<std::int32_t>(slots));
  place.resize(ids.size(), 0);
  offsets.resize(static_cast<std::size_t>(slots) + 2, static_cast<std::int32_t>(size));
  for (auto* list : {&first, &last}) list->resize(static_cast<std::size_t>(slots), 0);
  for (auto* list : {&count, &places}) list->resize(static_cast<std::size_t>(slots), 1);
}

void Packed::add(const Backbone& backbone, const Ids& tokens, std::int32_t slot, std::int64_t skipped) {
  const auto begin = static_cast<std::int32_t>(ids.size());
  const auto n = static_cast<std::int32_t>(tokens.size());
  offsets.push_back(begin);
  ids.insert(ids.end(), tokens.begin(), tokens.end());
  backbone.add_positions(tokens, positions);
  lengths.resize(ids.size(), n);
  const auto from = static_cast<std::int32_t>(std::min<std::int64_t>(skipped, n));
  for (std::int32_t i = 0; i < n; ++i) {
    text.push_back(i < from ? static_cast<std::int32_t>(slots) : slot);
    place.push_back(static_cast<float>(i + 1));
  }
  const std::int32_t pooled = n - from;
  first.push_back(pooled > 0 ? begin + from : 0);
  last.push_back(pooled > 0 ? begin + n - 1 : 0);
  count.push_back(static_cast<float>(pooled));
  const std::int64_t sum = static_cast<std::int64_t>(n) * (n + 1) / 2;
  const std::int64_t before = static_cast<std::int64_t>(from) * (from + 1) / 2;
  places.push_back(static_cast<float>(sum - before));
  longest = std::max<std::int64_t>(longest, n);
}

}  // namespace metal_candle::embeddings
