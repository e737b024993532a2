// Two ways to cut the same sums. With enough (sequence, key head) pairs for the machine a task takes one of them whole:
// five products a block, dq gathered in shared memory. Otherwise dk and dv go by key blocks and dq by query tiles, which
// computes the scores twice but makes many tasks. The blocks and their order are the same, so are the bits.
#include <cmath>
#include <cstring>
#include <thread>

#include "backend/cpu/kernels/attention.h"
#include "backend/cpu/kernels/attention_plain.h"
#include "backend/cpu/kernels/attention_tile.h"

namespace metal_candle::cpu {
namespace attention {
namespace {

enum Input { kOut = 3, kLse = 4, kDout = 5 };
enum Output { kDq, kDk, kDv, kDbias };
enum Pass { kPrepare, kKeys, kQueries, kPasses };

/// delta = Σ out·dout of every query and head, and dq by [key head][query][head of the group][width] if gathered there.
struct Shared {
  float *delta, *dq = nullptr;
  std::size_t bytes;
  Shared(const Problem& p, bool whole, void* base) {
    Carve c(base);
    delta = c.take<float>(p.heads * p.queries);
    if (whole) dq = c.take<float>(p.heads * p.queries * round_up(p.d, kSums));
    bytes = c.used();
  }
};

struct Scratch {
  std::int64_t width, value_width;
  float *queries, *douts, *dq;               // [rows][width]
  float *keys, *keys_t, *values_t, *values;  // [kKeyBlock][width], [width][kKeyBlock]
  float *dk, *dv;                            // [kKeyBlock][width]
  float *p, *ds;                             // [rows][kKeyBlock]
  float *bias, *raw, *lse, *delta;
  std::int32_t *positions, *seen_begin, *seen_end;  // [kKeyBlock]; columns that a block of rows sees
  std::size_t bytes;

  Scratch(const Problem& problem, void* base) : width(round_up(problem.d, kSums)), value_width(round_up(problem.dv, kSums)) {
    const std::int64_t rows = problem.tile_queries() * problem.group;
    Carve c(base);
    queries = c.take<float>(rows * width);
    douts = c.take<float>(rows * value_width);
    dq = c.take<float>(rows * width);
    keys = c.take<float>(kKeyBlock * width);
    keys_t = c.take<float>(kKeyBlock * width);
    values = c.take<float>(kKeyBlock * value_width);
    values_t = c.take<float>(kKeyBlock * value_width);
    dk = c.take<float>(kKeyBlock * width);
    dv = c.take<float>(kKeyBlock * value_width);
    p = c.take<float>(rows * kKeyBlock);
    ds = c.take<float>(rows * kKeyBlock);
    bias = c.take<float>(kRowBlock * kKeyBlock);
    raw = c.take<float>(kRowBlock * kKeyBlock);
    lse = c.take<float>(rows);
    delta = c.take<float>(rows);
    positions = c.take<std::int32_t>(kKeyBlock);
    seen_begin = c.take<std::int32_t>(rows / kRowBlock + 1);
    seen_end = c.take<std::int32_t>(rows / kRowBlock + 1);
    bytes = c.used();
  }
};

/// One task's way through blocks of keys and tiles of queries of one key head.
class Backward {
 public:
  Backward(const KernelCall& call, const Problem& p, const Shared& shared, std::int64_t key_head)
      : call_(call), p_(p), shared_(shared), key_head_(key_head), s_(p, call.scratch) {
    keys_.positions = s_.positions;
  }

  /// dk and dv of a block of keys; dq as well, if it is gathered in shared memory.
  void key_block(const Sequence& s, std::int64_t first_key) {
    std::fill(s_.dk, s_.dk + kKeyBlock * s_.width, 0.0f);
    std::fill(s_.dv, s_.dv + kKeyBlock * s_.value_width, 0.0f);
    if (first_key < s.keys) {
      keys_.set(p_, s, first_key);
      load_keys(s);
      for (std::int64_t q = 0; q < s.queries; q += p_.tile_queries()) {
        tile_ = {s, q, std::min(s.queries, q + p_.tile_queries())};
        dq_ = shared_.dq && call_.outputs[kDq].data ? shared_.dq + (key_head_ * p_.queries + s.query_row + q) * p_.group * s_.width : nullptr;
        loaded_ = false;
        pair(true);
      }
    }
    const std::int64_t n = std::min(kKeyBlock, s.key_slots - first_key), row = s.key_row + first_key;
    write(kDk, s_.dk, s_.width, n, row, p_.key_heads, key_head_, p_.d, p_.rule.scale);
    write(kDv, s_.dv, s_.value_width, n, row, p_.key_heads, key_head_, p_.dv, 1);
  }

  void query_tile(const Tile& tile) {
    tile_ = tile;
    loaded_ = false;
    dq_ = s_.dq;
    std::fill(dq_, dq_ + rows() * s_.width, 0.0f);
    for (std::int64_t k = 0; k < tile.sequence.keys; k += kKeyBlock) {
      keys_.set(p_, tile.sequence, k);
      bool any = false;
      for (std::int64_t row = 0; row < rows() && !any; row += kRowBlock)
        any = !Seen(p_, keys_, RowSpan(p_, tile_, row, rows())).empty();
      if (!any) continue;
      load_keys(tile.sequence);
      pair(false);
    }
    write_queries(tile, s_.dq);
  }

  void write_queries(const Tile& t, float* dq) {
    for (std::int64_t i = t.begin; i < t.end; ++i, dq += p_.group * s_.width)
      write(kDq, dq, s_.width, p_.group, t.sequence.query_row + i, p_.heads, key_head_ * p_.group, p_.d, p_.rule.scale, true);
  }

 private:
  std::int64_t rows() const { return (tile_.end - tile_.begin) * p_.group; }

  void load_keys(const Sequence& s) {
    const Rows k = key_rows(p_.k, s, keys_, key_head_, p_.d);
    load(k, s_.keys, s_.width);
    row_kernels().transpose(s_.keys, s_.width, keys_.n, s_.width, s_.keys_t, kKeyBlock, kKeyBlock);
    load_transposed(key_rows(p_.v, s, keys_, key_head_, p_.dv), s_.value_width, s_.values, s_.values_t);
  }

  void load_tile() {
    loaded_ = true;
    load_queries(p_, p_.q, tile_, key_head_, p_.d, s_.queries, s_.width);
    load_queries(p_, operand(call_.inputs[kDout]), tile_, key_head_, p_.dv, s_.douts, s_.value_width);
    const KernelTensor& lse = call_.inputs[kLse];
    for (std::int64_t r = 0; r < rows(); ++r) {
      const std::int64_t head = key_head_ * p_.group + r % p_.group;
      const std::int64_t query = tile_.sequence.query_row + tile_.begin + r / p_.group;
      s_.lse[r] = static_cast<float>(lse.as<const float>()[head * lse.strides[0] + query * lse.strides[1]] * kLog2e);
      s_.delta[r] = shared_.delta[head * p_.queries + query];
    }
  }

  /// The tile against the block of keys.
  void pair(bool to_keys) {
    const std::int64_t n = rows();
    std::int64_t begin = n, end = 0;  // rows that see anything
    for (std::int64_t row = 0; row < n; row += kRowBlock) {
      const RowSpan span(p_, tile_, row, n);
      const Seen seen(p_, keys_, span);
      s_.seen_begin[row / kRowBlock] = seen.begin;
      s_.seen_end[row / kRowBlock] = seen.end;
      float *p = s_.p + row * kKeyBlock, *ds = s_.ds + row * kKeyBlock;
      if (to_keys) clear(p, ds, span.rows, seen);
      if (seen.empty()) continue;
      if (!loaded_) load_tile();
      begin = std::min(begin, row);
      end = row + span.rows;
      score_rows(row, span, seen, p, ds, to_keys);
      if (dq_)
        multiply({.a = ds + seen.begin, .a_row = kKeyBlock, .a_step = 1, .b = s_.keys + seen.begin * s_.width,
                  .b_step = s_.width, .c = dq_ + row * s_.width, .c_row = s_.width, .m = span.rows, .n = s_.width,
                  .k = seen.end - seen.begin, .accumulate = true});
    }
    if (to_keys && begin < end) add_to_keys(begin, end);
  }

  /// Columns that score_rows will not write count as zero for the keys.
  void clear(float* p, float* ds, int n, const Seen& seen) {
    for (int r = 0; r < n; ++r)
      for (float* row : {p + r * kKeyBlock, ds + r * kKeyBlock}) {
        std::fill(row, row + seen.vector_begin, 0.0f);
        std::fill(row + seen.vector_end, row + kKeyBlock, 0.0f);
      }
  }

  void score_rows(std::int64_t row, const RowSpan& span, const Seen& seen, float* p, float* ds, bool to_keys) {
    const std::int64_t n = seen.vector_end - seen.vector_begin;
    multiply({.a = s_.queries + row * s_.width, .a_row = s_.width, .a_step = 1, .b = s_.keys_t + seen.vector_begin,
              .b_step = kKeyBlock, .c = p + seen.vector_begin, .c_row = kKeyBlock, .m = span.rows, .n = n, .k = s_.width});
    multiply({.a = s_.douts + row * s_.value_width, .a_row = s_.value_width, .a_step = 1,
              .b = s_.values_t + seen.vector_begin, .b_step = kKeyBlock, .c = ds + seen.vector_begin, .c_row = kKeyBlock,
              .m = span.rows, .n = n, .k = s_.value_width});
    ScoreBlock block{.scores = p, .rows = span.rows, .begin = seen.vector_begin, .end = seen.vector_end,
                     .masked = seen.masked, .key_positions = keys_.positions, .sight = {}};
    std::copy(span.sight, span.sight + span.rows, block.sight);
    set_scale(p_, block);
    if (p_.bias) load_bias(p_, tile_, key_head_, row, keys_, block, s_.bias);
    float* raw = p_.bias && to_keys && call_.outputs[kDbias].data ? s_.raw : nullptr;
    row_kernels().softmax_grad(block, ds, s_.lse + row, s_.delta + row, raw);
    if (raw) write_bias_grad(row, span.rows, seen);
  }

  void write_bias_grad(std::int64_t row, int n, const Seen& seen) {
    for (int r = 0; r < n; ++r) {
      const std::int64_t head = key_head_ * p_.group + (row + r) % p_.group, query = tile_.begin + (row + r) / p_.group;
      float* to = call_.outputs[kDbias].as<float>() + p_.bias_grad_at(tile_.sequence, head, query) + keys_.first;
      std::copy(s_.raw + r * kKeyBlock + seen.begin, s_.raw + r * kKeyBlock + seen.end, to + seen.begin);
    }
  }

  /// dv += pᵀ·dout and dk += dsᵀ·q over rows [begin, end) of the tile.
  void add_to_keys(std::int64_t begin, std::int64_t end) {
    for (std::int64_t key = 0; key < keys_.n; key += kRowBlock) {
      const std::int64_t m = std::min<std::int64_t>(kRowBlock, keys_.n - key);
      std::int64_t from = begin;
      while (from < end && !reaches(from / kRowBlock, key, m)) from += kRowBlock;  // a causal mask: last keys, first rows
      if (from >= end) continue;
      const auto add = [&](const float* weights, const float* rows, float* sums, std::int64_t width) {
        multiply({.a = weights + from * kKeyBlock + key, .a_row = 1, .a_step = kKeyBlock, .b = rows + from * width,
                  .b_step = width, .c = sums + key * width, .c_row = width, .m = m, .n = width, .k = end - from,
                  .accumulate = true});
      };
      if (call_.outputs[kDv].data) add(s_.p, s_.douts, s_.dv, s_.value_width);
      if (call_.outputs[kDk].data) add(s_.ds, s_.queries, s_.dk, s_.width);
    }
  }

  bool reaches(std::int64_t block, std::int64_t key, std::int64_t n) const {
    return s_.seen_begin[block] < key + n && s_.seen_end[block] > key;
  }

  /// n rows times `scale` to heads `head`.. of token `row` (or, not `heads_in_row`, to one head of n tokens).
  void write(Output which, float* data, std::int64_t width, std::int64_t n, std::int64_t row, std::int64_t heads,
             std::int64_t head, std::int64_t d, double scale, bool heads_in_row = false) {
    const KernelTensor& out = call_.outputs[which];
    if (!out.data) return;
    const float factor = static_cast<float>(scale);
    for (std::int64_t i = 0; i < n; ++i, data += width) {
      const std::int64_t at = heads_in_row ? row * heads + head + i : (row + i) * heads + head;
      if (factor != 1) row_kernels().scale_rows(data, width, 1, &factor);
      store(data, d, out.dtype, out.as<char>() + at * d * static_cast<std::int64_t>(size_of(out.dtype)));
    }
  }

  const KernelCall& call_;
  const Problem& p_;
  const Shared& shared_;
  std::int64_t key_head_;
  Scratch s_;
  KeyBlock keys_;
  Tile tile_;
  float* dq_ = nullptr;
  bool loaded_ = false;
};

// ---- tasks ---------------------------------------------------------------------------------------------------------

constexpr std::int64_t kTokens = 32;  // of a task in kPrepare

/// Bits do not depend on it, so the machine may.
bool whole_sequences(const Problem& p) {
  if (p.q.dtype == DType::f64) return true;
  static const std::int64_t threads = std::max(1u, std::thread::hardware_concurrency());
  const std::int64_t pairs = p.sequences * p.key_heads;
  return 5 * ((pairs + threads - 1) / threads) * threads <= 7 * pairs;
}

std::int64_t tasks(const KernelCall& call, int pass) {
  const Problem p(call, ops::kAttentionGradInputs);
  const std::int64_t blocks = (p.queries + kTokens - 1) / kTokens;
  const bool whole = whole_sequences(p);
  switch (pass) {
    case kPrepare: return blocks;
    case kKeys: return (whole ? p.parts() : p.tiles(p.keys, p.batch_keys, kKeyBlock)) * p.key_heads;
    default: break;
  }
  if (p.q.dtype == DType::f64) return 0;
  return p.tiles(p.queries, p.batch_queries, p.tile_queries()) * p.key_heads;
}

std::size_t scratch(const KernelCall& call) {
  const Problem p(call, ops::kAttentionGradInputs);
  return Scratch(p, nullptr).bytes + static_cast<std::size_t>(2 * round_up(p.dv, kSums)) * sizeof(float);
}

std::size_t shared_bytes(const KernelCall& call) {
  const Problem p(call, ops::kAttentionGradInputs);
  return p.q.dtype == DType::f64 ? 0 : Shared(p, whole_sequences(p), nullptr).bytes;
}

void clear_bias_grad(const KernelCall& call, const Problem& p, std::int64_t begin, std::int64_t end) {
  const KernelTensor& out = call.outputs[kDbias];
  const std::size_t size = static_cast<std::size_t>(p.batch_keys) * size_of(out.dtype);
  for (std::int64_t row = begin; row < end; ++row)
    for (std::int64_t h = 0; h < p.heads; ++h)
      std::memset(out.as<char>() + static_cast<std::size_t>((row / p.batch_queries * p.heads + h) * p.batch_queries +
                                                             row % p.batch_queries) * size, 0, size);
}

void prepare(const KernelCall& call, const Problem& p, const Shared& shared, std::int64_t task) {
  const std::int64_t begin = task * kTokens, end = std::min(p.queries, begin + kTokens), width = round_up(p.dv, kSums);
  if (p.bias && call.outputs[kDbias].data) clear_bias_grad(call, p, begin, end);
  if (p.q.dtype == DType::f64) return;
  const Operand out = operand(call.inputs[kOut]), dout = operand(call.inputs[kDout]);
  float *a = static_cast<float*>(call.scratch), *b = a + width;
  for (std::int64_t row = begin; row < end; ++row)
    for (std::int64_t h = 0; h < p.heads; ++h) {
      const std::int64_t entry = row / p.batch_queries, token = row % p.batch_queries;
      load({out.at(entry, token, h), out.dtype, 0, out.component, 1, p.dv}, a, width);
      load({dout.at(entry, token, h), dout.dtype, 0, dout.component, 1, p.dv}, b, width);
      float delta = row_kernels().dot(a, b, width);
      if (const KernelTensor* g = p.lse_grad) delta -= g->as<const float>()[h * g->strides[0] + row * g->strides[1]];
      shared.delta[h * p.queries + row] = delta;
    }
}

void whole_sequence(const KernelCall& call, const Problem& p, const Shared& shared, std::int64_t part, std::int64_t key_head) {
  const Sequence s = p.part(part);
  if (p.q.dtype == DType::f64) return plain_backward(call, p, s, key_head);
  const std::int64_t row = p.group * round_up(p.d, kSums);
  float* dq = shared.dq + (key_head * p.queries + s.query_row) * row;
  std::fill(dq, dq + s.queries * row, 0.0f);
  Backward backward(call, p, shared, key_head);
  for (std::int64_t k = 0; k < s.key_slots; k += kKeyBlock) backward.key_block(s, k);
}

void run(const KernelCall& call, int pass, std::int64_t task) {
  const Problem p(call, ops::kAttentionGradInputs);
  const bool whole = whole_sequences(p);
  const Shared shared(p, whole, call.shared);
  if (pass == kPrepare) return prepare(call, p, shared, task);
  const std::int64_t key_head = task % p.key_heads;
  if (pass == kKeys && whole) return whole_sequence(call, p, shared, task / p.key_heads, key_head);
  const Tile tile = pass == kKeys ? key_tile(p, task / p.key_heads) : query_tile(p, task / p.key_heads);
  if (tile.begin == tile.end) return;
  Backward backward(call, p, shared, key_head);
  if (pass == kKeys) {
    backward.key_block(tile.sequence, tile.begin);
  } else if (call.outputs[kDq].data) {
    if (!whole) backward.query_tile(tile);
    else backward.write_queries(
        tile, shared.dq + (key_head * p.queries + tile.sequence.query_row + tile.begin) * p.group * round_up(p.d, kSums));
  }
}

}  // namespace
}  // namespace attention

const CpuKernel attention_grad_kernel{.run = attention::run,
                                      .tasks = attention::tasks,
                                      .passes = attention::kPasses,
                                      .scratch = attention::scratch,
                                      .shared = attention::shared_bytes,
                                      .takes_strides = true};

}  // namespace metal_candle::cpu
