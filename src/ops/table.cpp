// Every op by name.
#include "ops/table.h"

#include <vector>

namespace metal_candle::ops {
namespace {

constexpr const OpDef* kStructured[] = {
    &where_def,
    &logical_not_def,
    &cast_def,
    &full_def,
    &iota_def,
    &random_uniform_def,
    &random_normal_def,
    &identity_def,
    &sum_def,
    &max_def,
    &min_def,
    &prod_def,
    &argmax_def,
    &argmin_def,
    &reshape_def,
    &permute_def,
    &expand_def,
    &slice_def,
    &take_def,
    &take_along_axis_def,
    &matmul_def,
    &concat_def,
    &pad_def,
    &cumsum_def,
    &sort_def,
    &topk_def,
    &scatter_add_def,
    &set_rows_def,
    &dynamic_slice_def,
    &dynamic_update_slice_def,
    &rotate_def,
    &attention_def,
    &attention_grad_def,
    &linear_cross_entropy_def,
    &linear_cross_entropy_grad_def,
    &clamp_def,
    &mean_def,
    &var_def,
    &logsumexp_def,
    &softmax_def,
    &log_softmax_def,
    &rms_norm_def,
    &layer_norm_def,
    &rope_def,
    &lora_def,
    &cross_entropy_def,
};

std::vector<const OpDef*> collect() {
  std::vector<const OpDef*> defs;
  for (int i = 0; i < static_cast<int>(Elementwise::kCount); ++i)
    defs.push_back(&elementwise_def(static_cast<Elementwise>(i)));
  defs.insert(defs.end(), std::begin(kStructured), std::end(kStructured));
  return defs;
}

}  // namespace

std::span<const OpDef* const> all() {
  static const auto* defs = new std::vector<const OpDef*>(collect());  // never destroyed: plans are made to the end
  return *defs;
}

}  // namespace metal_candle::ops
