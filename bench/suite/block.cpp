// One transformer block, forward and backward, beside the matrix products that it cannot do without.
#include <fmt/format.h>

#include "suite/bare_block.h"
#include "suite/needed.h"
#include "suite/suite.h"
#include "suite/transformer.h"

namespace bench {
void block(Suite& suite) {
  const BlockShape shape;
  for (const auto dtype : {mc::DType::f32, mc::DType::bf16}) {
    BlockStep step(shape, dtype);
    Contest contest(suite);
    contest.local("ours", [&] { step.run(); });
    const BareWork by_hand = bare_block(step, shape, dtype);
    if (by_hand.run) contest.local("bare kernels", by_hand.run);
    contest.torch("block:" + dtype_name(dtype), suite.options.full);
    BareProducts products(suite, products_of(shape, dtype));
    for (int i = 0; i < 2; ++i) products.run(contest);
    products.report("block");
    const BareProducts::Sum bare = products.sum();
    Row row{"block", "SmolLM2-135M block, LoRA r16, " + dtype_name(dtype)};
    contest.describe(row);
    row.add("rate", bare.flops / contest.seconds("ours") * 1e-9, "GFLOP/s");
    row.add("its matmuls, own GEMM", bare.own, "s").add("its matmuls, oneDNN", bare.onednn, "s");
    row.add("its matmuls, the better of each", bare.better, "s");
    row.at_most("of its matmuls", products.times(contest, "ours"), 1.15);
    if (by_hand.run) row.by_hand(products.times(contest, "bare kernels")).note(by_hand.parts());
    for (const char* peer : {"torch eager", "torch compile"})
      if (const auto best = contest.fastest(peer); !best.empty()) row.add("x " + best, contest.ratio("ours", best));
    suite.report.add(row.note(longest_kernels([&] { step.run(); })));
  }
}

}  // namespace bench
