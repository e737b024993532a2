#include "compiler/fuse/layout.h"

#include "compiler/fuse/spaces.h"
#include "compiler/rewrite.h"
#include "ops/table.h"

namespace metal_candle {
namespace {

bool is_dense(const Shape& shape, const Shape& strides) {
  std::int64_t step = 1;
  for (int i = shape.rank() - 1; i >= 0; --i) {
    if (shape[i] != 1 && strides[i] != step) return false;
    step *= shape[i];
  }
  return true;
}

/// Strides of the same elements in another shape, if they exist (numpy's rule for reshaping without a copy).
bool reshape_strides(const Shape& from, const Shape& strides, const Shape& to, Shape& out) {
  out = to;
  if (from.numel() == 0) {
    out = contiguous_strides(to);
    return true;
  }
  std::vector<std::pair<std::int64_t, std::int64_t>> old;  // (extent, stride) without ones
  for (int i = 0; i < from.rank(); ++i)
    if (from[i] != 1) old.emplace_back(from[i], strides[i]);
  std::size_t o = 0;
  int t = 0;
  while (t < to.rank() && o < old.size()) {
    std::int64_t have = old[o].first, want = to[t];
    std::size_t o_end = o + 1;
    int t_end = t + 1;
    while (have != want) {
      if (have < want) {
        if (o_end == old.size()) return false;
        have *= old[o_end++].first;
      } else {
        if (t_end == to.rank()) return false;
        want *= to[t_end++];
      }
    }
    for (std::size_t i = o; i + 1 < o_end; ++i)
      if (old[i].second != old[i + 1].second * old[i + 1].first) return false;
    std::int64_t step = old[o_end - 1].second;
    for (int i = t_end - 1; i >= t; --i) {
      out[i] = step;
      step *= to[i];
    }
    o = o_end;
    t = t_end;
  }
  for (; t < to.rank(); ++t) out[t] = 1;  // extents of 1
  return true;
}

class Resolver {
 public:
  Resolver(ComputationGraph& graph, const CpuKernel* (*kernel)(const OpDef*))
      : leaves_(graph.leaves), kernel_(kernel), rewriter_(graph) {}

  std::vector<View> run() {
    rewriter_.run([&](GraphNode n) {
      switch (n.op->kind) {
        case OpKind::view: return view(std::move(n));
        case OpKind::matmul:
          for (int& in : n.inputs) in = matmul_operand(in);
          break;
        case OpKind::gather:
          if (is_take(n)) n.inputs[0] = table(n.inputs[0]);
          break;
        case OpKind::kernel: {
          const CpuKernel* k = kernel_(n.op);
          if (!(k && k->takes_strides))
            for (int& in : n.inputs) in = dense(in);
          break;
        }
        default: break;
      }
      return add(std::move(n));
    });
    return std::move(views_);
  }

 private:
  int add(GraphNode n) {
    View v;
    v.base = static_cast<int>(rewriter_.nodes().size());
    v.strides = contiguous_strides(n.shape);
    if (n.op->kind == OpKind::leaf) {
      v.strides = leaves_[static_cast<std::size_t>(n.leaf)].strides;
      v.dense = is_dense(n.shape, v.strides);
    }
    views_.push_back(v);
    return rewriter_.add(std::move(n));
  }

  int copy(int x) {
    const GraphNode& n = rewriter_.node(x);
    return add(make_like(n, ops::cast_def, n.dtype, n.shape, {x}, Attrs{static_cast<std::int64_t>(n.dtype)}));
  }
  int dense(int x) { return views_[static_cast<std::size_t>(x)].dense || is_number(x) ? x : copy(x); }
  bool is_number(int x) { return rewriter_.node(x).op->kind == OpKind::scalar; }

  // Rows or columns must lie one after the other.
  int matmul_operand(int x) {
    const GraphNode& n = rewriter_.node(x);
    const Shape& s = views_[static_cast<std::size_t>(x)].strides;
    const int r = n.shape.rank();
    const bool unit = s[r - 1] == 1 || s[r - 2] == 1 || n.shape[r - 1] == 1 || n.shape[r - 2] == 1;
    return unit ? x : copy(x);
  }

  // A row that is taken is the columns of its kernel: its elements must lie at one stride.
  int table(int x) {
    const Shape& s = rewriter_.node(x).shape;
    std::int64_t cols = 1;
    for (int d = 1; d < s.rank(); ++d) cols *= s[d];
    return uniform_columns(s, views_[static_cast<std::size_t>(x)].strides, cols) ? x : copy(x);
  }

  int view(GraphNode n) {
    int x = n.inputs[0];
    if (is_number(x)) x = copy(x);
    View v;
    if (!view_of(n, x, v)) view_of(n, x = copy(x), v);
    n.inputs[0] = x;
    const int id = rewriter_.add(std::move(n));
    const Shape& shape = rewriter_.node(id).shape;
    v.dense = v.offset == 0 && is_dense(shape, v.strides) && shape.numel() == rewriter_.node(v.base).shape.numel();
    views_.push_back(v);
    return id;
  }

  /// The view that `n` makes of `x`, if there is one that readers understand. They count an index for themselves, which
  /// goes no further than the end of its axis.
  bool view_of(const GraphNode& n, int x, View& v) {
    v = views_[static_cast<std::size_t>(x)];
    const Shape& from = rewriter_.node(x).shape;
    Shape strides = n.shape;
    switch (n.op->code) {
      case ops::kPermute:
        for (int i = 0; i < n.shape.rank(); ++i) strides[i] = v.strides[static_cast<int>(n.attrs[i])];
        break;
      case ops::kExpand: strides = broadcast_strides(from, v.strides, n.shape); break;
      case ops::kSlice: {
        const int r = n.shape.rank();
        for (int i = 0; i < r; ++i) {
          v.offset += n.attrs[i] * v.strides[i];
          strides[i] = v.strides[i] * n.attrs[r + i];
        }
        break;
      }
      default:
        if (!reshape_strides(from, v.strides, n.shape, strides)) return false;
    }
    v.strides = strides;
    const GraphNode& base = rewriter_.node(v.base);
    Shape steps;
    std::int64_t first;
    return base.op != &ops::iota_def || iota_steps(base, v.offset, n.shape, strides, steps, first);
  }

  std::vector<GraphLeaf> leaves_;
  const CpuKernel* (*kernel_)(const OpDef*);
  std::vector<View> views_;
  Rewriter rewriter_;
};

}  // namespace

Shape broadcast_strides(const Shape& shape, const Shape& strides, const Shape& to) {
  Shape out = to;
  const int lead = to.rank() - shape.rank();
  for (int i = 0; i < to.rank(); ++i) out[i] = i < lead || shape[i - lead] == 1 ? 0 : strides[i - lead];
  return out;
}

std::vector<View> resolve_views(ComputationGraph& graph, const CpuKernel* (*kernel)(const OpDef*)) {
  return Resolver(graph, kernel).run();
}

}  // namespace metal_candle
