// Simplify: local rules that leave every value as it is, bit for bit. Each states its algebra in one line.
#include <bit>
#include <cmath>
#include <utility>

#include "compiler/rewrite.h"
#include "ops/identity.h"
#include "ops/table.h"

namespace metal_candle {
namespace {

class Simplifier {
 public:
  explicit Simplifier(ComputationGraph& graph) : rewriter_(graph) {}

  void run() {
    rewriter_.run([&](GraphNode n) {
      for (auto rule : {&Simplifier::identity, &Simplifier::cast, &Simplifier::view, &Simplifier::number,
                        &Simplifier::neutral, &Simplifier::twice, &Simplifier::single, &Simplifier::bytes}) {
        const int id = (this->*rule)(n);
        if (id >= 0) return id;
      }
      return rewriter_.add(std::move(n));
    });
  }

 private:
  const GraphNode& in(const GraphNode& n, int i) { return rewriter_.node(n.inputs[static_cast<std::size_t>(i)]); }

  static bool is_elementwise(const GraphNode& n, int code) {
    return n.op->kind == OpKind::elementwise && n.op->code == code;
  }
  static bool is_table(const GraphNode& n, Elementwise op) { return is_elementwise(n, static_cast<int>(op)); }

  /// The value of a literal operand (a number, or a `full` of one).
  bool literal(int id, double& value) {
    const GraphNode* n = &rewriter_.node(id);
    if (is_elementwise(*n, ops::kFull)) n = &rewriter_.node(n->inputs[0]);
    if (n->op->kind != OpKind::scalar || n->slot >= 0) return false;
    value = n->integral ? static_cast<double>(n->literal_int) : n->literal;
    return true;
  }

  // stop_gradient(x) = x; checkpoint(y, inputs) = y. Barriers stay until common subexpressions are shared.
  int identity(GraphNode& n) {
    if (!is_elementwise(n, ops::kIdentity) || n.attrs[0] == ops::kBarrier) return -1;
    return n.inputs[0];
  }

  // cast(x, its own type) = x; cast(cast(x, wider float), x's type) = x
  int cast(GraphNode& n) {
    if (!is_elementwise(n, ops::kCast)) return -1;
    const GraphNode& x = in(n, 0);
    if (x.op->kind == OpKind::scalar) return -1;
    if (x.dtype == n.dtype) return n.inputs[0];
    if (!is_elementwise(x, ops::kCast)) return -1;
    const GraphNode& original = in(x, 0);
    const bool widened = is_float(original.dtype) && is_float(x.dtype) && size_of(x.dtype) > size_of(original.dtype);
    return original.dtype == n.dtype && widened && original.op->kind != OpKind::scalar ? x.inputs[0] : -1;
  }

  // A view that changes nothing is its input; reshape(reshape(x)) = reshape(x)
  int view(GraphNode& n) {
    if (n.op->kind != OpKind::view) return -1;
    if (n.op->code == ops::kReshape)
      while (in(n, 0).op == n.op) n.inputs[0] = in(n, 0).inputs[0];
    const bool moves = n.op->code == ops::kPermute && [&] {
      for (int i = 0; i < n.attrs.size(); ++i)
        if (n.attrs[i] != i) return true;
      return false;
    }();
    return !moves && in(n, 0).shape == n.shape && in(n, 0).op->kind != OpKind::scalar ? n.inputs[0] : -1;
  }

  // x ∘ cast(number, x's type) = x ∘ number. Kernels read numbers in the type that they compute in; 16 bits are computed
  // in f32, and there a gradient's number is as exact as the forward pass's, so that both can be one value.
  int number(GraphNode& n) {
    if (n.op->kind != OpKind::elementwise || n.op->code >= static_cast<std::uint16_t>(Elementwise::kCount)) return -1;
    for (std::size_t k = 0; k < 2 && n.inputs.size() == 2; ++k) {
      const GraphNode& c = in(n, static_cast<int>(k));
      const GraphNode& x = in(n, static_cast<int>(1 - k));
      if (is_elementwise(c, ops::kCast) && is_float(c.dtype) && c.dtype == x.dtype &&
          in(c, 0).op->kind == OpKind::scalar && x.shape.rank() > 0)
        n.inputs[k] = c.inputs[0];
    }
    return -1;
  }

  // x·1 = x, 1·x = x, x/1 = x, x-0 = x. Not x+0, which would keep -0.
  int neutral(GraphNode& n) {
    const bool mul = is_table(n, Elementwise::mul), div = is_table(n, Elementwise::div),
               sub = is_table(n, Elementwise::sub);
    if (!mul && !div && !sub) return -1;
    double value;
    auto same = [&](int keep) {
      return in(n, keep).shape == n.shape && in(n, keep).dtype == n.dtype && in(n, keep).op->kind != OpKind::scalar;
    };
    if (literal(n.inputs[1], value) && value == (sub ? 0.0 : 1.0) && !std::signbit(value) && same(0))
      return n.inputs[0];
    if (mul && literal(n.inputs[0], value) && value == 1.0 && same(1)) return n.inputs[1];
    return -1;
  }

  // neg(neg(x)) = x; abs(abs(x)) = abs(x), and so for relu, floor, ceil, round, sign
  int twice(GraphNode& n) {
    if (n.op->kind != OpKind::elementwise || n.inputs.size() != 1 || in(n, 0).op != n.op) return -1;
    if (is_table(n, Elementwise::neg)) return in(n, 0).inputs[0];
    for (auto op : {Elementwise::abs, Elementwise::relu, Elementwise::floor, Elementwise::ceil, Elementwise::round,
                    Elementwise::sign})
      if (is_table(n, op)) return n.inputs[0];
    return -1;
  }

  // sum, max, min and prod over axes of extent 1 = x
  int single(GraphNode& n) {
    if (n.op->kind != OpKind::reduce || n.op->code >= ops::kArgMax) return -1;
    return in(n, 0).shape == n.shape && in(n, 0).dtype == n.dtype ? n.inputs[0] : -1;
  }

  // matmul(cast(a, i32), cast(b, i32)) = matmul(a, b) where a and b are bytes: their sums are i32 anyway.
  int bytes(GraphNode& n) {
    if (n.op != &ops::matmul_def || n.dtype != DType::i32) return -1;
    const int a = cast_of_bytes(n.inputs[0]), b = cast_of_bytes(n.inputs[1]);
    if (a < 0 || b < 0) return -1;
    n.inputs = {without_cast(n.inputs[0], a), without_cast(n.inputs[1], b)};
    return -1;
  }
  /// The cast from i8 or u8 to i32 that it is a view of, or is; -1 if there is none.
  int cast_of_bytes(int id) {
    while (is_plain_view(id)) id = rewriter_.node(id).inputs[0];
    const GraphNode& n = rewriter_.node(id);
    if (!is_elementwise(n, ops::kCast) || n.dtype != DType::i32) return -1;
    const GraphNode& x = in(n, 0);
    return (x.dtype == DType::i8 || x.dtype == DType::u8) && x.op->kind != OpKind::scalar ? id : -1;
  }
  bool is_plain_view(int id) {
    return rewriter_.node(id).op->kind == OpKind::view && rewriter_.node(id).inputs.size() == 1;
  }
  /// The same views of what was cast.
  int without_cast(int id, int cast) {
    std::vector<int> views;
    while (id != cast) views.push_back(std::exchange(id, rewriter_.node(id).inputs[0]));
    id = rewriter_.node(cast).inputs[0];
    for (auto at = views.rbegin(); at != views.rend(); ++at) {
      GraphNode v = rewriter_.node(*at);
      v.dtype = rewriter_.node(id).dtype;
      v.inputs = {id};
      id = rewriter_.add(std::move(v));
    }
    return id;
  }

  Rewriter rewriter_;
};

}  // namespace

void simplify(ComputationGraph& graph) {
  Simplifier(graph).run();
  remove_dead(graph);
}

const OpDef late_view_def{.name = "late",
                          .kind = OpKind::view,
                          .infer = [](const OpCall&, InferResult&) {},
                          .decompose = nullptr,
                          .vjp = NoGrad{},
                          .samples = nullptr,
                          .cpu = nullptr,
                          .code = ops::kReshape};

void drop_barriers(ComputationGraph& graph) {
  const auto identity = [](const GraphNode& n) {
    return n.op->kind == OpKind::elementwise && n.op->code == ops::kIdentity;
  };
  if (!any_node(graph, identity)) return;
  Rewriter rewriter(graph);
  rewriter.run([&](GraphNode n) {
    if (!identity(n)) return rewriter.add(std::move(n));
    const bool barrier = n.attrs[0] == ops::kBarrier && n.inputs.size() > 1;
    if (!barrier || rewriter.node(n.inputs[0]).op->kind == OpKind::scalar) return n.inputs[0];
    n.op = &late_view_def;
    return rewriter.add(std::move(n));
  });
  remove_dead(graph);
}

}  // namespace metal_candle
