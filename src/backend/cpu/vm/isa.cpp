// The table of vector kernels for this machine, or for the instruction set that a test asks for.
#include "backend/cpu/vm/targets.h"

#include <atomic>
#include <string>

#include "hwy/highway.h"
#include "hwy/targets.h"

#include "backend/cpu/vm/instr.h"
#include "backend/cpu/vm/kernel_parts.h"
#include "backend/cpu/vm/vm.h"
#include "metal_candle/error.hpp"

namespace metal_candle::cpu {
namespace vm {
namespace {

VectorKernels make_table() {
  VectorKernels table{};
  fill_map_f32(table);
  fill_pair_f32(table);
  fill_row_f32(table);
  fill_map_reduce_f32(table);
  fill_twin_f32(table);
  fill_memory(table);
  return table;
}

std::atomic<const VectorKernels*> forced{nullptr};

}  // namespace

void table_is_full(const char* list) { throw InternalError(std::string("too few places for the kernels' ") + list); }

const VectorKernels& vector_kernels() {
  if (const VectorKernels* table = forced.load(std::memory_order_acquire)) return *table;
  static const VectorKernels best = make_table();
  return best;
}

}  // namespace vm

const char* set_isa_for_test(int index) {
  static vm::VectorKernels table;  // one at a time: programs lowered before hold pointers to kernels, not to the table
  vm::vector_kernels();
  vm::forced = nullptr;
  if (index < 0) return vm::vector_kernels().name;
  std::int64_t targets = hwy::SupportedTargets() & HWY_TARGETS;
  for (int i = 0; i < index; ++i) targets &= targets - 1;
  targets &= -targets;
  if (targets == 0) return nullptr;
  hwy::SetSupportedTargetsForTest(targets);
  hwy::GetChosenTarget().DeInit();
  table = vm::make_table();
  hwy::SetSupportedTargetsForTest(0);
  hwy::GetChosenTarget().DeInit();
  vm::forced = &table;
  return table.name;
}

}  // namespace metal_candle::cpu
