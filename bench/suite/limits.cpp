// What this machine can do at all: the ceilings that other sections compare with.
#include "suite/memory_ceiling.h"
#include "suite/product.h"
#include "suite/suite.h"

namespace bench {

void limits(Suite& suite) {
  constexpr double kGiB = 1 << 30;
  if (const double first = touch_fresh(kGiB); first > 0) {
    Row row{"limits", "1 GiB of fresh memory"};
    suite.report.add(row.add("first touch", first, "s").add("once more", touch_fresh(kGiB), "s"));
  }
  for (const MemoryLoop* loop : {&best_read(), &best_copy()}) {
    Contest contest(suite);
    contest.local("bare", loop->run).run();
    Row row{"limits", loop == &best_read() ? "read" : "copy (read + written)"};
    row.add("rate", loop->bytes / contest.seconds("bare") * 1e-9, "GB/s");
    contest.describe(row);
    suite.report.add(row.note(loop->name));
  }
  for (const auto dtype : {metal_candle::DType::f32, metal_candle::DType::bf16}) {
    const Product& shape = best_onednn_shape(dtype);
    Contest contest(suite);
    if (const auto work = onednn_product(shape)) contest.local("oneDNN", work);
    contest.local("own GEMM", own_product(shape)).run();
    Row row{"limits", "product " + shape.str()};
    for (const char* name : {"oneDNN", "own GEMM"})
      if (contest.has(name))
        row.add(std::string(name) + " rate", shape.flops() / contest.seconds(name) * 1e-9, "GFLOP/s");
    contest.describe(row);
    suite.report.add(std::move(row));
  }
}

}  // namespace bench
