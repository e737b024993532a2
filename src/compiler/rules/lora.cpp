// LoRA: x·W + s·((x·A)·B)  =  [x | t]·[W ; B]  with t = s·(x·A)
//
// The scale moves to the narrow side, and the second product becomes a second K segment of the first: the adapter costs
// its operations and no pass over the result. The gradient dy·Wᵀ + s·((dy·Bᵀ)·Aᵀ) has the same form.
#include "compiler/rewrite.h"
#include "ops/table.h"

namespace metal_candle {
namespace {

constexpr std::int64_t kMaxRank = 512;

void no_infer(const OpCall&, InferResult&) {}

class LoraFolder {
 public:
  explicit LoraFolder(ComputationGraph& graph) : uses_(use_counts(graph)), rewriter_(graph) {}

  void run() {
    int at = -1;
    rewriter_.run([&](GraphNode n) {
      ++at;
      const int folded = fold(n);
      const int id = folded >= 0 ? folded : rewriter_.add(std::move(n));
      if (static_cast<std::size_t>(id) >= old_uses_.size()) old_uses_.resize(static_cast<std::size_t>(id) + 1, 0);
      old_uses_[static_cast<std::size_t>(id)] = uses_[static_cast<std::size_t>(at)];
      return id;
    });
  }

 private:
  static bool is(const GraphNode& n, Elementwise op) {
    return n.op->kind == OpKind::elementwise && n.op->code == static_cast<std::uint16_t>(op);
  }
  bool used_once(int id) const { return old_uses_[static_cast<std::size_t>(id)] == 1; }

  /// The product behind reshapes that are used once, or -1.
  int product(int id) {
    while (rewriter_.node(id).op == &ops::reshape_def && used_once(id)) id = rewriter_.node(id).inputs[0];
    return rewriter_.node(id).op == &ops::matmul_def && used_once(id) ? id : -1;
  }

  int fold(const GraphNode& n) {
    if (!is(n, Elementwise::add) || !is_float(n.dtype)) return -1;
    for (int side = 0; side < 2; ++side) {
      const int base = product(n.inputs[static_cast<std::size_t>(side)]);
      int term = n.inputs[static_cast<std::size_t>(1 - side)];
      if (base < 0 || rewriter_.node(term).dtype != n.dtype) continue;
      while (rewriter_.node(term).op == &ops::reshape_def && used_once(term)) term = rewriter_.node(term).inputs[0];
      int scale = -1;
      if (is(rewriter_.node(term), Elementwise::mul) && used_once(term))
        for (int k = 0; k < 2 && scale < 0; ++k)
          if (rewriter_.node(rewriter_.node(term).inputs[static_cast<std::size_t>(k)]).shape.numel() == 1 && rewriter_.node(term).shape.numel() != 1) {
            scale = rewriter_.node(term).inputs[static_cast<std::size_t>(k)];
            term = rewriter_.node(term).inputs[static_cast<std::size_t>(1 - k)];
          }
      const int low = product(term);
      if (low < 0 || low == base) continue;
      const int made = join(n, base, low, scale);
      if (made >= 0) return made;
    }
    return -1;
  }

  int join(const GraphNode& n, int base, int low, int scale) {
    const GraphNode w = rewriter_.node(base), t = rewriter_.node(low);
    const Shape a2 = rewriter_.node(t.inputs[0]).shape, b2 = rewriter_.node(t.inputs[1]).shape;
    const Shape a = rewriter_.node(w.inputs[0]).shape, b = rewriter_.node(w.inputs[1]).shape;
    const std::int64_t rank = a2.dim(-1), k = a.dim(-1);
    const bool plain = b.rank() == 2 && b2.rank() == 2 && b.dim(1) == b2.dim(1);
    if (!plain || rank > kMaxRank || rank >= k || w.dtype != n.dtype || w.shape.numel() != t.shape.numel() ||
        w.shape.numel() != n.shape.numel() || a.numel() / k != a2.numel() / rank)
      return -1;
    int left = t.inputs[0];
    if (scale >= 0) left = rewriter_.add(make_like(n, ops::elementwise_def(Elementwise::mul), t.dtype, a2, {left, scale}));
    Shape wanted = a;
    wanted[a.rank() - 1] = rank;
    if (!(a2 == wanted)) {
      Attrs dims;
      for (const auto d : wanted) dims.push(d);
      left = rewriter_.add(make_like(n, ops::reshape_def, t.dtype, wanted, {left}, dims));
    }
    int out = rewriter_.add(make_like(w, matmul_lora_def, w.dtype, w.shape, {w.inputs[0], w.inputs[1], left, t.inputs[1]}));
    if (!(n.shape == w.shape)) {
      Attrs dims;
      for (const auto d : n.shape) dims.push(d);
      out = rewriter_.add(make_like(n, ops::reshape_def, n.dtype, n.shape, {out}, dims));
    }
    return out;
  }

  std::vector<int> uses_, old_uses_;
  Rewriter rewriter_;
};

}  // namespace

const OpDef matmul_lora_def{.name = "matmul_lora", .kind = OpKind::matmul, .infer = no_infer, .decompose = nullptr,
                            .vjp = NoGrad{}, .samples = nullptr, .cpu = nullptr, .code = 1};

void fold_lora(ComputationGraph& graph) {
  LoraFolder(graph).run();
  remove_dead(graph);
}

}  // namespace metal_candle
