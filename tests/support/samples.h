// The samples of ops, under the names that tests use.
#pragma once

#include "ops/samples.h"

namespace metal_candle::test {

using ops::Sample, ops::Samples, ops::samples_of, ops::tensor_of;

}  // namespace metal_candle::test
