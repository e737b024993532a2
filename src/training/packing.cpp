// In which order rows are read, and how several become one input.
#include <bit>
#include <numeric>

#include "metal_candle/dataset.hpp"
#include "metal_candle/error.hpp"
#include "metal_candle/random.hpp"

namespace metal_candle {

RowOrder::RowOrder(std::size_t rows, bool shuffle, std::uint64_t seed) : rows_(rows), shuffle_(shuffle), seed_(seed) {
  if (rows == 0 || rows > UINT32_MAX)
    throw UserError(ErrorKind::argument, "a dataset of " + std::to_string(rows) + " rows");
}

std::size_t RowOrder::operator[](std::int64_t position) {
  const auto n = static_cast<std::int64_t>(rows_);
  if (!shuffle_) return static_cast<std::size_t>(position % n);
  if (position / n != round_) draw(position / n);
  return permutation_[static_cast<std::size_t>(position % n)];
}

// Fisher and Yates. Number i of a round is a hash of (seed, round, i); taken modulo at most 2^32 its bias is nothing.
void RowOrder::draw(std::int64_t round) {
  permutation_.resize(rows_);
  std::iota(permutation_.begin(), permutation_.end(), 0u);
  const Key key = Key(seed_).fold(static_cast<std::uint64_t>(round));
  for (std::size_t i = rows_; i > 1; --i) std::swap(permutation_[i - 1], permutation_[key.fold(i).value % i]);
  round_ = round;
}

std::int64_t bucket_of(std::int64_t tokens) {
  constexpr std::int64_t kSmallest = 16;
  if (tokens <= kSmallest) return kSmallest;
  const auto octave = std::bit_floor(static_cast<std::uint64_t>(tokens - 1));
  const std::int64_t step = std::max<std::int64_t>(kSmallest, static_cast<std::int64_t>(octave / 8));
  return (tokens + step - 1) / step * step;
}

PackedRows pack(std::span<const Sample* const> rows, std::int64_t sequences) {
  PackedRows p;
  for (const Sample* row : rows) p.tokens += static_cast<std::int64_t>(row->tokens.size());
  const std::int64_t length = bucket_of(p.tokens);
  if (length > INT32_MAX) throw UserError(ErrorKind::argument, std::to_string(p.tokens) + " tokens in one batch");
  const auto n = static_cast<std::size_t>(length);
  for (auto* list : {&p.ids, &p.positions, &p.lengths, &p.targets}) list->reserve(n);
  p.offsets.reserve(static_cast<std::size_t>(sequences) + 2);
  const auto add = [&](std::int32_t id, std::size_t position, std::size_t row_length, std::int32_t target) {
    p.ids.push_back(id);
    p.positions.push_back(static_cast<std::int32_t>(position));
    p.lengths.push_back(static_cast<std::int32_t>(row_length));
    p.targets.push_back(target);
    p.supervised += target != PackedRows::kIgnored;
  };
  for (const Sample* row : rows) {
    p.offsets.push_back(static_cast<std::int32_t>(p.ids.size()));
    const std::size_t last = row->tokens.size();
    for (std::size_t i = 0; i < last; ++i)
      add(row->tokens[i], i, last, i + 1 < last && row->supervised[i + 1] ? row->tokens[i + 1] : PackedRows::kIgnored);
  }
  p.offsets.push_back(static_cast<std::int32_t>(p.ids.size()));
  const std::size_t filling = n - p.ids.size();
  for (std::size_t i = 0; i < filling; ++i) add(0, i, filling, PackedRows::kIgnored);
  p.offsets.resize(static_cast<std::size_t>(sequences) + 2, static_cast<std::int32_t>(n));
  return p;
}

}  // namespace metal_candle
