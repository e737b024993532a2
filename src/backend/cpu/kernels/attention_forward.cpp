#include <cmath>
#include <cstring>

#include "backend/cpu/kernels/attention.h"
#include "backend/cpu/kernels/attention_plain.h"
#include "backend/cpu/kernels/attention_tile.h"

namespace metal_candle::cpu {
namespace attention {
namespace {

struct Scratch {
  float *queries, *out;   // [rows][width of d or dv]
  float *keys, *values;   // [width][kKeyBlock], [kKeyBlock][width]
  float* rows;            // K or V by rows, on its way there
  float *scores, *bias;   // [kRowBlock][kKeyBlock]
  std::uint16_t* halves;  // scores, where probabilities are bf16
  float *maximum, *sums;  // [rows], [rows][kSums]
  std::int32_t* positions;
  RowBlocks::Block* blocks;
  std::int64_t width, value_width;
  std::size_t bytes;

  Scratch(const Problem& p, void* base) : width(round_up(p.d, kSums)), value_width(round_up(p.dv, kSums)) {
    const std::int64_t rows = p.tile_queries() * p.group;
    Carve c(base);
    queries = c.take<float>(rows * p.steps(width));
    out = c.take<float>(rows * value_width);
    keys = c.take<float>(kKeyBlock * p.steps(width));
    values = c.take<float>(kKeyBlock * p.steps(value_width));
    this->rows = c.take<float>(kKeyBlock * p.steps(std::max(width, value_width)));
    scores = c.take<float>(kRowBlock * kKeyBlock);
    bias = c.take<float>(kRowBlock * kKeyBlock);
    halves = p.pairs ? c.take<std::uint16_t>(kRowBlock * kKeyBlock) : nullptr;
    maximum = c.take<float>(rows);
    sums = c.take<float>(rows * kSums);
    positions = c.take<std::int32_t>(kKeyBlock);
    blocks = c.take<RowBlocks::Block>(RowBlocks::most(p));
    bytes = c.used();
  }
};

constexpr std::int64_t kFewRows = 16;     // no work to hide the reading of keys behind: asked for at once
constexpr std::int64_t kTokensAhead = 8;  // of queries

/// A tile of queries of one key head.
class Forward {
 public:
  Forward(const KernelCall& call, const Problem& p, const Tile& tile, std::int64_t key_head)
      : p_(p),
        tile_(tile),
        key_head_(key_head),
        rows_((tile.end - tile.begin) * p.group),
        s_(p, call.scratch),
        blocks_(s_.blocks) {
    keys_.positions = s_.positions;
  }

  void run(const KernelCall& call) {
    const Sequence& s = tile_.sequence;
    queries_ahead_.add(query_tokens(p_, p_.q, tile_, key_head_, p_.d));
    queries_ahead_.ask(kTokensAhead);
    std::fill(s_.maximum, s_.maximum + rows_, -std::numeric_limits<float>::infinity());
    std::fill(s_.sums, s_.sums + rows_ * kSums, 0.0f);
    blocks_.set(p_, tile_);
    std::int64_t begin = 0, end = s.keys;
    if (p_.in_order()) {
      begin = s.keys;
      end = 0;
      for (const auto& b : blocks_) {
        begin = std::min<std::int64_t>(begin, std::max(b.span.least_low, 0));
        end = std::max(end, std::min(s.keys, b.span.most_high + std::int64_t{1}));
      }
    }
    begin = begin / kKeyBlock * kKeyBlock;
    for (std::int64_t k = begin; k < end; k += kKeyBlock) visit(call, k, k == begin, end);
    if (begin >= end)
      for (const auto& b : blocks_) write(call, b);
  }

 private:
  /// What comes from memory or goes there does so between the rows' products: queries with the first keys, results
  /// with the last ones, and the next keys are asked for.
  void visit(const KernelCall& call, std::int64_t first_key, bool first, std::int64_t end) {
    const std::int64_t next = first_key + kKeyBlock;
    ahead_.clear();
    if (next < end) add_keys(next);
    if (rows_ <= kFewRows) ahead_.ask(ahead_.left());
    const std::int64_t share = (ahead_.left() + blocks_.count() - 1) / blocks_.count();
    keys_.set(p_, tile_.sequence, first_key);
    if (blocks_.look(p_, keys_)) load_keys();
    for (auto& b : blocks_) {
      if (first) {
        queries_ahead_.ask(kRowBlock / p_.group + 1);
        load_queries(p_, p_.q, tile_, key_head_, p_.d, b.span.row, b.span.rows,
                     s_.queries + b.span.row * p_.steps(s_.width), s_.width);
      }
      ahead_.ask(share);
      if (!b.seen.empty()) visit_rows(b);
      if (next >= end) write(call, b);
    }
  }

  void visit_rows(RowBlocks::Block& b) {
    const Seen& seen = b.seen;
    multiply({.a = s_.queries + b.span.row * p_.steps(s_.width),
              .a_row = p_.steps(s_.width),
              .a_step = 1,
              .b = s_.keys + seen.vector_begin,
              .b_step = kKeyBlock,
              .c = s_.scores + seen.vector_begin,
              .c_row = kKeyBlock,
              .m = b.span.rows,
              .n = seen.vector_end - seen.vector_begin,
              .k = p_.steps(s_.width),
              .pairs = p_.pairs});
    float factor[kRowBlock];
    float* out = s_.out + b.span.row * s_.value_width;
    auto block = score_block(p_, tile_, key_head_, keys_, b, s_.scores, s_.bias);
    block.halves = s_.halves;
    if (row_kernels().softmax(block, s_.maximum + b.span.row, s_.sums + b.span.row * kSums, factor) && b.begun)
      row_kernels().scale_rows(out, s_.value_width, block.rows, factor);
    // The partner of a pair's seen key has probability zero, or is no key and zero itself.
    const std::int64_t in_step = p_.pairs ? 2 : 1, first = seen.begin / in_step;
    multiply({.a = (p_.pairs ? reinterpret_cast<const float*>(s_.halves) : s_.scores) + first,
              .a_row = p_.steps(kKeyBlock),
              .a_step = 1,
              .b = values_ + first * value_step_,
              .b_step = value_step_,
              .c = out,
              .c_row = s_.value_width,
              .m = b.span.rows,
              .n = s_.value_width,
              .k = (seen.end + in_step - 1) / in_step - first,
              .accumulate = b.begun,
              .pairs = p_.pairs});
    b.begun = true;
  }

  /// A head's keys lie apart, often a page each: no hardware foresees them.
  void add_keys(std::int64_t first_key) {
    KeyBlock next;
    next.first = first_key;
    next.n = static_cast<int>(std::min(kKeyBlock, tile_.sequence.keys - first_key));
    ahead_.add(key_rows(p_.k, tile_.sequence, next, key_head_, p_.d));
    ahead_.add(key_rows(p_.v, tile_.sequence, next, key_head_, p_.dv));
  }

  void load_keys() {
    const Rows k = key_rows(p_.k, tile_.sequence, keys_, key_head_, p_.d);
    const Rows v = key_rows(p_.v, tile_.sequence, keys_, key_head_, p_.dv);
    values_ = s_.values;
    value_step_ = s_.value_width;
    const std::int64_t padded = round_up(keys_.n, kSums);  // as far as scores are computed
    if (p_.pairs) {
      load_transposed_pairs(k, s_.width, s_.rows, s_.keys, padded);
      load_row_pairs(v, s_.value_width, s_.rows, s_.values);
      return;
    }
    load_transposed(k, s_.width, s_.rows, s_.keys, padded);
    if (rows_ <= kRowBlock && v.dtype == DType::f32 && v.component == 1 && v.d == s_.value_width) {
      values_ = reinterpret_cast<const float*>(v.data);
      value_step_ = v.stride;
    } else {
      load(v, s_.values, s_.value_width);
    }
  }

  void write(const KernelCall& call, const RowBlocks::Block& b) {
    const KernelTensor &out = call.outputs[0], &lse = call.outputs[1];
    const std::int64_t first = b.span.row, n = b.span.rows;
    float totals[kRowBlock];
    row_kernels().totals(s_.sums + first * kSums, n, totals);
    for (std::int64_t r = 0; r < n; ++r) {
      const float sum = totals[r];
      if (lse.data)
        lse.as<float>()[head_of(first + r) * p_.queries + query_of(first + r)] =
            sum == 0 ? -std::numeric_limits<float>::infinity()
                     : static_cast<float>(
                           (static_cast<double>(s_.maximum[first + r]) + std::log2(static_cast<double>(sum))) * kLn2);
      totals[r] = sum == 0 ? 0 : 1 / sum;  // from here on what the row is scaled by
    }
    if (!out.data) return;
    float* rows = s_.out + first * s_.value_width;
    if (b.begun) row_kernels().scale_rows(rows, s_.value_width, n, totals);
    else std::fill(rows, rows + n * s_.value_width, 0.0f);
    for (std::int64_t r = first; r < first + n; ++r, rows += s_.value_width)
      store(rows, p_.dv, out.dtype,
            out.as<char>() +
                (query_of(r) * p_.heads + head_of(r)) * p_.dv * static_cast<std::int64_t>(size_of(out.dtype)));
  }
  std::int64_t query_of(std::int64_t row) const { return tile_.sequence.query_row + tile_.begin + row / p_.group; }
  std::int64_t head_of(std::int64_t row) const { return key_head_ * p_.group + row % p_.group; }

  const Problem& p_;
  const Tile& tile_;
  std::int64_t key_head_, rows_;
  Scratch s_;
  RowBlocks blocks_;
  KeyBlock keys_;
  Ahead ahead_, queries_ahead_;
  const float* values_ = nullptr;
  std::int64_t value_step_ = 0;
};

std::int64_t tasks(const KernelCall& call, int) {
  const Problem p(call, ops::kAttentionInputs);
  return p.tiles(p.queries, p.batch_queries, p.tile_queries()) * p.key_heads;
}

std::size_t scratch(const KernelCall& call) {
  const Problem p(call, ops::kAttentionInputs);
  return Scratch(p, nullptr).bytes;
}

void run(const KernelCall& call, int, std::int64_t task) {
  const Problem p(call, ops::kAttentionInputs);
  const Tile tile = query_tile(p, task / p.key_heads);
  if (tile.begin == tile.end) return;
  if (p.q.dtype == DType::f64) return plain_forward(call, p, tile, task % p.key_heads);
  Forward(call, p, tile, task % p.key_heads).run(call);
}

}  // namespace
}  // namespace attention

const CpuKernel attention_kernel{
    .run = attention::run, .tasks = attention::tasks, .scratch = attention::scratch, .takes_strides = true};

}  // namespace metal_candle::cpu
