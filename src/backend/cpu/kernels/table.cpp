#include "backend/cpu/kernels/table.h"

#include "backend/cpu/kernels/attention.h"
#include "backend/cpu/kernels/concat.h"
#include "backend/cpu/kernels/cumsum.h"
#include "backend/cpu/kernels/dynamic_slice.h"
#include "backend/cpu/kernels/linear_cross_entropy.h"
#include "backend/cpu/kernels/pad.h"
#include "backend/cpu/kernels/rotate.h"
#include "backend/cpu/kernels/scatter_add.h"
#include "backend/cpu/kernels/set_rows.h"
#include "backend/cpu/kernels/sort.h"
#include "backend/cpu/kernels/topk.h"
#include "ops/table.h"

namespace metal_candle::cpu {

const CpuKernel* builtin_kernel(const OpDef* op) {
  static constexpr struct {
    const OpDef* op;
    const CpuKernel* kernel;
  } kRows[] = {
      {&ops::concat_def, &concat_kernel},
      {&ops::pad_def, &pad_kernel},
      {&ops::cumsum_def, &cumsum_kernel},
      {&ops::sort_def, &sort_kernel},
      {&ops::topk_def, &topk_kernel},
      {&ops::scatter_add_def, &scatter_add_kernel},
      {&ops::set_rows_def, &set_rows_kernel},
      {&ops::dynamic_slice_def, &dynamic_slice_kernel},
      {&ops::dynamic_update_slice_def, &dynamic_update_slice_kernel},
      {&ops::rotate_def, &rotate_kernel},
      {&ops::attention_def, &attention_kernel},
      {&ops::attention_grad_def, &attention_grad_kernel},
      {&ops::linear_cross_entropy_def, &linear_cross_entropy_kernel},
      {&ops::linear_cross_entropy_grad_def, &linear_cross_entropy_grad_kernel},
  };
  for (const auto& row : kRows)
    if (row.op == op) return row.kernel;
  return nullptr;
}

}  // namespace metal_candle::cpu
