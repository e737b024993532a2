// From token vectors to one vector a text, and what follows it: graph, not yet computed.
#pragma once

#include "embeddings/batches.h"
#include "embeddings/pipeline.h"
#include "metal_candle/lazy_tensor.hpp"

namespace metal_candle::embeddings {

/// hidden [t, width] to [slots, modes · width] f32; zeros where nothing is pooled.
LazyTensor pool(const Pooling& pooling, const LazyTensor& hidden, const Packed& packed);
/// Throws FileError where the widths of pooling and steps do not fit each other, else the last one.
std::int64_t final_width(const Pipeline& pipeline, std::int64_t backbone_width);
LazyTensor apply(const Step& step, const LazyTensor& x);
/// Rows scaled to length 1; those of length 0 stay.
LazyTensor unit_length(const LazyTensor& x);

}  // namespace metal_candle::embeddings
