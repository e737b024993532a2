// A call of attention as the kernels see it: one description for packed, ragged and batched inputs.
#pragma once

#include <algorithm>
#include <cstdint>
#include <limits>

#include "backend/cpu/kernels/types.h"
#include "ops/attention.h"

namespace metal_candle::cpu::attention {

inline constexpr std::int64_t kKeyBlock = 64;  // keys whose scores exist at a time; part of a result's bits
inline constexpr std::int64_t kRowBlock = 6;   // rows of one micro kernel call
inline constexpr std::int64_t kNever = std::numeric_limits<std::int32_t>::max();  // position of what is not there

inline std::int64_t round_up(std::int64_t n, std::int64_t to) { return (n + to - 1) / to * to; }

/// [batch,] token, head, component; strides in elements.
struct Operand {
  const char* data = nullptr;
  DType dtype = DType::f32;
  std::int64_t batch = 0, token = 0, head = 0, component = 0;

  const char* at(std::int64_t offset) const { return data + offset * static_cast<std::int64_t>(size_of(dtype)); }
  const char* at(std::int64_t sequence, std::int64_t token_, std::int64_t head_) const {
    return at(sequence * batch + token_ * token + head_ * head);
  }
};

/// The view of a tensor of rank 3 or 4.
Operand operand(const KernelTensor& t);

/// Queries and keys that belong together. A row counts through all sequences, a `first` within the operand's batch
/// entry.
struct Sequence {
  std::int64_t index = 0;
  std::int64_t query_row = 0, first_query = 0, queries = 0;
  std::int64_t key_row = 0, first_key = 0, keys = 0, key_slots = 0;  // keys in use, keys there is room for
};

/// Positions that a query sees, both ends included.
struct Sight {
  std::int32_t low, high;
};

struct Problem {
  ops::AttentionRule rule;
  Operand q, k, v;
  std::int64_t batch = 1;                  // entries of a batched call; 1 when packed
  std::int64_t batch_queries, batch_keys;  // per entry
  std::int64_t queries, keys;              // all of them
  std::int64_t heads, key_heads, group, d, dv;
  std::int64_t sequences;  // without the rest behind the last offset
  // All in bf16, on a machine that multiplies pairs of them: tiles hold bf16, and probabilities are rounded to it.
  bool pairs = false;
  const KernelTensor *query_offsets = nullptr, *key_offsets = nullptr, *key_lengths = nullptr;
  const KernelTensor *query_positions = nullptr, *key_positions = nullptr, *bias = nullptr, *lse_grad = nullptr;
  void (*fail)(const char*);

  Problem(const KernelCall& call, int fixed_inputs);

  /// The sequences, then (for ragged calls) what lies behind the last offset: queries without keys, keys without
  /// queries.
  std::int64_t parts() const { return query_offsets ? sequences + 1 : sequences; }
  Sequence part(std::int64_t index) const;
  /// Whether a key's position is its place in the sequence.
  bool in_order() const { return key_positions == nullptr; }
  std::int32_t key_position(const Sequence& s, std::int64_t key) const;
  Sight sight(const Sequence& s, std::int64_t query) const;
  /// First element of bias [head, query, :] and the stride along keys.
  const char* bias_row(const Sequence& s, std::int64_t head, std::int64_t query, std::int64_t* stride) const;

  /// The same for the bias's gradient, which is dense [.., h, tq, tk].
  std::int64_t bias_grad_at(const Sequence& s, std::int64_t head, std::int64_t query) const;

  /// Queries of a tile. It decides how often keys are read and how many tasks there are, not what comes out: it is even
  /// wherever it could be different in another call, so that pairs of rows are the same pairs.
  std::int64_t tile_queries() const;
  /// What products step over: elements along a row of `width`, two at a time where they come in pairs.
  std::int64_t steps(std::int64_t width) const { return pairs ? width / 2 : width; }
  /// Tiles of `size` tokens that all parts together can have at most.
  std::int64_t tiles(std::int64_t all, std::int64_t in_entry, std::int64_t size) const;
};

struct Tile {
  Sequence sequence;
  std::int64_t begin = 0, end = 0;  // queries or keys of it
};
/// Tile number `index` of queries (or of key slots), last tiles of a sequence first; empty when there are not so many.
Tile query_tile(const Problem& p, std::int64_t index);
Tile key_tile(const Problem& p, std::int64_t index, std::int64_t size);

}  // namespace metal_candle::cpu::attention
