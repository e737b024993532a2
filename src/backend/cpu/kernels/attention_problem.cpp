#include "backend/cpu/kernels/attention_problem.h"

#include "backend/cpu/kernels/attention_product.h"

namespace metal_candle::cpu::attention {
Operand operand(const KernelTensor& t) {
  const Shape& s = t.strides;
  const int r = t.shape.rank();
  return {static_cast<const char*>(t.data), t.dtype, r == 4 ? s[0] : 0, s[r - 3], s[r - 2], s[r - 1]};
}

namespace {

std::int64_t read(const KernelTensor& t, std::int64_t i) { return read_index(t.data, t.dtype, i * t.strides[0]); }

std::int64_t read(const KernelTensor& t, std::int64_t batch, std::int64_t i) {
  return t.shape.rank() == 1 ? read(t, i) : read_index(t.data, t.dtype, batch * t.strides[0] + i * t.strides[1]);
}

std::int32_t clamped(std::int64_t position) {
  return static_cast<std::int32_t>(std::clamp<std::int64_t>(position, -kNever, kNever - 1));
}

}  // namespace

Problem::Problem(const KernelCall& call, int fixed_inputs)
    : rule(call.attrs),
      q(operand(call.inputs[0])),
      k(operand(call.inputs[1])),
      v(operand(call.inputs[2])),
      fail(call.fail) {
  const Shape &qs = call.inputs[0].shape, &ks = call.inputs[1].shape;
  const int r = qs.rank();
  if (r == 4) batch = qs[0];
  batch_queries = qs[r - 3];
  batch_keys = ks[r - 3];
  queries = batch * batch_queries;
  keys = batch * batch_keys;
  heads = qs[r - 2];
  key_heads = ks[r - 2];
  group = key_heads > 0 ? heads / key_heads : 1;
  d = qs[r - 1];
  dv = call.inputs[2].shape[r - 1];
  const auto find = [&](ops::AttentionInput which) -> const KernelTensor* {
    const int place = rule.place(which, fixed_inputs);
    return place < 0 ? nullptr : &call.inputs[static_cast<std::size_t>(place)];
  };
  query_offsets = find(ops::kQueryOffsets);
  key_offsets = find(ops::kKeyOffsets);
  key_lengths = find(ops::kKeyLengths);
  query_positions = find(ops::kQueryPositions);
  key_positions = find(ops::kKeyPositions);
  bias = find(ops::kBias);
  lse_grad = find(ops::kLseGrad);
  pairs = q.dtype == DType::bf16 && k.dtype == DType::bf16 && v.dtype == DType::bf16 && multiplies_pairs();
  sequences = query_offsets ? query_offsets->shape[0] - 1 : batch;
}

Sequence Problem::part(std::int64_t index) const {
  Sequence s;
  s.index = index;
  if (query_offsets) {
    const bool rest = index == sequences;
    const std::int64_t q0 = read(*query_offsets, index), q1 = rest ? queries : read(*query_offsets, index + 1);
    const std::int64_t k0 = read(*key_offsets, index), k1 = rest ? keys : read(*key_offsets, index + 1);
    if (q0 < 0 || q1 < q0 || q1 > queries || k0 < 0 || k1 < k0 || k1 > keys || (index == 0 && (q0 != 0 || k0 != 0))) {
      fail("offsets must start at 0, not decrease, and stay inside");
      return s;
    }
    s.query_row = s.first_query = q0;
    s.key_row = s.first_key = k0;
    s.queries = q1 - q0;
    s.keys = rest ? 0 : k1 - k0;
    s.key_slots = k1 - k0;
    s.index = 0;  // packed operands have no batch axis
    if (rest) return s;
  } else {
    s.query_row = index * batch_queries;
    s.key_row = index * batch_keys;
    s.queries = batch_queries;
    s.keys = s.key_slots = batch_keys;
  }
  if (key_lengths) {
    const std::int64_t length = read(*key_lengths, index);
    if (length < 0 || length > s.keys) fail("a key length lies outside of its sequence");
    s.keys = std::clamp<std::int64_t>(length, 0, s.keys);
  }
  return s;
}

std::int32_t Problem::key_position(const Sequence& s, std::int64_t key) const {
  if (!key_positions) return static_cast<std::int32_t>(key);
  const std::int64_t position = read(*key_positions, s.index, s.first_key + key);
  if (position < -kNever || position >= kNever) fail("key positions must fit 31 bits");
  return clamped(position);
}

Sight Problem::sight(const Sequence& s, std::int64_t query) const {
  const std::int64_t position =
      query_positions ? read(*query_positions, s.index, s.first_query + query) : s.keys - s.queries + query;
  const std::int64_t reach = rule.window > 0 ? rule.window - 1 : kNever;
  return {clamped(rule.window > 0 ? position - reach : -kNever), clamped(rule.causal       ? position
                                                                         : rule.window > 0 ? position + reach
                                                                                           : kNever)};
}

const char* Problem::bias_row(const Sequence& s, std::int64_t head, std::int64_t query, std::int64_t* stride) const {
  const int r = bias->shape.rank();
  const auto step = [&](int axis) { return bias->shape[axis] == 1 && axis < r - 2 ? 0 : bias->strides[axis]; };
  std::int64_t offset =
      head * step(r - 3) + (s.first_query + query) * bias->strides[r - 2] + s.first_key * bias->strides[r - 1];
  if (r == 4) offset += s.index * step(0);
  *stride = bias->strides[r - 1];
  return static_cast<const char*>(bias->data) + offset * static_cast<std::int64_t>(size_of(bias->dtype));
}

std::int64_t Problem::bias_grad_at(const Sequence& s, std::int64_t head, std::int64_t query) const {
  // A packed call is a batch of one: index and batch extents say the same for both.
  return ((s.index * heads + head) * batch_queries + s.first_query + query) * batch_keys + s.first_key;
}

std::int64_t Problem::tile_queries() const {
  constexpr std::int64_t kTileElements = 96 * 128, kTasks = 24;  // two such tiles lie beside the keys in a core's cache
  std::int64_t size =
      std::max<std::int64_t>(1, std::min<std::int64_t>(192, kTileElements / std::max(d, std::int64_t{1})) / group);
  const auto even = [](std::int64_t n) { return n > 1 ? n / 2 * 2 : n; };
  size = even(size);
  while (size > 2 && size * group > 48 && tiles(queries, batch_queries, size) * key_heads < kTasks)
    size = std::max<std::int64_t>(2, even(size / 2));
  return size;
}

std::int64_t Problem::tiles(std::int64_t all, std::int64_t in_entry, std::int64_t size) const {
  if (!query_offsets) return batch * ((in_entry + size - 1) / size);
  return all / size + parts();
}

namespace {

/// What an axis of tokens is cut into: its offsets in a ragged call, its length in each entry otherwise.
struct Axis {
  const KernelTensor* offsets;
  std::int64_t all, in_entry, size;

  /// Where a part's tiles begin, with room for each part's last and shorter tile: whoever has a tile's number finds the
  /// part by halving, however many short ones there are.
  std::int64_t first_tile(std::int64_t part) const {
    return std::clamp<std::int64_t>(read(*offsets, part), 0, all) / size + part;
  }
};

/// The part that has tile number `index`, which becomes its number there.
std::int64_t part_of(const Problem& p, const Axis& axis, std::int64_t& index) {
  if (!axis.offsets) {
    const std::int64_t tiles = (axis.in_entry + axis.size - 1) / axis.size, part = index / tiles;
    index %= tiles;
    return part;
  }
  std::int64_t part = 0;
  for (std::int64_t end = p.parts(); end - part > 1;) {
    const std::int64_t middle = part + (end - part) / 2;
    (axis.first_tile(middle) <= index ? part : end) = middle;
  }
  index -= axis.first_tile(part);
  return part;
}

template <class Count>
Tile find_tile(const Problem& p, std::int64_t index, const Axis& axis, Count count) {
  if (index == 0)
    for (std::int64_t i = 0; i < p.parts(); ++i) p.part(i);  // for what it has to say: others look at their part only
  Tile t{p.part(part_of(p, axis, index))};
  const std::int64_t n = count(t.sequence), tiles = (n + axis.size - 1) / axis.size;
  if (index < 0 || index >= tiles) return {};
  t.begin = (tiles - 1 - index) * axis.size;  // under a causal mask the last tiles are the longest: first to start
  t.end = std::min(n, t.begin + axis.size);
  return t;
}

}  // namespace

Tile query_tile(const Problem& p, std::int64_t index) {
  return find_tile(p, index, {p.query_offsets, p.queries, p.batch_queries, p.tile_queries()},
                   [](const Sequence& s) { return s.queries; });
}

Tile key_tile(const Problem& p, std::int64_t index, std::int64_t size) {
  return find_tile(p, index, {p.query_offsets ? p.key_offsets : nullptr, p.keys, p.batch_keys, size},
                   [](const Sequence& s) { return s.key_slots; });
}

}  // namespace metal_candle::cpu::attention
