// What this machine can do at all: the ceilings that other sections compare with.
#include <sys/mman.h>

#include "suite/memory_ceiling.h"
#include "suite/product.h"
#include "suite/suite.h"

namespace bench {
namespace {

constexpr std::size_t kGiB = std::size_t{1} << 30;

/// Seconds until a GiB that nobody had before is there, one thread: the system clears it, and where a host took free
/// memory back, that has to give it again. Every first step and every load pays for what it touches.
double touch_fresh() {
  void* const memory = mmap(nullptr, kGiB, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) return 0;
  madvise(memory, kGiB, MADV_HUGEPAGE);
  const double begin = now();
  for (std::size_t at = 0; at < kGiB; at += 4096) static_cast<volatile char*>(memory)[at] = 1;
  const double seconds = now() - begin;
  munmap(memory, kGiB);
  return seconds;
}

}  // namespace

void limits(Suite& suite) {
  if (const double first = touch_fresh(); first > 0) {
    Row row{"limits", "1 GiB of fresh memory"};
    suite.report.add(row.add("first touch", first, "s").add("once more", touch_fresh(), "s"));
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
