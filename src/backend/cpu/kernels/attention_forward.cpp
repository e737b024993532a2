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

constexpr std::int64_t kFewRows = 16;

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
    load_queries(p_, p_.q, tile_, key_head_, p_.d, s_.queries, s_.width);
    std::fill(s_.out, s_.out + rows_ * s_.value_width, 0.0f);
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
    for (std::int64_t k = begin / kKeyBlock * kKeyBlock; k < end; k += kKeyBlock) {
      if (rows_ <= kFewRows && k + kKeyBlock < end) prefetch_keys(k + kKeyBlock);
      visit(k);
    }
    write(call);
  }

 private:
  void visit(std::int64_t first_key) {
    keys_.set(p_, tile_.sequence, first_key);
    if (!blocks_.look(p_, keys_)) return;
    load_keys();
    for (const auto& b : blocks_)
      if (!b.seen.empty()) visit_rows(b);
  }

  void visit_rows(const RowBlocks::Block& b) {
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
    if (row_kernels().softmax(block, s_.maximum + b.span.row, s_.sums + b.span.row * kSums, factor))
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
              .accumulate = true,
              .pairs = p_.pairs});
  }

  /// A head's keys lie apart, often a page each: no hardware foresees them, and a few rows are no work to hide them.
  void prefetch_keys(std::int64_t first_key) {
    KeyBlock next;
    next.first = first_key;
    next.n = static_cast<int>(std::min(kKeyBlock, tile_.sequence.keys - first_key));
    prefetch(key_rows(p_.k, tile_.sequence, next, key_head_, p_.d));
    prefetch(key_rows(p_.v, tile_.sequence, next, key_head_, p_.dv));
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

  void write(const KernelCall& call) {
    const KernelTensor &out = call.outputs[0], &lse = call.outputs[1];
    for (std::int64_t row = 0; row < rows_; ++row) {
      float sum = 0;
      for (int i = 0; i < kSums; ++i) sum += s_.sums[row * kSums + i];
      if (lse.data)
        lse.as<float>()[head_of(row) * p_.queries + query_of(row)] =
            sum == 0 ? -std::numeric_limits<float>::infinity()
                     : static_cast<float>((static_cast<double>(s_.maximum[row]) + std::log2(static_cast<double>(sum))) *
                                          kLn2);
      s_.maximum[row] = sum == 0 ? 0 : 1 / sum;  // from here on what the row is scaled by
    }
    if (!out.data) return;
    row_kernels().scale_rows(s_.out, s_.value_width, rows_, s_.maximum);
    for (std::int64_t row = 0; row < rows_; ++row)
      store(s_.out + row * s_.value_width, p_.dv, out.dtype,
            out.as<char>() +
                (query_of(row) * p_.heads + head_of(row)) * p_.dv * static_cast<std::int64_t>(size_of(out.dtype)));
  }
  std::int64_t query_of(std::int64_t row) const { return tile_.sequence.query_row + tile_.begin + row / p_.group; }
  std::int64_t head_of(std::int64_t row) const { return key_head_ * p_.group + row % p_.group; }

  const Problem& p_;
  const Tile& tile_;
  std::int64_t key_head_, rows_;
  Scratch s_;
  RowBlocks blocks_;
  KeyBlock keys_;
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
