// Row operations, named and written from primitives, forward and with their gradients.
#include <fmt/format.h>

#include "suite/bare_rows.h"
#include "suite/memory_ceiling.h"
#include "suite/ours.h"
#include "suite/suite.h"

namespace bench {
namespace {

using mc::LazyTensor;

struct RowOp {
  const char *name, *peer;
  LazyTensor (*f)(const LazyTensor& x, const LazyTensor& w);
  bool weight_gradient;
  bool composed;  // of several of the peer's operations
  const char* bare = name;
};

LazyTensor softmax_by_hand(const LazyTensor& x, const LazyTensor&) {
  const LazyTensor e = mc::exp(x - mc::max(x, {-1}, true));
  return e / mc::sum(e, {-1}, true);
}

LazyTensor rms_by_hand(const LazyTensor& x, const LazyTensor& w) {
  return x * mc::rsqrt(mc::mean(x * x, {-1}, true) + 1e-6) * w;
}

const RowOp kOps[] = {
    {"softmax", "softmax", [](const LazyTensor& x, const LazyTensor&) { return mc::softmax(x, -1); }, false, false},
    {"rms_norm", "rms_norm", [](const LazyTensor& x, const LazyTensor& w) { return mc::rms_norm(x, w, 1e-6); }, true,
     false},
    {"silu(x)*w", "silu_mul", [](const LazyTensor& x, const LazyTensor& w) { return mc::silu(x) * w; }, false, true},
    {"gelu(x*w+w)", "gelu", [](const LazyTensor& x, const LazyTensor& w) { return mc::gelu_tanh(x * w + w); }, true,
     true},
    {"softmax from primitives", "softmax_by_hand", softmax_by_hand, false, true, "softmax"},
    {"rms_norm from primitives", "rms_by_hand", rms_by_hand, true, true, "rms_norm"},
};

void one(Suite& suite, const RowOp& op, std::int64_t r, std::int64_t c, bool backward) {
  const mc::Tensor x = random_tensor({r, c}), w = random_tensor({c}), dy = random_tensor({r, c});
  const auto work = [&] {
    const LazyTensor y = op.f(x, w);
    if (!backward) {
      y.eval();
      return;
    }
    // PyTorch's forward makes y before its backward starts, so it is asked for here too.
    std::vector<LazyTensor> roots =
        mc::vjp({y}, {dy}, op.weight_gradient ? std::vector<LazyTensor>{x, w} : std::vector<LazyTensor>{x});
    roots.push_back(y);
    mc::eval(roots);
  };
  const bool large = r * c > (1 << 22);
  const std::string shape = fmt::format(" [{},{}]{}", r, c, backward ? " fwd+bwd" : "");
  Contest contest(suite);
  contest.local("ours", work);
  if (const auto by_hand = bare_rows(op.bare + shape)) contest.local("by hand", by_hand);
  if (large) contest.local("copy", best_copy().run);
  const std::string name = fmt::format("rows:{}:{}:{}:{}", op.peer, backward ? "bwd" : "fwd", r, c);
  contest.torch(name, true);
  if (!large || suite.options.full) contest.peer({PeerKind::mlx}, name);  // the slowest by far, and no bound is on it
  contest.run();

  Row row{"rows", op.name + shape};
  contest.describe(row);
  const auto at_least = [&](const std::string& other, double factor, const std::string& what, double bound) {
    row.at_least(what, contest.ratio("ours", other) * factor, bound);
    if (contest.has("by hand")) row.by_hand(contest.ratio("by hand", other) * factor);
  };
  if (large) {
    // Forward: x in, y out. With gradients at least x and dy in, y and dx out.
    const double bytes = static_cast<double>(r * c) * 4 * (backward ? 4 : 2);
    const double factor = bytes / best_copy().bytes;
    row.add("rate", bytes / contest.seconds("ours") * 1e-9, "GB/s");
    row.add("of the best copy", contest.ratio("ours", "copy") * factor);
    if (!backward) at_least("copy", factor, "of the best copy", 0.8);
  }
  if (const auto compiled = contest.fastest("torch compile"); !compiled.empty())
    at_least(compiled, 1, "x " + compiled, 1.3);
  if (const auto eager = contest.fastest("torch eager"); !eager.empty()) {
    if (op.composed) at_least(eager, 1, "x " + eager, 3);
    else row.add("x " + eager, contest.ratio("ours", eager));
  }
  if (contest.has("mlx")) row.add("x mlx", contest.ratio("ours", "mlx"));
  suite.report.add(row.note("kernels: " + kernels_of(work)));
}

}  // namespace

void rows(Suite& suite) {
  for (const auto& [r, c] : {std::pair<std::int64_t, std::int64_t>{128, 1024}, {8192, 4096}})
    for (const bool backward : {false, true})
      for (const RowOp& op : kOps) one(suite, op, r, c, backward);

  // Named and written by hand side by side: the same kernel is the aim.
  for (const int named : {0, 1}) {
    const int by_hand = named + 4;
    const mc::Tensor x = random_tensor({8192, 4096}), w = random_tensor({4096});
    Contest contest(suite);
    contest.local("named", [&] { kOps[named].f(x, w).eval(); });
    contest.local("from primitives", [&] { kOps[by_hand].f(x, w).eval(); }).run();
    Row row{"rows", fmt::format("{} beside primitives", kOps[named].name)};
    contest.describe(row);
    suite.report.add(row.at_least("speed of primitives to named", contest.ratio("from primitives", "named"), 0.9));
  }
}

}  // namespace bench
