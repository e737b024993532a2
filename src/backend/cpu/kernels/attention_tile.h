// What forward and backward share: which keys a block of rows sees, and tiles of keys and queries in f32.
#pragma once

#include <utility>

#include "backend/cpu/kernels/attention_problem.h"
#include "backend/cpu/kernels/attention_product.h"
#include "backend/cpu/kernels/attention_rows.h"

namespace metal_candle::cpu::attention {

/// Hands out 64-byte aligned pieces of a buffer, or measures one (base null).
class Carve {
 public:
  explicit Carve(void* base) : base_(static_cast<char*>(base)) {}
  template <class T>
  T* take(std::int64_t count) {
    const std::size_t at = used_;
    used_ += static_cast<std::size_t>(round_up(count * static_cast<std::int64_t>(sizeof(T)), 64));
    return base_ ? reinterpret_cast<T*>(base_ + at) : nullptr;
  }
  std::size_t used() const { return used_; }

 private:
  char* base_;
  std::size_t used_ = 0;
};

/// Keys [first, first + n) of a sequence and their positions.
struct KeyBlock {
  std::int64_t first = 0;
  int n = 0;
  std::int32_t* positions = nullptr;  // [kKeyBlock]
  std::int32_t least = 0, most = 0;

  void set(const Problem& p, const Sequence& s, std::int64_t first_key) {
    first = first_key;
    n = static_cast<int>(std::min(kKeyBlock, s.keys - first_key));
    if (p.in_order() && n > 0) {
      for (int j = 0; j < kKeyBlock; ++j) positions[j] = static_cast<std::int32_t>(j < n ? first + j : kNever);
      least = static_cast<std::int32_t>(first);
      most = static_cast<std::int32_t>(first + n - 1);
      return;
    }
    least = static_cast<std::int32_t>(kNever);
    most = -least;
    for (int j = 0; j < kKeyBlock; ++j) {
      positions[j] = j < n ? p.key_position(s, first + j) : static_cast<std::int32_t>(kNever);
      if (j >= n) continue;
      least = std::min(least, positions[j]);
      most = std::max(most, positions[j]);
    }
  }
};

/// Rows [row, row + rows) of a tile of queries: row r is query r / group, head r % group of the group.
struct RowSpan {
  std::int64_t row;
  int rows;
  Sight sight[kRowBlock];
  std::int32_t least_low, most_low, least_high, most_high;

  void set(const Problem& p, const Tile& t, std::int64_t first, std::int64_t tile_rows) {
    row = first;
    rows = static_cast<int>(std::min(kRowBlock, tile_rows - row));
    for (int r = 0; r < rows; ++r) {
      const Sight s = sight[r] = p.sight(t.sequence, t.begin + (row + r) / p.group);
      least_low = r == 0 ? s.low : std::min(least_low, s.low);
      most_low = r == 0 ? s.low : std::max(most_low, s.low);
      least_high = r == 0 ? s.high : std::min(least_high, s.high);
      most_high = r == 0 ? s.high : std::max(most_high, s.high);
    }
  }
};

/// The columns of a key block that some of the rows see, and whether all rows see all that will be computed.
struct Seen {
  int begin = 0, end = 0;  // of the block's keys; empty when nothing is seen
  int vector_begin = 0, vector_end = 0;
  bool masked = false;

  Seen() = default;
  Seen(const Problem& p, const KeyBlock& k, const RowSpan& r) {
    if (k.n == 0 || k.least > r.most_high || k.most < r.least_low) return;
    end = k.n;
    if (p.in_order()) {
      begin = static_cast<int>(std::max<std::int64_t>(0, r.least_low - k.first));
      end = static_cast<int>(std::min<std::int64_t>(k.n, r.most_high - k.first + 1));
    }
    vector_begin = begin / static_cast<int>(kSums) * static_cast<int>(kSums);
    vector_end = static_cast<int>(round_up(end, kSums));
    masked = vector_end > k.n || r.most_low > k.least || r.least_high < k.most;
    if (masked && p.in_order() && vector_end <= k.n)
      masked = r.most_low > k.first + vector_begin || r.least_high < k.first + vector_end - 1;
  }
  bool empty() const { return begin >= end; }
};

/// The rows of a tile in blocks, and what each sees of the current keys.
class RowBlocks {
 public:
  struct Block {
    RowSpan span;
    Seen seen;
    bool begun;  // forward: some of the keys so far were seen
  };
  static std::int64_t most(const Problem& p) { return p.tile_queries() * p.group / kRowBlock + 1; }
  explicit RowBlocks(Block* blocks) : blocks_(blocks) {}

  void set(const Problem& p, const Tile& t) {
    count_ = 0;
    const std::int64_t rows = (t.end - t.begin) * p.group;
    for (std::int64_t row = 0; row < rows; row += kRowBlock) {
      blocks_[count_].begun = false;
      blocks_[count_++].span.set(p, t, row, rows);
    }
  }
  /// False if nobody sees any of the keys.
  bool look(const Problem& p, const KeyBlock& k) {
    bool any = false;
    for (Block& b : *this) any |= !(b.seen = Seen(p, k, b.span)).empty();
    return any;
  }
  /// Calls f(first row, number of rows, seen) for runs of blocks that see something and of which `of` is equal.
  template <class Of, class F>
  void runs(Of of, F f) const {
    for (int i = 0; i < count_;) {
      const Block& b = blocks_[i];
      std::int64_t rows = b.span.rows;
      int next = i + 1;
      for (; next < count_ && of(blocks_[next].seen) == of(b.seen); ++next) rows += blocks_[next].span.rows;
      if (!b.seen.empty()) f(b.span.row, rows, b.seen);
      i = next;
    }
  }
  Block* begin() const { return blocks_; }
  Block* end() const { return blocks_ + count_; }
  int count() const { return count_; }

 private:
  Block* blocks_;
  int count_ = 0;
};
inline auto vector_columns(const Seen& s) { return std::pair(s.vector_begin, s.vector_end); }
inline auto columns(const Seen& s) { return std::pair(s.begin, s.end); }

/// Bias rows of a block in f32, columns outside of it zero.
inline void load_bias(const Problem& p, const Tile& t, std::int64_t key_head, std::int64_t row, const KeyBlock& k,
                      ScoreBlock& block, float* target) {
  for (int r = 0; r < block.rows; ++r) {
    const std::int64_t query = t.begin + (row + r) / p.group, head = key_head * p.group + (row + r) % p.group;
    std::int64_t stride;
    const auto* source =
        reinterpret_cast<const float*>(p.bias_row(t.sequence, head, query, &stride)) + k.first * stride;
    float* to = target + r * kKeyBlock;
    for (int j = 0; j < kKeyBlock; ++j) to[j] = j < k.n ? source[j * stride] : 0;
    block.bias[r] = to;
  }
}

/// Rows [row, row + n) of a tile of queries from q (or out, dout: laid out like it, with dv components), as [n][width];
/// bf16 where products go over pairs.
inline void load_queries(const Problem& p, const Operand& o, const Tile& t, std::int64_t key_head, std::int64_t d,
                         std::int64_t row, std::int64_t n, float* target, std::int64_t width) {
  for (const std::int64_t end = row + n; row < end;) {
    const std::int64_t query = t.begin + row / p.group, head = row % p.group;
    const std::int64_t count = p.group == 1 ? end - row : std::min(p.group - head, end - row);
    const Rows rows{o.at(t.sequence.index, t.sequence.first_query + query, key_head * p.group + head),
                    o.dtype,
                    p.group == 1 ? o.token : o.head,
                    o.component,
                    count,
                    d};
    p.pairs ? load_halves(rows, target, width) : load(rows, target, width);
    row += count;
    target += count * p.steps(width);
  }
}
/// A tile's tokens with all heads of the group, where these lie together: to be asked for, none otherwise.
inline Rows query_tokens(const Problem& p, const Operand& o, const Tile& t, std::int64_t key_head, std::int64_t d) {
  const bool together = p.group == 1 || o.head == d;
  return {o.at(t.sequence.index, t.sequence.first_query + t.begin, key_head * p.group),
          o.dtype,
          o.token,
          o.component,
          together ? t.end - t.begin : 0,
          d * p.group};
}
inline Rows key_rows(const Operand& o, const Sequence& s, const KeyBlock& k, std::int64_t key_head, std::int64_t d) {
  return {o.at(s.index, s.first_key + k.first, key_head), o.dtype, o.token, o.component, k.n, d};
}

/// K of a block as [width][kKeyBlock], zeros in what is missing to `padded` keys. `rows` is where K goes as [n][width] on
/// the way, if it must.
inline void load_transposed(const Rows& k, std::int64_t width, float* rows, float* target,
                            std::int64_t padded = kKeyBlock) {
  const bool as_is = k.dtype == DType::f32 && k.component == 1 && k.d == width;
  if (!as_is) load(k, rows, width);
  row_kernels().transpose(as_is ? reinterpret_cast<const float*>(k.data) : rows, as_is ? k.stride : width, k.n, width,
                          target, kKeyBlock, padded);
}

/// The same in pairs along the width: [width / 2][kKeyBlock].
inline void load_transposed_pairs(const Rows& k, std::int64_t width, float* rows, float* target,
                                  std::int64_t padded = kKeyBlock) {
  const bool as_is =
      k.component == 1 && k.d == width && k.stride % 2 == 0 && reinterpret_cast<std::uintptr_t>(k.data) % 4 == 0;
  if (!as_is) load_halves(k, rows, width);
  row_kernels().transpose(as_is ? reinterpret_cast<const float*>(k.data) : rows, (as_is ? k.stride : width) / 2, k.n,
                          width / 2, target, kKeyBlock, padded);
}
/// bf16 rows in pairs of rows: [⌈n/2⌉][width].
inline void load_row_pairs(const Rows& v, std::int64_t width, float* rows, float* target) {
  const bool as_is = v.component == 1 && v.d == width;
  if (!as_is) load_halves(v, rows, width);
  row_kernels().pair_rows(reinterpret_cast<const std::uint16_t*>(as_is ? v.data : reinterpret_cast<const char*>(rows)),
                          as_is ? v.stride : width, v.n, width, target);
}

inline constexpr double kLog2e = 1.4426950408889634, kLn2 = 0.6931471805599453;

/// A block of rows at `scores`, its bias (if there is one) loaded to `bias`.
inline ScoreBlock score_block(const Problem& p, const Tile& t, std::int64_t key_head, const KeyBlock& k,
                              const RowBlocks::Block& b, float* scores, float* bias) {
  ScoreBlock s{.scores = scores,
               .rows = b.span.rows,
               .begin = b.seen.vector_begin,
               .end = b.seen.vector_end,
               .masked = b.seen.masked,
               .key_positions = k.positions,
               .sight = {}};
  std::copy(b.span.sight, b.span.sight + s.rows, s.sight);
  s.cap = static_cast<float>(p.rule.softcap * kLog2e);
  s.scale = static_cast<float>(p.rule.softcap > 0 ? p.rule.scale / p.rule.softcap : p.rule.scale * kLog2e);
  if (p.bias) load_bias(p, t, key_head, b.span.row, k, s, bias);
  return s;
}

}  // namespace metal_candle::cpu::attention
