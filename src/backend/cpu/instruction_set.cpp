// What the kernels of this process are made for: those of row programs, and of products where they have more.
#include "backend/cpu/gemm/gemm.h"
#include "backend/cpu/vm/instr.h"
#include "metal_candle/version.hpp"

namespace metal_candle {

std::string instruction_set() {
  const std::string rows = cpu::vm::vector_kernels().name, products = cpu::gemm_isa_name();
  return rows == products ? rows : rows + ", products " + products;
}

}  // namespace metal_candle
