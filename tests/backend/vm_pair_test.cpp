// Two elementwise ops in one instruction: every pair in the table of every instruction set, beside the same ops one by
// one. The same bits, at any width.
#include "backend/cpu/vm/instr.h"
#include "vm_harness.h"

namespace metal_candle::test {
namespace {

using cpu::vm::Form;
using cpu::vm::PairForm;

/// Buffers: two operands by element, two by row, the result; and the first op's, which keeps the ops apart.
KernelProgram two_ops(const cpu::vm::Pair& pair, std::int64_t rows, std::int64_t cols, bool apart) {
  ProgramBuilder b({rows});
  b.stage(cols);
  const int x = b.load(b.dense(0)), z = b.load(b.dense(1)), row = b.load(b.per_row(2), false),
            other = b.load(b.per_row(3), false);
  const bool unary = info(pair.first).cls == ElementwiseClass::unary;
  const int first = unary                          ? b.map(pair.first, x)
                    : pair.first_form == Form::kVV ? b.map(pair.first, x, z)
                    : pair.first_form == Form::kVS ? b.map(pair.first, x, row)
                                                   : b.map(pair.first, row, x);
  int second = -1;
  switch (pair.form) {
    case PairForm::then_v: second = b.map(pair.second, first, z); break;
    case PairForm::then_s: second = b.map(pair.second, first, other); break;
    case PairForm::from_v: second = b.map(pair.second, z, first); break;
    case PairForm::from_s: second = b.map(pair.second, other, first); break;
    case PairForm::alone: second = b.map(pair.second, first); break;
  }
  b.store(second, b.dense(4));
  if (apart) b.store(first, b.dense(5));
  return b.done();
}

TEST(VmPair, SameBitsAsOneByOne) {
  for_each_isa([] {
    const cpu::vm::VectorKernels& kernels = cpu::vm::vector_kernels();
    for (int i = 0; i < kernels.pair_count; ++i) {
      const cpu::vm::Pair& pair = kernels.pairs[i];
      SCOPED_TRACE(std::string(info(pair.first).name) + " in form " + std::to_string(pair.first_form) + ", then " +
                   std::string(info(pair.second).name) + " in form " + std::to_string(static_cast<int>(pair.form)));
      for (const std::int64_t cols : {1, 17, 64, 333, 4100}) {
        const std::int64_t rows = 3;
        Case c{two_ops(pair, rows, cols, true),
               {random_array(DType::f32, rows * cols, -3, 3, 1), random_array(DType::f32, rows * cols, 0.5, 3, 2),
                random_array(DType::f32, rows, -3, 3, 3), random_array(DType::f32, rows, 0.5, 3, 4),
                Array(DType::f32, rows * cols), Array(DType::f32, rows * cols)},
               {}};
        const double far[] = {90, -90, 3e38, -3e38, 0, -0.0, 1e-42};
        for (std::int64_t at = 5; at < rows * cols; at += 41) c.buffers[0].set(at, far[at % 7]);
        const Array want = execute(c)[4];
        c.program = two_ops(pair, rows, cols, false);
        ASSERT_EQ(execute(c)[4].bytes, want.bytes) << cols << " columns";
      }
    }
  });
}

}  // namespace
}  // namespace metal_candle::test
