// LoRA: x·W + s·((x·A)·B)  =  [x | t]·[W ; B]  with t = s·(x·A)
//
// The scale moves to the narrow side, and the second product becomes a second K segment of the first: the adapter costs
// its operations and no pass over the result. In a longer sum any product may take any such term. The gradient dy·Wᵀ +
// s·((dy·Bᵀ)·Aᵀ) has the same form.
#include <map>

#include "compiler/rewrite.h"
#include "graph/record.h"
#include "ops/table.h"

namespace metal_candle {
namespace {

constexpr std::int64_t kMaxRank = 512;
constexpr int kMaxDepth = 8;

class LoraFolder {
 public:
  explicit LoraFolder(ComputationGraph& graph) : uses_(use_counts(graph)), rewriter_(graph) {}

  void run() {
    int at = -1;
    rewriter_.run([&](GraphNode n) {
      ++at;
      int id = scaled_before(n);
      if (id < 0) id = fold(n);
      if (id < 0) id = rewriter_.add(std::move(n));
      if (static_cast<std::size_t>(id) >= old_uses_.size()) old_uses_.resize(static_cast<std::size_t>(id) + 1, 0);
      old_uses_[static_cast<std::size_t>(id)] = uses_[static_cast<std::size_t>(at)];
      return id;
    });
  }

 private:
  static bool is(const GraphNode& n, Elementwise op) {
    return n.op->kind == OpKind::elementwise && n.op->code == static_cast<std::uint16_t>(op);
  }
  /// s·(x·A) as a fold made it, where a gradient asks for it again; -1 where none did.
  int scaled_before(const GraphNode& n) {
    if (!is(n, Elementwise::mul) || n.inputs.size() != 2) return -1;
    for (std::size_t side = 0; side < 2; ++side) {
      const auto at = scaled_.find({n.inputs[side], n.inputs[1 - side]});
      if (at != scaled_.end() && rewriter_.node(at->second).shape == n.shape &&
          rewriter_.node(at->second).dtype == n.dtype)
        return at->second;
    }
    return -1;
  }
  bool used_once(int id) const {
    return static_cast<std::size_t>(id) < old_uses_.size() && old_uses_[static_cast<std::size_t>(id)] == 1;
  }

  /// The product behind reshapes that are used once, or -1.
  int product(int id) {
    while (rewriter_.node(id).op == &ops::reshape_def && used_once(id)) id = rewriter_.node(id).inputs[0];
    return rewriter_.node(id).op == &ops::matmul_def && used_once(id) ? id : -1;
  }

  /// A low-rank term behind its scale and reshapes; `low` is -1 where there is none.
  struct Term {
    int low = -1, scale = -1;
  };
  Term low_term(int id) {
    Term t;
    while (rewriter_.node(id).op == &ops::reshape_def && used_once(id)) id = rewriter_.node(id).inputs[0];
    if (is(rewriter_.node(id), Elementwise::mul) && used_once(id))
      for (int k = 0; k < 2 && t.scale < 0; ++k) {
        const int number = rewriter_.node(id).inputs[static_cast<std::size_t>(k)];
        if (rewriter_.node(number).shape.numel() != 1 || rewriter_.node(id).shape.numel() == 1) continue;
        t.scale = number;
        id = rewriter_.node(id).inputs[static_cast<std::size_t>(1 - k)];
      }
    t.low = product(id);
    return t;
  }

  int fold(const GraphNode& n) {
    if (!is(n, Elementwise::add) || !is_float(n.dtype)) return -1;
    for (std::size_t side = 0; side < 2; ++side) {
      const int term = n.inputs[side], rest = n.inputs[1 - side];
      if (rewriter_.node(rest).dtype != n.dtype || rewriter_.node(term).dtype != n.dtype) continue;
      const int made = pair(n, term, rest);
      if (made >= 0) return made;
    }
    for (std::size_t side = 0; side < 2; ++side) {
      const int made = reach_in(n, n.inputs[side], n.inputs[1 - side], 0);
      if (made >= 0) return made;
    }
    return -1;
  }

  /// One of the two is a product, the other a low-rank term of the same extents.
  int pair(const GraphNode& n, int x, int y) {
    for (int swap = 0; swap < 2; ++swap, std::swap(x, y)) {
      const int base = product(x);
      if (base < 0) continue;
      const Term t = low_term(y);
      if (t.low < 0 || t.low == base) continue;
      const int made = join(n, base, t.low, t.scale);
      if (made >= 0) return made;
    }
    return -1;
  }

  /// term + ((a + b) + ..) where a product in the sum and the term are a pair: sums of gradients come in any order.
  int reach_in(const GraphNode& n, int term, int sum, int depth) {
    const GraphNode s = rewriter_.node(sum);
    if (depth == kMaxDepth || !is(s, Elementwise::add) || !used_once(sum) || !(s.shape == n.shape) ||
        s.dtype != n.dtype)
      return -1;
    for (std::size_t side = 0; side < 2; ++side) {
      const int inner = s.inputs[side], other = s.inputs[1 - side];
      if (!(rewriter_.node(inner).shape == n.shape) || !(rewriter_.node(other).shape == n.shape)) continue;
      int made = pair(n, term, inner);
      if (made < 0) made = reach_in(n, term, inner, depth + 1);
      if (made < 0) continue;
      mark_used_once(made);
      return rewriter_.add(make_like(n, *n.op, n.dtype, n.shape, {other, made}));
    }
    return -1;
  }
  void mark_used_once(int id) {
    if (static_cast<std::size_t>(id) >= old_uses_.size()) old_uses_.resize(static_cast<std::size_t>(id) + 1, 0);
    old_uses_[static_cast<std::size_t>(id)] = 1;
  }

  int join(const GraphNode& n, int base, int low, int scale) {
    const GraphNode w = rewriter_.node(base), t = rewriter_.node(low);
    if (w.op != &ops::matmul_def || t.op != &ops::matmul_def) return -1;
    const Shape a2 = rewriter_.node(t.inputs[0]).shape, b2 = rewriter_.node(t.inputs[1]).shape;
    const Shape a = rewriter_.node(w.inputs[0]).shape, b = rewriter_.node(w.inputs[1]).shape;
    const std::int64_t rank = a2.dim(-1), k = a.dim(-1);
    const bool plain = b.rank() == 2 && b2.rank() == 2 && b.dim(1) == b2.dim(1);
    if (!plain || rank == 0 || rank > kMaxRank || rank >= k || w.dtype != n.dtype ||
        w.shape.numel() != t.shape.numel() || w.shape.numel() != n.shape.numel() || a.numel() / k != a2.numel() / rank)
      return -1;
    int left = t.inputs[0];
    if (scale >= 0) left = scaled(n, left, scale, t.dtype, a2);
    Shape wanted = a;
    wanted[a.rank() - 1] = rank;
    if (!(a2 == wanted)) {
      Attrs dims;
      for (const auto d : wanted) dims.push(d);
      left = rewriter_.add(make_like(n, ops::reshape_def, t.dtype, wanted, {left}, dims));
    }
    int out =
        rewriter_.add(make_like(w, matmul_lora_def, w.dtype, w.shape, {w.inputs[0], w.inputs[1], left, t.inputs[1]}));
    if (!(n.shape == w.shape)) {
      Attrs dims;
      for (const auto d : n.shape) dims.push(d);
      out = rewriter_.add(make_like(n, ops::reshape_def, n.dtype, n.shape, {out}, dims));
    }
    return out;
  }

  int scaled(const GraphNode& like, int x, int scale, DType dtype, const Shape& shape) {
    const auto [at, fresh] = scaled_.try_emplace({x, scale}, -1);
    if (fresh)
      at->second = rewriter_.add(make_like(like, ops::elementwise_def(Elementwise::mul), dtype, shape, {x, scale}));
    return at->second;
  }

  std::vector<int> uses_, old_uses_;
  std::map<std::pair<int, int>, int> scaled_;  // (narrow product, scale)
  Rewriter rewriter_;
};

}  // namespace

const OpDef matmul_lora_def{.name = "matmul_lora",
                            .kind = OpKind::matmul,
                            .infer = no_infer,
                            .decompose = nullptr,
                            .vjp = NoGrad{},
                            .samples = nullptr,
                            .cpu = nullptr,
                            .code = 1};

void fold_lora(ComputationGraph& graph) {
  if (!any_node(graph, [](const GraphNode& n) { return n.op->kind == OpKind::matmul; })) return;
  LoraFolder(graph).run();
  remove_dead(graph);
}

}  // namespace metal_candle
