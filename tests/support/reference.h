// The plainest evaluator there can be: walks the recorded graph, every value a double, every op a loop over elements,
// nothing fused, nothing reused from the library's kernels. What the ops mean, to compare kernels and plans with.
//
// Floats of every type are doubles here and are not rounded, except by a cast; integers are exact below 2^53. Random
// ops and attention's kernels are not known to it; composite ops are evaluated through their decomposition.
#pragma once

#include <vector>

#include "metal_candle/lazy_tensor.hpp"

namespace metal_candle::test {

/// The elements in row-major order.
std::vector<double> reference(const LazyTensor& tensor);

}  // namespace metal_candle::test
