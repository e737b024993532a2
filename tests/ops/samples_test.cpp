// The samples of every op of the table, in all modes: its decomposition beside its kernel, its gradient beside differences.
#include <gtest/gtest.h>

#include "metal_candle/op_check.hpp"
#include "ops/table.h"

namespace metal_candle {
namespace {

class EveryOp : public testing::TestWithParam<const OpDef*> {};

TEST_P(EveryOp, DoesWhatItsSamplesAsk) { EXPECT_EQ(check_op(*GetParam()), ""); }

std::vector<const OpDef*> with_samples() {
  std::vector<const OpDef*> list;
  for (const OpDef* op : ops::all())
    if (op->samples && op != &ops::identity_def) list.push_back(op);  // stops gradients by intent
  return list;
}
INSTANTIATE_TEST_SUITE_P(Table, EveryOp, testing::ValuesIn(with_samples()),
                         [](const auto& info) { return std::string(info.param->name); });

}  // namespace
}  // namespace metal_candle
