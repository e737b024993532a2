// Normalising reductions, so that each is one of the two kinds that kernels know:
//
//   row     over trailing axes: [rows.., cols..] -> [rows.., 1..]
//   column  over one run of axes that leaves trailing axes in place: [batch.., rows.., cols..] -> [batch.., 1..,
//   cols..]
//
// A reduction over other axes becomes a chain of these, innermost first; a large reduction to few values is cut into
// two, so that its first half is wide enough for many threads (sums of fixed parts, in order: the cut depends on shapes
// only). An arg-reduction moves its axis last.
#include <limits>

#include "compiler/rewrite.h"
#include "graph/node.h"
#include "ops/table.h"

namespace metal_candle {
namespace {

constexpr std::int64_t kLongRow = 1 << 16;  // a single row from this on is cut
constexpr std::int64_t kPart = 1 << 12;     // elements of a part

class Normalizer {
 public:
  explicit Normalizer(ComputationGraph& graph) : rewriter_(graph) {}

  void run() {
    rewriter_.run([&](GraphNode n) {
      if (n.op->kind != OpKind::reduce) return rewriter_.add(std::move(n));
      const Shape in = rewriter_.node(n.inputs[0]).shape;
      if (in.numel() == 0) return nothing(n);
      if (n.op->code >= ops::kArgMax) return arg(n, in);
      return chain(n, in);
    });
  }

 private:
  // A sum of nothing is 0, a product 1, a largest value the lowest there is.
  int nothing(const GraphNode& n) {
    GraphNode number = make_like(n, *scalar(0.0).node()->op, DType::f64, Shape{}, {});
    number.literal = n.op->code == ops::kProd ? 1 : 0;
    number.literal_int = static_cast<std::int64_t>(number.literal);
    if (n.op->code == ops::kMax || n.op->code == ops::kMin) {
      const bool low = n.op->code == ops::kMax;
      const double inf = std::numeric_limits<double>::infinity();
      number.literal = low ? -inf : inf;
      const auto bits = 8 * size_of(n.dtype);
      const bool no_sign = n.dtype == DType::u8 || n.dtype == DType::boolean;
      const std::int64_t top = n.dtype == DType::boolean ? 1
                               : no_sign                 ? 255
                                                         : static_cast<std::int64_t>(~std::uint64_t{0} >> (65 - bits));
      number.literal_int = low ? (no_sign ? 0 : -top - 1) : top;
    }
    Attrs attrs{static_cast<std::int64_t>(n.dtype)};
    for (const auto d : n.shape) attrs.push(d);
    return rewriter_.add(make_like(n, ops::full_def, n.dtype, n.shape, {rewriter_.add(std::move(number))}, attrs));
  }

  int reshape(const GraphNode& like, int x, const Shape& to) {
    const GraphNode& n = rewriter_.node(x);
    if (n.shape == to) return x;
    Attrs dims;
    for (const auto d : to) dims.push(d);
    return rewriter_.add(make_like(like, ops::reshape_def, n.dtype, to, {x}, dims));
  }

  int cast(const GraphNode& like, int x, DType to) {
    return rewriter_.add(
        make_like(like, ops::cast_def, to, rewriter_.node(x).shape, {x}, Attrs{static_cast<std::int64_t>(to)}));
  }

  int reduce(const GraphNode& like, int x, const std::vector<int>& axes) {
    const GraphNode& n = rewriter_.node(x);
    Shape to = n.shape;
    Attrs attrs;
    for (const int a : axes) {
      to[a] = 1;
      attrs.push(static_cast<std::int64_t>(a));
    }
    return rewriter_.add(make_like(like, *like.op, n.dtype, to, {x}, attrs));
  }

  // arg-reduction over an inner axis: the axis goes last, and back
  int arg(GraphNode& n, const Shape& in) {
    const int axis = static_cast<int>(n.attrs[0]), last = in.rank() - 1;
    bool trailing = true;
    for (int a = axis + 1; a < in.rank(); ++a) trailing &= in[a] == 1;
    if (trailing) return rewriter_.add(std::move(n));
    Attrs order;
    Shape moved;
    for (int a = 0; a < in.rank(); ++a) {
      if (a == axis) continue;
      order.push(static_cast<std::int64_t>(a));
      moved.push_back(in[a]);
    }
    order.push(static_cast<std::int64_t>(axis));
    moved.push_back(in[axis]);
    const int p =
        rewriter_.add(make_like(n, ops::permute_def, rewriter_.node(n.inputs[0]).dtype, moved, {n.inputs[0]}, order));
    Shape reduced = moved;
    reduced[last] = 1;
    const int r = rewriter_.add(make_like(n, *n.op, n.dtype, reduced, {p}, Attrs{last}));
    return reshape(n, r, n.shape);
  }

  int chain(GraphNode& n, const Shape& in) {
    std::vector<bool> reduced(static_cast<std::size_t>(in.rank()), false);
    for (const auto a : n.attrs.values()) reduced[static_cast<std::size_t>(a)] = true;
    // Halves are added up in f32 from end to end, and rounded once.
    const bool half = n.dtype == DType::bf16 || n.dtype == DType::f16;
    int x = half ? cast(n, n.inputs[0], DType::f32) : n.inputs[0];
    // Runs of reduced axes, innermost first; extents of 1 belong to any run.
    int a = in.rank() - 1;
    bool any = false;
    while (a >= 0) {
      while (a >= 0 && (!reduced[static_cast<std::size_t>(a)] || in[a] == 1)) --a;
      std::vector<int> run;
      while (a >= 0 && (reduced[static_cast<std::size_t>(a)] || in[a] == 1)) {
        if (reduced[static_cast<std::size_t>(a)] && in[a] != 1) run.insert(run.begin(), a);
        --a;
      }
      if (run.empty()) break;
      any = true;
      x = one_run(n, x, run);
    }
    if (!any) x = reduce(n, x, {});
    return reshape(n, half ? cast(n, x, n.dtype) : x, n.shape);
  }

  int one_run(const GraphNode& n, int x, const std::vector<int>& axes) {
    const Shape s = rewriter_.node(x).shape;
    std::int64_t inner = 1, length = 1, outer = 1;
    for (int a = axes.back() + 1; a < s.rank(); ++a) inner *= s[a];
    for (const int a : axes) length *= s[a];
    for (int a = 0; a < axes.front(); ++a) outer *= s[a];
    // Whether a row is cut must not depend on how many there are, or its bits would; so far as that costs nothing.
    const bool few = inner == 1 && outer < 8 && length >= kLongRow;
    if (!few) return reduce(n, x, axes);
    // Rows of the last reduced axis first if that is a fair part, else rows of kPart elements.
    const std::int64_t last = s[axes.back()];
    if (axes.size() > 1 && last >= 64 && length / last >= 8) {
      const int first = reduce(n, x, {axes.back()});
      return reduce(n, first, {axes.begin(), axes.end() - 1});
    }
    std::int64_t part = kPart;
    while (part >= 64 && length % part != 0) part /= 2;
    if (part < 64) return reduce(n, x, axes);
    const int flat = reshape(n, x, Shape{outer, length / part, part});
    const int first = reduce(n, flat, {2});
    const int second = reduce(n, first, {1});
    Shape to = s;
    for (const int a : axes) to[a] = 1;
    return reshape(n, second, to);
  }

  Rewriter rewriter_;
};

}  // namespace

void normalize_reductions(ComputationGraph& graph) {
  if (!any_node(graph, [](const GraphNode& n) { return n.op->kind == OpKind::reduce; })) return;
  Normalizer(graph).run();
  remove_dead(graph);
}

}  // namespace metal_candle
