// Row programs that nobody named: two reductions in one, two outputs, a reduction that feeds a gather.
#include <fmt/format.h>

#include "suite/bare_rows.h"
#include "suite/memory_ceiling.h"
#include "suite/ours.h"
#include "suite/suite.h"

namespace bench {
namespace {

using mc::LazyTensor;
constexpr std::int64_t kRows = 8192, kCols = 4096, kWidth = 576;

struct Program {
  const char *name, *peer;
  double read, written;  // bytes that have to move
  std::function<std::vector<LazyTensor>()> record;
};

void one(Suite& suite, const Program& program) {
  const auto work = [&] { mc::eval(program.record()); };
  Contest contest(suite);
  if (const auto by_hand = bare_rows(program.name)) contest.local("by hand", by_hand);
  contest.local("ours", work).local("copy", best_copy().run).local("read", best_read().run);
  contest.torch(fmt::format("programs:{}:{}:{}:{}", program.peer, kRows, kCols, kWidth), true).run();
  const double limit = traffic_limit(program.read, program.written, best_read().bytes / contest.seconds("read"),
                                     best_copy().bytes / contest.seconds("copy"));
  Row row{"row_programs", program.name};
  contest.describe(row);
  row.add("traffic limit", limit, "s");
  row.at_least("of the traffic limit", limit / contest.seconds("ours"), 0.8);
  if (contest.has("by hand")) row.by_hand(limit / contest.seconds("by hand"));
  for (const char* peer : {"torch eager", "torch compile"})
    if (const auto best = contest.fastest(peer); !best.empty()) row.add("x " + best, contest.ratio("ours", best));
  suite.report.add(row.note("kernels: " + kernels_of(work)));
}

}  // namespace

void row_programs(Suite& suite) {
  const mc::Tensor x = random_tensor({kRows, kCols}), residual = random_tensor({kRows, kCols});
  const mc::Tensor w = random_tensor({kCols}), table = random_tensor({kCols, kWidth});
  const double matrix = 4.0 * kRows * kCols, gathered = 4.0 * kRows * kWidth;
  one(suite, {"two reductions", "two_reductions", matrix, matrix,
              [&] { return std::vector{(x - mc::mean(x, {-1}, true)) / (mc::max(mc::abs(x), {-1}, true) + 1e-6)}; }});
  one(suite, {"two outputs", "two_outputs", 2 * matrix, 2 * matrix, [&] {
                const LazyTensor h = x + residual;
                return std::vector{h, h * mc::rsqrt(mc::mean(h * h, {-1}, true) + 1e-6) * w};
              }});
  one(suite, {"reduction feeding a gather", "gather", matrix + gathered, gathered,
              [&] { return std::vector{mc::take(table, mc::argmax(x, -1)) * 2.0}; }});
}

}  // namespace bench
