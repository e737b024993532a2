// What the library itself costs: a chain of 2,000 operations on 16 numbers.
#include "suite/ours.h"
#include "suite/suite.h"

namespace bench {
namespace {

constexpr int kPairs = 1000;

mc::LazyTensor chain(const mc::LazyTensor& x) {
  mc::LazyTensor y = x;
  for (int i = 0; i < kPairs; ++i) y = y * 1.0001 + 0.1;
  return y;
}

}  // namespace

void tiny(Suite& suite) {
  constexpr double ops = 2.0 * kPairs;
  const mc::Tensor x = random_tensor({16});
  const int turns = suite.options.full ? 300 : 60;

  std::vector<double> first, record, execute, drop;
  for (int i = 0; i < 5; ++i) {
    mc::clear_plan_cache();
    const mc::LazyTensor y = chain(x);
    const double begin = stopwatch();
    y.eval();
    first.push_back(stopwatch() - begin);
  }
  for (int i = 0; i < turns; ++i) {
    const double begin = stopwatch();
    mc::LazyTensor y = chain(x);
    const double recorded = stopwatch();
    y.eval();
    const double executed = stopwatch();
    y = {};
    record.push_back((recorded - begin) / ops);
    execute.push_back((executed - recorded) / ops);
    drop.push_back((stopwatch() - executed) / ops);
  }

  Contest contest(suite);
  contest.local("ours", [&] { chain(x).eval(); });
  contest.local("ours, eager", [&] {
    const mc::EagerMode guard;
    chain(x).eval();
  });
  contest.peer({PeerKind::torch_eager}, "tiny").peer({PeerKind::mlx}, "tiny:evaluate");
  if (suite.options.full) contest.peer({PeerKind::torch_compile}, "tiny");
  contest.run();

  Row row{"tiny", "chain of 2,000 ops on 16 floats"};
  contest.describe(row);
  row.add("record an op", median(record), "s").add("capture, look up, execute an op", median(execute), "s");
  row.add("drop an op", median(drop), "s").add("first evaluation", median(first), "s");
  for (const char* name : {"ours, eager", "torch eager", "mlx", "torch compile"})
    if (contest.has(name)) row.add(std::string(name) + " an op", contest.seconds(name) / ops, "s");
  row.at_most("ns to record an op", median(record) * 1e9, 80);
  row.at_most("ns to capture, look up and execute an op", median(execute) * 1e9, 60);
  row.at_most("ms of the first evaluation", median(first) * 1e3, 50);
  suite.report.add(std::move(row));
}

}  // namespace bench
