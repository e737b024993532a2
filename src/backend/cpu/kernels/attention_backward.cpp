// Two ways to cut the same sums. With enough (sequence, key head) pairs for the machine a task takes one of them whole:
// five products a block, dq gathered in shared memory. Otherwise dk and dv go by key blocks and dq by query tiles,
// which computes the scores twice but makes many tasks. The blocks and their order are the same, so are the bits.
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

/// Blocks of keys that a tile of queries meets before the next one is loaded.
constexpr std::int64_t kMostKeyBlocks = 4;
std::int64_t blocks_at_once(const Problem& p) {
  return std::clamp<std::int64_t>(256 / std::max<std::int64_t>(1, p.d), 1, kMostKeyBlocks);
}

struct Scratch {
  std::int64_t width, value_width, key_blocks;
  float *queries, *douts, *dq;      // [rows][width]
  float *keys, *keys_t, *values_t;  // [block][kKeyBlock][width], [block][width][kKeyBlock]
  float *dk, *dv, *rows;            // [block][kKeyBlock][width]; K or V by rows, on its way
  float *p, *ds;                    // [rows][kKeyBlock]
  // Where products go over pairs, queries, douts, keys_t and values_t are [..][width / 2] pairs and keys are pairs of
  // rows. The other sides of their products, in pairs of rows, and ds by rows:
  float *query_pairs, *dout_pairs, *p_pairs, *ds_pairs;
  std::uint16_t* ds_halves;
  float *bias, *raw, *lse, *delta;
  std::int32_t* positions;
  RowBlocks::Block* blocks;
  std::size_t bytes;

  Scratch(const Problem& problem, void* base)
      : width(round_up(problem.d, kSums)), value_width(round_up(problem.dv, kSums)) {
    key_blocks = blocks_at_once(problem);
    const std::int64_t n = problem.tile_queries() * problem.group, keys_there = key_blocks * kKeyBlock;
    Carve c(base);
    queries = c.take<float>(n * problem.steps(width));
    douts = c.take<float>(n * problem.steps(value_width));
    dq = c.take<float>(n * width);
    keys = c.take<float>(keys_there * problem.steps(width));
    keys_t = c.take<float>(keys_there * problem.steps(width));
    rows = c.take<float>(kKeyBlock * problem.steps(std::max(width, value_width)));
    values_t = c.take<float>(keys_there * problem.steps(value_width));
    dk = c.take<float>(keys_there * width);
    dv = c.take<float>(keys_there * value_width);
    p = c.take<float>(n * kKeyBlock);
    ds = c.take<float>(n * kKeyBlock);
    const std::int64_t pairs = problem.pairs ? (n + 1) / 2 : 0;
    query_pairs = c.take<float>(pairs * width);
    dout_pairs = c.take<float>(pairs * value_width);
    p_pairs = c.take<float>(pairs * kKeyBlock);
    ds_pairs = c.take<float>(pairs * kKeyBlock);
    ds_halves = c.take<std::uint16_t>(2 * pairs * kKeyBlock);
    bias = c.take<float>(kRowBlock * kKeyBlock);
    raw = c.take<float>(kRowBlock * kKeyBlock);
    lse = c.take<float>(n);
    delta = c.take<float>(n);
    positions = c.take<std::int32_t>(keys_there);
    blocks = c.take<RowBlocks::Block>(RowBlocks::most(problem));
    bytes = c.used();
  }
};

/// One task's way through blocks of keys and tiles of queries of one key head.
class Backward {
 public:
  Backward(const KernelCall& call, const Problem& p, const Shared& shared, std::int64_t key_head)
      : call_(call), p_(p), shared_(shared), key_head_(key_head), s_(p, call.scratch), blocks_(s_.blocks) {}

  /// dk and dv of a few blocks of keys; dq as well, if it is gathered in shared memory.
  void key_blocks(const Sequence& s, std::int64_t first_key) {
    const std::int64_t keys = s_.key_blocks * kKeyBlock;
    std::fill(s_.dk, s_.dk + keys * s_.width, 0.0f);
    std::fill(s_.dv, s_.dv + keys * s_.value_width, 0.0f);
    const std::int64_t end = std::min(first_key + keys, s.keys);
    for (std::int64_t k = first_key; k < end; k += kKeyBlock) load_keys(s, k, slot(first_key, k));
    for (std::int64_t q = 0; q < s.queries && first_key < end; q += p_.tile_queries()) {
      set_tile({s, q, std::min(s.queries, q + p_.tile_queries())});
      dq_ = shared_.dq && call_.outputs[kDq].data
                ? shared_.dq + (key_head_ * p_.queries + s.query_row + q) * p_.group * s_.width
                : nullptr;
      for (std::int64_t k = first_key; k < end; k += kKeyBlock) {
        choose(slot(first_key, k));
        if (blocks_.look(p_, keys_[slot_])) pair(true);
      }
    }
    const std::int64_t n = std::min(keys, s.key_slots - first_key), row = s.key_row + first_key;
    write(kDk, s_.dk, s_.width, n, row, p_.key_heads, key_head_, p_.d, p_.rule.scale);
    write(kDv, s_.dv, s_.value_width, n, row, p_.key_heads, key_head_, p_.dv, 1);
  }

  void query_tile(const Tile& tile) {
    set_tile(tile);
    dq_ = s_.dq;
    std::fill(dq_, dq_ + rows() * s_.width, 0.0f);
    choose(0);
    for (std::int64_t k = 0; k < tile.sequence.keys; k += kKeyBlock) {
      set_keys(tile.sequence, k, 0);
      if (!blocks_.look(p_, keys_[0])) continue;
      load_keys(tile.sequence, k, 0);
      pair(false);
    }
    write_queries(tile, s_.dq);
  }

  void write_queries(const Tile& t, float* dq) {
    for (std::int64_t i = t.begin; i < t.end; ++i, dq += p_.group * s_.width)
      write(kDq, dq, s_.width, p_.group, t.sequence.query_row + i, p_.heads, key_head_ * p_.group, p_.d, p_.rule.scale,
            true);
  }

 private:
  std::int64_t rows() const { return (tile_.end - tile_.begin) * p_.group; }
  static int slot(std::int64_t first_key, std::int64_t key) { return static_cast<int>((key - first_key) / kKeyBlock); }

  void set_tile(const Tile& t) {
    tile_ = t;
    loaded_ = false;
    blocks_.set(p_, t);
  }

  void set_keys(const Sequence& s, std::int64_t first_key, int slot) {
    keys_[slot].positions = s_.positions + slot * kKeyBlock;
    keys_[slot].set(p_, s, first_key);
  }
  void load_keys(const Sequence& s, std::int64_t first_key, int slot) {
    set_keys(s, first_key, slot);
    choose(slot);
    const Rows k = key_rows(p_.k, s, keys_[slot], key_head_, p_.d);
    const Rows v = key_rows(p_.v, s, keys_[slot], key_head_, p_.dv);
    if (p_.pairs) {
      load_row_pairs(k, s_.width, s_.rows, at_.keys);
      load_transposed_pairs(k, s_.width, s_.rows, at_.keys_t);
      load_transposed_pairs(v, s_.value_width, s_.rows, at_.values_t);
      return;
    }
    load(k, at_.keys, s_.width);
    row_kernels().transpose(at_.keys, s_.width, keys_[slot].n, s_.width, at_.keys_t, kKeyBlock, kKeyBlock);
    load_transposed(v, s_.value_width, s_.rows, at_.values_t);
  }
  /// Works with the block of keys in `slot` from now on.
  void choose(int slot) {
    slot_ = slot;
    const std::int64_t row = slot * kKeyBlock, k = row * p_.steps(s_.width), v = row * p_.steps(s_.value_width);
    at_ = {s_.keys + k, s_.keys_t + k, s_.values_t + v, s_.dk + row * s_.width, s_.dv + row * s_.value_width};
  }

  void load_tile() {
    loaded_ = true;
    load_queries(p_, p_.q, tile_, key_head_, p_.d, 0, rows(), s_.queries, s_.width);
    load_queries(p_, operand(call_.inputs[kDout]), tile_, key_head_, p_.dv, 0, rows(), s_.douts, s_.value_width);
    if (p_.pairs) {
      row_kernels().pair_rows(reinterpret_cast<const std::uint16_t*>(s_.queries), s_.width, rows(), s_.width,
                              s_.query_pairs);
      row_kernels().pair_rows(reinterpret_cast<const std::uint16_t*>(s_.douts), s_.value_width, rows(), s_.value_width,
                              s_.dout_pairs);
    }
    const KernelTensor& lse = call_.inputs[kLse];
    for (std::int64_t r = 0; r < rows(); ++r) {
      const std::int64_t head = key_head_ * p_.group + r % p_.group;
      const std::int64_t query = tile_.sequence.query_row + tile_.begin + r / p_.group;
      s_.lse[r] = static_cast<float>(lse.as<const float>()[head * lse.strides[0] + query * lse.strides[1]] * kLog2e);
      s_.delta[r] = shared_.delta[head * p_.queries + query];
    }
  }

  /// The tile against the block of keys. One product after the other over all rows: its other side stays in L1.
  void pair(bool to_keys) {
    if (!loaded_) load_tile();
    const auto against_keys = [&](const float* a, std::int64_t steps, const float* b, float* c) {
      blocks_.runs(vector_columns, [&](std::int64_t row, std::int64_t n, const Seen& seen) {
        multiply({.a = a + row * steps,
                  .a_row = steps,
                  .a_step = 1,
                  .b = b + seen.vector_begin,
                  .b_step = kKeyBlock,
                  .c = c + row * kKeyBlock + seen.vector_begin,
                  .c_row = kKeyBlock,
                  .m = n,
                  .n = seen.vector_end - seen.vector_begin,
                  .k = steps,
                  .pairs = p_.pairs});
      });
    };
    against_keys(s_.queries, p_.steps(s_.width), at_.keys_t, s_.p);
    against_keys(s_.douts, p_.steps(s_.value_width), at_.values_t, s_.ds);
    for (const auto& b : blocks_) softmax_grad(b, to_keys);
    if (dq_) add_to_queries();
    if (!to_keys) return;
    const bool pairs = p_.pairs;
    if (call_.outputs[kDv].data)
      add_to_keys(pairs ? s_.p_pairs : s_.p, pairs ? s_.dout_pairs : s_.douts, at_.dv, s_.value_width);
    if (call_.outputs[kDk].data)
      add_to_keys(pairs ? s_.ds_pairs : s_.ds, pairs ? s_.query_pairs : s_.queries, at_.dk, s_.width);
  }

  /// dq [row][width] += ds·keys.
  void add_to_queries() {
    const std::int64_t in_step = p_.pairs ? 2 : 1, ds_row = p_.steps(kKeyBlock);
    const float* ds = p_.pairs ? reinterpret_cast<const float*>(s_.ds_halves) : s_.ds;
    blocks_.runs(columns, [&](std::int64_t row, std::int64_t n, const Seen& seen) {
      const std::int64_t first = seen.begin / in_step;  // an unseen partner has ds = 0
      multiply({.a = ds + row * ds_row + first,
                .a_row = ds_row,
                .a_step = 1,
                .b = at_.keys + first * s_.width,
                .b_step = s_.width,
                .c = dq_ + row * s_.width,
                .c_row = s_.width,
                .m = n,
                .n = s_.width,
                .k = (seen.end + in_step - 1) / in_step - first,
                .accumulate = true,
                .pairs = p_.pairs});
    });
  }

  void softmax_grad(const RowBlocks::Block& b, bool to_keys) {
    float *p = s_.p + b.span.row * kKeyBlock, *ds = s_.ds + b.span.row * kKeyBlock;
    if (to_keys) clear(p, ds, b.span.rows, b.seen);
    if (!b.seen.empty()) {
      const auto block = score_block(p_, tile_, key_head_, keys_[slot_], b, p, s_.bias);
      float* raw = p_.bias && to_keys && call_.outputs[kDbias].data ? s_.raw : nullptr;
      row_kernels().softmax_grad(block, ds, s_.lse + b.span.row, s_.delta + b.span.row, raw);
      if (raw) write_bias_grad(b.span.row, b.span.rows, b.seen);
    }
    if (!p_.pairs) return;
    const std::int64_t row = b.span.row, pair = row / 2;  // a block of rows begins with an even one
    if (to_keys) row_kernels().halve(p, b.span.rows, nullptr, s_.p_pairs + pair * kKeyBlock);
    row_kernels().halve(ds, b.span.rows, s_.ds_halves + row * kKeyBlock,
                        to_keys ? s_.ds_pairs + pair * kKeyBlock : nullptr);
  }

  /// Columns that nobody wrote count as zero for the keys.
  void clear(float* p, float* ds, int n, const Seen& seen) {
    if (seen.vector_begin == 0 && seen.vector_end == kKeyBlock) return;
    for (int r = 0; r < n; ++r)
      for (float* row : {p + r * kKeyBlock, ds + r * kKeyBlock}) {
        std::fill(row, row + seen.vector_begin, 0.0f);
        std::fill(row + seen.vector_end, row + kKeyBlock, 0.0f);
      }
  }

  void write_bias_grad(std::int64_t row, int n, const Seen& seen) {
    for (int r = 0; r < n; ++r) {
      const std::int64_t head = key_head_ * p_.group + (row + r) % p_.group, query = tile_.begin + (row + r) / p_.group;
      float* to = call_.outputs[kDbias].as<float>() + p_.bias_grad_at(tile_.sequence, head, query) + keys_[slot_].first;
      std::copy(s_.raw + r * kKeyBlock + seen.begin, s_.raw + r * kKeyBlock + seen.end, to + seen.begin);
    }
  }

  /// sums [key][width] += weightsᵀ·rows, over rows or pairs of them.
  void add_to_keys(const float* weights, const float* rows, float* sums, std::int64_t width) {
    for (std::int64_t key = 0; key < keys_[slot_].n; key += kRowBlock) {
      const std::int64_t m = std::min<std::int64_t>(kRowBlock, keys_[slot_].n - key);
      const RowBlocks::Block *first = blocks_.begin(), *last = blocks_.end();
      const auto sees = [&](const RowBlocks::Block& b) { return b.seen.begin < key + m && b.seen.end > key; };
      while (first != last && !sees(*first)) ++first;  // a causal mask: the first rows do not see the last keys
      while (first != last && !sees(last[-1])) --last;
      if (first == last) continue;
      const std::int64_t in_step = p_.pairs ? 2 : 1, from = first->span.row / in_step;
      const std::int64_t to = (last[-1].span.row + last[-1].span.rows + in_step - 1) / in_step;
      multiply({.a = weights + from * kKeyBlock + key,
                .a_row = 1,
                .a_step = kKeyBlock,
                .b = rows + from * width,
                .b_step = width,
                .c = sums + key * width,
                .c_row = width,
                .m = m,
                .n = width,
                .k = to - from,
                .accumulate = true,
                .pairs = p_.pairs});
    }
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
  RowBlocks blocks_;
  KeyBlock keys_[kMostKeyBlocks];
  int slot_ = 0;
  struct {
    float *keys, *keys_t, *values_t, *dk, *dv;
  } at_ = {};  // of the chosen block of keys
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
    case kKeys: return (whole ? p.parts() : p.tiles(p.keys, p.batch_keys, blocks_at_once(p) * kKeyBlock)) * p.key_heads;
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
                                                            row % p.batch_queries) *
                                       size,
                  0, size);
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

void whole_sequence(const KernelCall& call, const Problem& p, const Shared& shared, std::int64_t part,
                    std::int64_t key_head) {
  const Sequence s = p.part(part);
  if (p.q.dtype == DType::f64) return plain_backward(call, p, s, key_head);
  const std::int64_t row = p.group * round_up(p.d, kSums);
  float* dq = shared.dq + (key_head * p.queries + s.query_row) * row;
  std::fill(dq, dq + s.queries * row, 0.0f);
  Backward backward(call, p, shared, key_head);
  for (std::int64_t k = 0; k < s.key_slots; k += blocks_at_once(p) * kKeyBlock) backward.key_blocks(s, k);
}

void run(const KernelCall& call, int pass, std::int64_t task) {
  const Problem p(call, ops::kAttentionGradInputs);
  const bool whole = whole_sequences(p);
  const Shared shared(p, whole, call.shared);
  if (pass == kPrepare) return prepare(call, p, shared, task);
  const std::int64_t key_head = task % p.key_heads;
  if (pass == kKeys && whole) return whole_sequence(call, p, shared, task / p.key_heads, key_head);
  const Tile tile = pass == kKeys ? key_tile(p, task / p.key_heads, blocks_at_once(p) * kKeyBlock)
                                  : query_tile(p, task / p.key_heads);
  if (tile.begin == tile.end) return;
  Backward backward(call, p, shared, key_head);
  if (pass == kKeys) {
    backward.key_blocks(tile.sequence, tile.begin);
  } else if (call.outputs[kDq].data) {
    if (!whole) backward.query_tile(tile);
    else
      backward.write_queries(tile, shared.dq + (key_head * p.queries + tile.sequence.query_row + tile.begin) * p.group *
                                                   round_up(p.d, kSums));
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
