#include "compiler/fuse/spaces.h"

#include <algorithm>
#include <vector>

#include "ops/table.h"

namespace metal_candle {

bool is_take(const GraphNode& n) { return n.op->kind == OpKind::gather && n.op->code == ops::kTake; }

bool is_column_reduction(const ComputationGraph& g, const GraphNode& n) {
  if (n.op->kind != OpKind::reduce || n.attrs.size() == 0) return false;
  const Shape& in = g.nodes[static_cast<std::size_t>(n.inputs[0])].shape;
  std::int64_t inner = 1;
  for (int a = static_cast<int>(n.attrs[n.attrs.size() - 1]) + 1; a < in.rank(); ++a) inner *= in[a];
  return inner > 1;
}

std::int64_t column_batch(const ComputationGraph& g, const GraphNode& n) {
  const Shape& in = g.nodes[static_cast<std::size_t>(n.inputs[0])].shape;
  std::int64_t batch = 1;
  for (int a = 0; a < static_cast<int>(n.attrs[0]); ++a) batch *= in[a];
  return batch;
}

bool fixed_space(const ComputationGraph& g, const GraphNode& n, std::int64_t& rows, std::int64_t& cols) {
  if (n.op->kind == OpKind::reduce) {
    const Shape& in = g.nodes[static_cast<std::size_t>(n.inputs[0])].shape;
    cols = 1;
    if (n.attrs.size() > 0) {
      const bool column = is_column_reduction(g, n);
      const int begin = static_cast<int>(n.attrs[column ? n.attrs.size() - 1 : 0]) + (column ? 1 : 0);
      for (int a = begin; a < in.rank(); ++a) cols *= in[a];
    }
    rows = cols == 0 ? 0 : in.numel() / cols;
    return true;
  }
  if (is_take(n)) {
    rows = g.nodes[static_cast<std::size_t>(n.inputs[1])].shape.numel();
    cols = rows == 0 ? 0 : n.shape.numel() / rows;
    return true;
  }
  return false;
}

bool walks_elements(const Shape& shape, const Shape& strides) { return walks_rows(shape, strides, 1); }

bool walks_rows(const Shape& shape, const Shape& strides, std::int64_t cols) {
  std::int64_t p = 1;
  int d = shape.rank() - 1;
  for (; d >= 0 && p < cols; --d) {
    if (shape[d] != 1 && strides[d] != 0) return false;
    p *= shape[d];
  }
  if (p != cols) return false;
  std::int64_t step = 1;
  for (; d >= 0; --d) {
    if (shape[d] != 1 && strides[d] != step) return false;
    step *= shape[d];
  }
  return true;
}

bool columns_cut(const Shape& s, std::int64_t cols) {
  std::int64_t p = 1;
  for (int d = s.rank() - 1; d >= 0 && p < cols; --d) p *= s[d];
  return p == cols;
}

bool uniform_columns(const Shape& s, const Shape& strides, std::int64_t cols) {
  std::int64_t p = 1, expected = 0;
  bool first = true;
  for (int d = s.rank() - 1; d >= 0 && p < cols; --d) {
    if (s[d] == 1) continue;
    if (!first && strides[d] != expected) return false;
    first = false;
    expected = strides[d] * s[d];
    p *= s[d];
  }
  return true;
}

bool iota_steps(const GraphNode& iota, std::int64_t offset, const Shape& shape, const Shape& strides, Shape& steps,
                std::int64_t& first) {
  const int axis = static_cast<int>(iota.attrs[1]);
  std::int64_t inner = 1;
  for (int d = axis + 1; d < iota.shape.rank(); ++d) inner *= iota.shape[d];
  const std::int64_t extent = iota.shape[axis];
  Shape found = shape;
  for (int d = 0; d < shape.rank(); ++d) found[d] = 0;
  first = 0;
  if (shape.numel() == 0) {
    steps = found;
    return true;
  }
  // An offset and a stride have a part within one index, one of so many indices, and one that starts the axis anew.
  // Where the first parts together stay within an index and the second ones within the axis, nothing is carried over.
  first = offset / inner % extent;
  std::int64_t last_within = offset % inner, last_index = first;
  for (int d = 0; d < shape.rank(); ++d) {
    if (shape[d] == 1) continue;
    if (strides[d] < 0) return false;
    found[d] = strides[d] / inner % extent;
    last_within += strides[d] % inner * (shape[d] - 1);
    last_index += found[d] * (shape[d] - 1);
  }
  steps = found;
  return last_within < inner && last_index < extent;
}

bool cut_in_one_chain(std::span<const Space> a, std::span<const Space> b, std::int64_t rows) {
  std::vector<std::int64_t> cuts;
  for (const auto& spaces : {a, b})
    for (const Space& space : spaces) {
      const Shape& s = space.shape;
      const std::int64_t total = s.numel();
      if (total == 0) continue;
      const std::int64_t cols = rows == 0 || space.row ? 1 : total / rows;
      std::int64_t p = 1;
      for (int d = s.rank() - 1; d >= 0; --d) {
        p *= s[d];
        if (s[d] == 1) continue;
        if (p <= cols && cols % p != 0) return false;  // the columns would end within an axis, of another stride
        if (p <= cols) continue;
        if (p % cols != 0) return false;
        cuts.push_back(p / cols);
      }
    }
  std::sort(cuts.begin(), cuts.end());
  for (std::size_t i = 1; i < cuts.size(); ++i)
    if (cuts[i] % cuts[i - 1] != 0) return false;
  return true;
}

}  // namespace metal_candle
